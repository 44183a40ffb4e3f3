"""The training step of both stages, on one page.

    encode    batch -> latents, reference tokens            frozen, outside the gradient
    corrupt   latents + noise -> noisy, once                 both branches see the same
    aligned   noisy, hints, own reference -> prediction      diffusion loss, Gram constants
    misaligned noisy, hints, another's reference -> features Gram loss (`branches`)
    update    AdamW, running average

While the Gram weight is zero the misaligned branch is left out: a step is compiled with and without
it, and the loop, which knows the weight's schedule, runs the one that the step needs.

The second stage is the same step with a background beside the reference: `refinement` cuts it out
of the batch and turns it into controls of the UNet. The colorizer itself is frozen then, by the
rules that select trained parameters.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from colorize_jax.conditioning import FrozenEncoders
from colorize_jax.config.options import Config
from colorize_jax.diffusion import schedule as diffusion
from colorize_jax.diffusion.schedule import NoiseSchedule
from colorize_jax.models.background_encoder import unreached
from colorize_jax.models.colorizer import Colorizer
from colorize_jax.models.unet import UNet
from colorize_jax.rng import stream
from colorize_jax.sharding import constrain_batch, constrain_layouts, constrain_params, replicated
from colorize_jax.training import augment, refinement, trees
from colorize_jax.training.augment import StepRandomness
from colorize_jax.training.branches import anchor_features, run_branches
from colorize_jax.training.color_hints import draw_hints
from colorize_jax.training.encoding import encode_parts
from colorize_jax.training.gram_blocks import GramBlocks, gram_metrics
from colorize_jax.training.losses.diffusion import diffusion_loss
from colorize_jax.training.losses.gram import gram_loss, gram_weight
from colorize_jax.training.optim import accumulate
from colorize_jax.training.refinement import Background
from colorize_jax.training.state import TrainState, apply_gradients
from colorize_jax.types import Array, Batch, Conditions, Encoded, Params

Metrics = dict[str, Array]
Tokens = tuple[tuple[Array, Array], ...]  # CLIP's and the tagger's, of each part of the context

# On a whole torus the TPU compiler implements an all-gather of a kernel as an all-reduce of shards
# padded with zeros, which sends twice as many bytes.
TPU_OPTIONS = {"xla_tpu_prefer_async_allgather_to_allreduce": True}


@dataclass(frozen=True)
class TrainSystem:
    """The constants of a run: networks, schedules, optimizer and config; static under jit.

    Attributes:
        colorizer: the trained networks.
        encoders: the frozen ones.
        schedule: of the noise.
        learning_rate: number of the update, from 0 -> learning rate.
        optimizer: of the trained parameters, with that learning rate.
        config: every option.
        background_encoder: of the plugin, which the second stage trains; None: the first stage.
    """

    colorizer: Colorizer
    encoders: FrozenEncoders
    schedule: NoiseSchedule
    learning_rate: optax.Schedule
    optimizer: optax.GradientTransformation
    config: Config
    background_encoder: UNet | None = None

    @property
    def held(self) -> tuple[str, ...]:
        """Rules (see `trees`) of parameters that no loss depends on, whatever is trained."""
        encoder = self.background_encoder
        return () if encoder is None else tuple(unreached(encoder, "background_encoder/"))


@flax.struct.dataclass
class Inputs:
    """The inputs of the loss beside parameters; every leaf has a leading batch axis.

    Attributes:
        latents: (B, h, w, C) clean.
        tokens: of the sample's own reference and, where there is one, of its background.
        other_tokens: those of another sample.
        other_kept: (B,) whether that sample's context is kept.
        sketch: (B, H, W, 3).
        vector: (B, E) size embedding.
        mask: (B, H, W, 1) foreground, or None.
        random: the random numbers of the step.
        color_hints: (B, H, W, 4) of a model that takes them, see `SketchEncoder`.
        background: what the plugin's encoder sees; None in the first stage.
    """

    latents: Array
    tokens: Tokens
    other_tokens: Tokens
    other_kept: Array
    sketch: Array
    vector: Array
    mask: Array | None
    random: StepRandomness
    color_hints: Array | None = None
    background: Background | None = None


def is_dual(config: Config, step: int) -> bool:
    """Whether update number `step`, from 0, runs the misaligned branch: its weight is not zero.

    Computed on the host, because reading `gram_weight` from the device would block dispatch.
    """
    gram = config.gram
    start = np.float32(gram.zero_share * config.total_steps)
    return gram.maximum > 0 and bool(np.float32(step) > start)


def train_step(
    system: TrainSystem, state: TrainState, record: Mapping[str, Array], key: Array, *, dual: bool
) -> tuple[TrainState, Metrics]:
    """Do one update.

    Args:
        system: static.
        state: before the update; may be donated.
        record: the loader's batch (see `augment.to_batch`), globally B samples.
        key: of the run; the state's step is folded in.
        dual: static; `is_dual` of the state's step.

    Returns:
        The state after the update, and float32 scalars: losses, norms, Gram weight, learning rate;
        with both branches `gram_metrics`.
    """
    inputs = prepare(system, state.frozen, augment.to_batch(record), key, state.step)
    config = system.config
    weight = jnp.float32(0)  # then the program is the same whatever `gram` says
    if dual:
        gram = config.gram
        weight = gram_weight(state.step, config.total_steps, gram.zero_share, gram.maximum)
    grads, metrics = gradients(system, state.params, state.frozen, inputs, weight, dual=dual)
    metrics |= {
        "gram_weight": weight,
        "learning_rate": system.learning_rate(state.step),
        "gradient_norm": optax.tree.norm(grads),
        "parameter_norm": optax.tree.norm(state.params),
    }
    finite = None
    if config.optimizer.max_skipped_updates:
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
    ema_decay = config.optimizer.ema_decay
    return apply_gradients(state, grads, system.optimizer, ema_decay, finite), metrics


def jit_step(system: TrainSystem, mesh: Mesh, shardings: Any, **options: bool) -> Any:
    """Jit the step for a mesh, donating its state; call and lower it under `jax.set_mesh`.

    Args:
        system: static.
        mesh: where.
        shardings: of the state, `sharding.state_shardings`.
        options: `dual`, bound here; left out, it is an argument.
    """
    return jax.jit(
        functools.partial(train_step, system, **options),
        static_argnames=() if options else "dual",
        donate_argnums=0,
        out_shardings=(shardings, replicated(mesh)),
        compiler_options=TPU_OPTIONS if mesh.devices.flat[0].platform == "tpu" else None,
    )


def prepare(
    system: TrainSystem,
    frozen: Params,
    batch: Batch,
    key: Array,
    step: Array,
    *,
    hint: bool = True,
) -> Inputs:
    """Encode a batch and draw its random numbers, all for the global batch.

    Args:
        system: static.
        frozen: parameters, the encoders' among them.
        batch: globally B samples.
        key: of the run.
        step: of the run.
        hint: whether a model that takes hints of colour gets some.
    """
    options, color_hints = system.config.diffusion, None
    if hint and system.config.model.hints and not system.config.refine.enabled:
        own = stream(key, step, "color_hints")
        image, color_hints = draw_hints(batch.image, batch.sketch, own, system.config.color_hints)
        batch = batch.replace(image=image)
    if batch.reference is not None:  # tokens were computed of references that had been painted
        batch = augment.inpaint_reference(batch, stream(key, step, "inpaint"), options.inpaint_rate)
    background, count = None, system.config.optimizer.accumulation
    if system.background_encoder is not None:
        cut = refinement.cut(
            batch, refinement.draw(key, step, batch, system.config.refine.bleach_rate)
        )
        batch, posterior = cut.batch, stream(key, step, "background_posterior")
        background = refinement.encode(system.encoders, frozen, cut, posterior, count)
        background = jax.lax.stop_gradient(background)
    posterior = stream(key, step, "posterior")
    encoded = encode_parts(system.encoders, frozen, batch, posterior, count)
    encoded = jax.lax.stop_gradient(encoded)
    random = augment.draw(
        key,
        step,
        encoded.latents.shape,
        num_timesteps=options.num_timesteps,
        offset_noise=options.offset_noise,
        reference_dropout=options.reference_dropout,
        hint_dropout=options.hint_dropout,
        num_hints=len(system.colorizer.unet.hint_blocks),
    )
    vector = system.colorizer.vector(batch.size, batch.aesthetic_score)
    inputs = pair(encoded, batch.sketch, vector, random, batch.sketch_mask, background)
    return inputs.replace(color_hints=color_hints)


def pair(
    encoded: Encoded,
    sketch: Array,
    vector: Array,
    random: StepRandomness,
    mask: Array | None = None,
    background: Background | None = None,
) -> Inputs:
    """Give every sample its neighbour's reference in the global batch as the misaligned one.

    Rolling the encoders' tokens, before the projection, gives the same as rolling the projected
    contexts, but no gradient crosses devices, and micro-batches are independent of each other.
    """
    tokens = ((encoded.clip_tokens, encoded.tagger_tokens),)
    if background is not None:
        tokens += (background.tokens,)
    other_tokens, other_kept = jax.tree.map(
        lambda x: jnp.roll(x, 1, axis=0), (tokens, random.keep_reference)
    )
    return Inputs(
        latents=encoded.latents,
        tokens=tokens,
        other_tokens=other_tokens,
        other_kept=other_kept,
        sketch=sketch,
        vector=vector,
        mask=mask,
        random=random,
        background=background,
    )


def gradients(
    system: TrainSystem,
    params: Params,
    frozen: Params,
    inputs: Inputs,
    weight: Array,
    *,
    dual: bool,
) -> tuple[Params, Metrics]:
    """Gradients of the trained parameters, and the loss; takes what `total_loss` takes."""

    def micro(inputs: Inputs) -> tuple[Params, Metrics]:
        inputs = constrain_batch(inputs)

        def loss(params: Params) -> tuple[Array, Metrics]:
            # This gives gradients the sharding of their parameters, in every micro-batch.
            params = constrain_params(constrain_layouts(params))
            return total_loss(system, params, frozen, inputs, weight, dual=dual)

        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return grads, metrics

    return accumulate(micro, inputs, system.config.optimizer.accumulation)


def total_loss(
    system: TrainSystem,
    params: Params,
    frozen: Params,
    inputs: Inputs,
    weight: Array,
    *,
    dual: bool,
) -> tuple[Array, Metrics]:
    """Diffusion loss plus `weight` times the Gram loss, and the terms.

    Args:
        system: static.
        params: trained parameters.
        frozen: the others.
        inputs: of one micro-batch.
        weight: () of the Gram loss.
        dual: whether to run the misaligned branch; without it the Gram loss is reported as 0.
    """
    networks, random = trees.merge(params, frozen), inputs.random
    colorizer, gram, options = system.colorizer, system.config.gram, system.config.diffusion
    noisy = diffusion.corrupt(system.schedule, inputs.latents, random.noise, random.timesteps)
    conditions, controls = embed(colorizer, networks, inputs), None
    if inputs.background is not None:
        controls = refinement.make_controls(
            colorizer.unet, system.background_encoder, networks, inputs.background
        )
    unet_state = colorizer.prefix(networks, noisy, random.timesteps, conditions)
    if dual:
        other = join_context(colorizer, networks, inputs.other_tokens)
        other = augment.drop_context(other, inputs.other_kept)
        other = other if gram.context_gradient else jax.lax.stop_gradient(other)
        gram_blocks = GramBlocks(colorizer, gram)
        prediction, aligned, misaligned, shares = run_branches(
            colorizer, networks, unet_state, conditions, other, gram_blocks, controls
        )
        monitored = gram_metrics(misaligned, aligned, shares, gram)
    else:
        keys_values = colorizer.project_context(networks, conditions.context)
        arguments = keys_values, conditions.hints
        if controls is not None:
            # By itself, the first block needs no backward pass below its own additions.
            first = next(iter(colorizer.unet.stacks())), 1
            unet_state, _ = colorizer.body(
                networks, unet_state, *arguments, controls=controls, until=first
            )
        prediction, _ = colorizer.body(networks, unet_state, *arguments, controls=controls)
    target = diffusion.target(
        system.schedule,
        inputs.latents,
        random.noise,
        random.timesteps,
        options.prediction_type,
    )
    loss = diffusion_loss(
        prediction,
        target,
        weights=snr_weights(system, random.timesteps),
        mask=inputs.mask if options.masked_loss else None,
    )
    if not dual:
        return loss, {"loss": loss, "diffusion_loss": loss, "gram_loss": jnp.float32(0)}

    if gram.anchor:
        theirs = embed(colorizer, frozen["anchor"], inputs)
        aligned = anchor_features(
            colorizer, frozen["anchor"], theirs, noisy, random.timesteps, gram_blocks
        )
    gram_total, _ = gram_loss(
        misaligned,
        aligned,
        mask=inputs.mask if gram.mask_weights else None,
        **gram.loss_options(),
    )
    total = loss + weight * gram_total
    losses = {"loss": total, "diffusion_loss": loss, "gram_loss": gram_total}
    return total, losses | monitored


def embed(colorizer: Colorizer, params: Params, inputs: Inputs) -> Conditions:
    """The aligned branch's conditions, after dropout."""
    random = inputs.random
    context = join_context(colorizer, params, inputs.tokens)
    hints = colorizer.hints(params, inputs.sketch, inputs.color_hints)
    return Conditions(
        context=augment.drop_context(context, random.keep_reference),
        hints=augment.drop_hints(hints, random.keep_hints),
        vector=inputs.vector,
    )


def join_context(colorizer: Colorizer, params: Params, tokens: Tokens) -> Array:
    """Project the parts of a context and join them: (B, S, C) of all."""
    return jnp.concatenate([colorizer.context(params, *part) for part in tokens], axis=1)


def snr_weights(system: TrainSystem, timesteps: Array) -> Array | None:
    """Min-SNR weights (B,), or None where they are all 1."""
    options = system.config.diffusion
    if not options.min_snr_gamma:
        return None
    return diffusion.min_snr_weight(
        system.schedule, timesteps, options.min_snr_gamma, options.prediction_type
    )
