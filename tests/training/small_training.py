"""A very small system for tests of the training step, with random parameters and inputs."""

import functools
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.config.options import (
    Config,
    DataConfig,
    DiffusionConfig,
    EncodersConfig,
    GramConfig,
    ModelConfig,
    OptimizerConfig,
)
from colorize_jax.setup.networks import build_train_system
from colorize_jax.training.augment import StepRandomness
from colorize_jax.training.step import pair
from colorize_jax.types import Encoded

BATCH, SIDE, LATENT, TOKENS = 4, 32, 8, 16

# Blocks 1..8, two a stack: encoder, middle, decoder, decoder. The last Gram block, 5, is the first
# of its stack. There is one level: more would compile for longer and test the same.
MODEL = ModelConfig(
    model_channels=32,
    channel_mult=(1,),
    num_res_blocks=1,
    transformer_depth=(2,),
    head_dim=16,
    context_channels=24,
    vector_channels=16,
    hint_blocks=(0, 1),
    sketch_head_dim=16,
    sketch_strides=(2, 2, 1),
    context_tokens=TOKENS,
    projection_head_dim=16,
)
ENCODERS = EncodersConfig(
    autoencoder="patch",
    reference="patch",
    scaling_factor=0.5,
    patch_size=4,
    reference_image_size=16,
    reference_patch_size=4,
    reference_features=("mean", "std"),
    dtype="float32",
)
DATA = DataConfig(batch_size=BATCH, height=SIDE, width=SIDE)


def make_train_system(*, gram=(), diffusion=(), optimizer=(), total_steps=4):
    """The system; keywords are pairs or dictionaries of options that differ."""
    gram = {"blocks": (1, 5), "zero_share": 0.4} | dict(gram)
    config = Config(
        total_steps=total_steps,
        model=MODEL,
        encoders=ENCODERS,
        data=DATA,
        gram=GramConfig(**gram),
        diffusion=DiffusionConfig(**dict(diffusion)),
        optimizer=OptimizerConfig(**({"learning_rate": 1e-3} | dict(optimizer))),
    )
    return build_train_system(config)


@functools.cache
def channels():
    """C of the reference tokens."""
    return make_train_system().encoders.clip.channels


def normal(seed, shape, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def random_tree(abstract, seed=0):
    """Random parameters everywhere, so that no gradient vanishes; they keep activations' scale.

    Parameters that shift whole channels are small: a norm over single channels removes such a
    shift, which costs precision if it is large.
    """

    def value(path, leaf):
        name = "/".join(str(entry.key) for entry in path)
        stacked = "transformer_blocks" in name
        fan_in = math.prod(leaf.shape[stacked:-1]) or 1
        small = 0.05 if name.endswith("bias") or "emb_layers" in name else 1.0
        return normal((seed, zlib.crc32(name.encode())), leaf.shape, small * fan_in**-0.5)

    return jax.tree_util.tree_map_with_path(value, abstract)


def make_params(seed=0):
    """Random parameters of the trained networks."""
    tokens = jax.ShapeDtypeStruct((1, TOKENS, channels()), jnp.float32)
    init = make_train_system().colorizer.init
    return random_tree(jax.eval_shape(init, jax.random.key(0), tokens, tokens), seed)


def make_inputs(batch=BATCH):
    """Random inputs of a step whose samples keep and lose different conditions."""
    latents = (batch, LATENT, LATENT, make_train_system().colorizer.unet.in_channels)
    encoded = Encoded(
        normal(1, latents),
        normal(2, (batch, TOKENS, channels())),
        normal(3, (batch, TOKENS, channels())),
    )
    random = StepRandomness(
        timesteps=jnp.arange(batch) * 999 // max(batch - 1, 1),
        noise=normal(4, latents),
        keep_reference=jnp.ones(batch).at[1].set(0.0),
        keep_hints=jnp.ones((batch, 2)).at[0, 1].set(0.0),
    )
    mask = (normal(5, (batch, SIDE, SIDE, 1)) > 0).astype(jnp.float32)
    return pair(encoded, normal(6, (batch, SIDE, SIDE, 3)), normal(7, (batch, 16)), random, mask)


def make_record(batch=BATCH, seed=0):
    """A batch as a loader gives it."""
    random = np.random.default_rng(seed)
    pictures = {"image": 3, "sketch": 1, "reference": 3, "sketch_mask": 1, "reference_mask": 1}
    record = {
        name: random.integers(0, 256, (batch, SIDE, SIDE, count), np.uint8)
        for name, count in pictures.items()
    }
    return record | {
        "size": np.full(batch, 512, np.float32),
        "aesthetic_score": np.linspace(3, 7, batch, dtype=np.float32),
    }
