"""From a `Config` to the networks and constants of a run."""

from typing import Any

import jax
import jax.numpy as jnp

from colorize_jax.config.options import Config
from colorize_jax.diffusion.schedule import make_schedule
from colorize_jax.inference.batches import Colorize, make_colorize
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.system import System
from colorize_jax.io.formats.weights_folder import WeightsMetadata
from colorize_jax.io.published import noise_schedules
from colorize_jax.io.published.torch_names import PREFIXES
from colorize_jax.models.architectures import REFINEMENT_KIND, build, published_config
from colorize_jax.models.background_encoder import NUM_MASKS
from colorize_jax.models.colorizer import TRAINED_NETWORKS, Colorizer
from colorize_jax.models.frozen.patch import PatchAutoencoder
from colorize_jax.models.unet import UNet, touch
from colorize_jax.nn.remat import POLICIES
from colorize_jax.setup.encoders import build_encoders, patch_encoder
from colorize_jax.training.gram_blocks import GramBlocks
from colorize_jax.training.optim import learning_rate, make_optimizer
from colorize_jax.training.step import TrainSystem
from colorize_jax.types import Array, Params


def build_colorizer(config: Config) -> Colorizer:
    """Build the trained networks.

    Raises:
        UserError: no network can have this configuration.
    """
    configs, dtype = network_configs(config), jnp.dtype(config.model.dtype)
    attention = {"implementation": config.model.attention}
    unet, sketch_encoder, projection = (
        build(name, configs[name], dtype=dtype).clone(**attention) for name in TRAINED_NETWORKS
    )
    # Hints near zero keep what a pretrained UNet predicts; training from scratch needs larger ones.
    sketch_encoder = sketch_encoder.clone(near_zero_hints=bool(config.model.init_from))
    unet = unet.clone(
        remat=POLICIES[config.model.remat],
        block_loop=config.model.block_loop,
        products=config.model.products,
    )
    return Colorizer(unet, sketch_encoder, projection)


def build_background_encoder(config: Config) -> UNet:
    """Build the plugin's encoder, which the second stage trains."""
    own = network_configs(config)["background_encoder"]
    encoder = build("background_encoder", own, dtype=jnp.dtype(config.model.dtype))
    return encoder.clone(
        implementation=config.model.attention,
        remat=POLICIES[config.model.remat],
        block_loop=config.model.block_loop,
    )


def network_configs(config: Config) -> dict[str, dict[str, Any]]:
    """Return the configuration (see `models.architectures`) of every network with parameters."""
    model, encoders = config.model, config.encoders
    pictures = encoders.autoencoder == "patch"
    latents = PatchAutoencoder(encoders.patch_size).latent_channels if pictures else 4
    shape = {"model_channels": model.model_channels, "channel_mult": list(model.channel_mult)}
    configs = {
        "unet": shape
        | {
            "num_res_blocks": model.num_res_blocks,
            "transformer_depth": list(model.transformer_depth),
            "norm_groups": model.norm_groups,
            "head_dim": model.head_dim,
            "context_channels": model.context_channels,
            "vector_channels": model.vector_channels,
            "in_channels": latents,
            "out_channels": latents,
            "hint_blocks": list(model.hint_blocks),
            "loras": [list(pair) for pair in model.loras],
            "foreground_channels": model.foreground_channels,
        },
        "sketch_encoder": shape
        | {
            "head_dim": model.sketch_head_dim,
            "strides": list(model.sketch_strides),
            "stem_channels": list(model.sketch_stem_channels),
            "color_hints": model.hints,
        },
        "reference_projection": {
            "num_tokens": model.context_tokens,
            "context_channels": model.context_channels,
            "head_dim": model.projection_head_dim,
        },
    }
    if config.refine.enabled:
        unet = configs["unet"]
        kept = ("num_res_blocks", "transformer_depth", "norm_groups", "head_dim")
        configs["background_encoder"] = shape | {
            **{name: unet[name] for name in kept},
            "vector_channels": config.refine.vector_channels,
            "in_channels": latents + NUM_MASKS,
            "num_output_blocks": num_output_blocks(config),
        }
    if encoders.reference == "patch":
        channels = patch_encoder(config).channels
        widths = {"clip_channels": channels, "tagger_channels": channels}
        configs["reference_projection"] |= widths
    else:
        configs |= {name: published_config(name) for name in ("clip_vision", "tagger")}
    if not pictures:
        configs["vae"] = published_config("vae")
    return {name: published_config(name) | own for name, own in configs.items()}


def num_output_blocks(config: Config) -> int:
    """Decoder blocks of a background encoder: up to its last transformer, and one if there is one.

    The published encoder has that one, although nothing reads it.
    """
    model = config.model
    levels = len(model.channel_mult)
    finest = next(level for level, depth in enumerate(model.transformer_depth) if depth)
    a_level = model.num_res_blocks + 1
    return min((levels - finest) * a_level + 1, levels * a_level)


def build_train_system(config: Config) -> TrainSystem:
    """Build all that a training step needs beside state, batch and key.

    Raises:
        UserError: as for the networks.
    """
    diffusion, options = config.diffusion, config.optimizer
    rate = learning_rate(
        options.learning_rate,
        config.total_steps,
        schedule=options.schedule,
        warmup_steps=options.warmup_steps,
        final_share=options.final_share,
    )
    optimizer = make_optimizer(
        rate,
        name=options.name,
        b1=options.b1,
        b2=options.b2,
        eps=options.eps,
        weight_decay=options.weight_decay,
        no_decay=options.no_decay,
        groups=options.groups,
        clip_norm=options.clip_norm,
        moment_dtype=jnp.dtype(options.moment_dtype),
    )
    schedule = make_schedule(
        diffusion.beta_start,
        diffusion.beta_end,
        diffusion.num_timesteps,
        diffusion.zero_terminal_snr,
    )
    colorizer, encoders = build_colorizer(config), build_encoders(config)
    background_encoder = build_background_encoder(config) if config.refine.enabled else None
    system = TrainSystem(colorizer, encoders, schedule, rate, optimizer, config, background_encoder)
    if config.gram.maximum:
        GramBlocks(colorizer, config.gram)  # raises if a block does not exist
    return system


def inference_system(system: TrainSystem) -> System:
    """The networks of a training run as inference knows them."""
    return System(
        system.colorizer,
        system.encoders,
        system.schedule,
        system.config.diffusion.prediction_type,
        system.background_encoder,
    )


def build_colorize(system: TrainSystem, *, plugin: bool = True) -> Colorize:
    """Compile the colouring of batches as the run's config samples.

    Args:
        system: of the run.
        plugin: of the second stage, whether the plugin takes part.

    Raises:
        UserError: there is no such sampler or schedule.
    """
    options = InferenceOptions.from_config(system.config.sampling)
    if plugin and system.background_encoder is not None:
        options = options.replace(background_plugin=True)
    return make_colorize(inference_system(system), options)


def random_params(system: TrainSystem, key: Array) -> Params:
    """Random parameters of a run's networks, trained and frozen; call it in jit or `eval_shape`.

    Args:
        system: static.
        key: of the run.
    """
    encoders, colorizer = system.encoders, system.colorizer
    tokens = jax.eval_shape(
        lambda: encoders.encode_reference(encoders.init(key), jnp.zeros((1, 64, 64, 3)))
    )
    params = colorizer.init(key, *tokens)
    if needs_encoders(system.config):
        params |= encoders.init(key)
    if system.background_encoder is not None:
        module = system.background_encoder
        own = module.init(jax.random.fold_in(key, 1), *touch(module))
        params["background_encoder"] = own["params"]
    if system.config.gram.anchor:
        params["anchor"] = colorizer.init(key, *tokens)
    return params


def needs_encoders(config: Config) -> bool:
    """Whether a run has the frozen encoders: not where it trains from their results."""
    return config.data.source != "encoded"


def weights_metadata(config: Config) -> WeightsMetadata:
    """Describe the weights of a run, for export and inference."""
    configs = network_configs(config)
    return WeightsMetadata(
        kind=REFINEMENT_KIND if config.refine.enabled else "colorizer",
        configs=configs,
        prefixes={name: PREFIXES[name] for name in configs},
        prediction_type=config.diffusion.prediction_type,
        scaling_factor=config.encoders.scaling_factor,
        schedule=noise_schedules.record(config.diffusion),
        size=[config.data.height, config.data.width],
    )
