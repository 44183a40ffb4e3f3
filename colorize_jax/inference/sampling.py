"""The sampling loop, for users' pictures, training's samples and evaluation alike.

Each picture has its own key, so that a result does not depend on its batch. Strengths, scales,
seeds and the number of steps are traced: other values need no recompilation. Which controls are on
is static, in `StaticOptions` and in which arguments are None.
"""

from collections.abc import Callable
from dataclasses import dataclass

import flax.struct
import jax
import jax.numpy as jnp

from colorize_jax.diffusion import samplers
from colorize_jax.diffusion.guidance import reference_active
from colorize_jax.diffusion.schedule import sigma_to_t, t_to_sigma
from colorize_jax.inference.controls.hints import Hints
from colorize_jax.inference.denoiser import (
    GuidanceScales,
    ProjectedConditions,
    make_predict,
    project_conditions,
)
from colorize_jax.inference.system import System
from colorize_jax.models.background_encoder import NORMED
from colorize_jax.models.unet_controls import Controls
from colorize_jax.nn.regions import Bank, Regions
from colorize_jax.rng import stream
from colorize_jax.types import Array, Conditions, Params


@dataclass(frozen=True)
class StaticOptions:
    """Options that a sampling loop is compiled for.

    Attributes:
        sampler: its name.
        guide_reference: whether the UNet is evaluated without reference too.
        guide_sketch: whether it is evaluated without sketch too.
        split: whether foreground and background attend to halves of the context.
        blend: whether the mask itself mixes the halves' answers, as in a UNet that holds low-rank
            additions, also after they were merged; else it is compared with a threshold.
    """

    sampler: str
    guide_reference: bool = True
    guide_sketch: bool = False
    split: bool = False
    blend: bool = False

    @property
    def num_groups(self) -> int:
        """How many rows of the UNet a picture has; see `denoiser`."""
        return 1 + self.guide_sketch + self.guide_reference


@flax.struct.dataclass
class SamplingInputs:
    """What B pictures are sampled from: arrays, all of one picture in one row.

    Attributes:
        keys: (B,) random keys.
        vector: (B, E) size embedding.
        hints: of the sketch, finest first.
        blank_hints: of a sheet without lines, batch 1; where the sketch guides.
        context: (B, S, C) tokens of the references, one after another, and behind them of the
            background where attention is split; None: no reference.
        region_weights: (P, B, h, w, 1) how far each of several references counts; None: one.
        region_strengths: (P, B) factors of their attentions.
        color_hints: what some places should look like.
        sketch_mask: (B, h, w, 1) foreground, where something asks for it.
        bank: decoder stack -> (L, B, M, C) normed tokens of the background, for the plugin.
        foreground: (B, h, w, C) latents of the reference's foreground, for the plugin.
        background: (B, h, w, C) latents that are kept outside the mask.
        injected: (B, h, w, C) latents of the reference that self-attention sees.
    """

    keys: Array
    vector: Array
    hints: tuple[Array, ...]
    blank_hints: tuple[Array, ...] | None = None
    context: Array | None = None
    region_weights: Array | None = None
    region_strengths: Array | None = None
    color_hints: Hints | None = None
    sketch_mask: Array | None = None
    bank: dict[str, Array] | None = None
    foreground: Array | None = None
    background: Array | None = None
    injected: Array | None = None


@flax.struct.dataclass
class TracedOptions:
    """Options that are numbers: another value compiles nothing.

    Attributes:
        plan: noise levels.
        scales: of guidance.
        block_strengths: (number of transformer blocks,) factors of the reference.
        hint_strengths: (levels,) factors of the hints.
        foreground_strength, background_strength, merge: of split cross-attention, each ().
        mask_threshold: () what sketch masks are compared with, but for banks and blends.
        fidelity: () share without injection in the unguided rows.
        color_hint_strength: () how far colour hints lead.
        color_hint_reach: () how far they spread, share of the shorter side.
        color_hint_window: () first and last progress at which they do.
        lora_scales: label -> ().
    """

    plan: samplers.Plan
    scales: GuidanceScales
    block_strengths: Array
    hint_strengths: Array
    foreground_strength: Array
    background_strength: Array
    merge: Array
    mask_threshold: Array
    fidelity: Array
    color_hint_strength: Array
    color_hint_reach: Array
    color_hint_window: tuple[Array, Array]
    lora_scales: dict[str, Array]


@flax.struct.dataclass
class Prepared:
    """What is computed once for all steps.

    Attributes:
        controls: of every forward.
        conditions: with the context as keys and values.
    """

    controls: Controls
    conditions: ProjectedConditions


def prepare_steps(
    system: System,
    static: StaticOptions,
    params: Params,
    inputs: SamplingInputs,
    traced: TracedOptions,
) -> Prepared:
    """Compute what does not change between steps; arguments as for `sample_latents`."""
    controls = make_controls(system, static, params, inputs, traced)
    return Prepared(controls, project_inputs(system, params, inputs, traced))


def sample_latents(
    system: System,
    static: StaticOptions,
    params: Params,
    inputs: SamplingInputs,
    traced: TracedOptions,
    noise: Array | None = None,
) -> Array:
    """Sample scaled latents (B, h, w, C); to be called inside jit.

    Args:
        system: static.
        static: what the loop is compiled for.
        params: of the UNet.
        inputs: of the pictures.
        traced: numbers.
        noise: (B, h, w, C) standard normal to start from; by default from the keys.
    """
    prepared = prepare_steps(system, static, params, inputs, traced)
    return sample_part(system, static, params, inputs, traced, prepared, noise=noise)[0]


def sample_part(
    system: System,
    static: StaticOptions,
    params: Params,
    inputs: SamplingInputs,
    traced: TracedOptions,
    prepared: Prepared,
    part: samplers.Part | None = None,
    noise: Array | None = None,
) -> tuple[Array, samplers.Progress]:
    """Run a part of the loop; other arguments, the same for all parts: see `sample_latents`.

    Args:
        prepared: by `prepare_steps`.
        part: the evaluations to make; None: all.

    Returns:
        latents (B, h, w, C), the results once the loop is at its end, and where it stands.
    """
    colorizer, sampler = system.colorizer, samplers.find_sampler(static.sampler)
    params = colorizer.for_loop(params)
    controls, conditions = prepared.controls, prepared.conditions
    shape = (*inputs.hints[0].shape[1:3], colorizer.unet.out_channels)

    def predict(noisy: Array, timesteps: Array) -> Array:
        steered = controls
        if inputs.injected is not None:
            banks = injected_banks(system, static, params, conditions, inputs, traced, timesteps)
            # Stacks with a bank of the plugin keep it.
            steered = controls.replace(banks=banks | dict(controls.banks or {}))
        return make_predict(
            colorizer,
            params,
            conditions,
            traced.scales,
            guide_reference=static.guide_reference,
            controls=steered,
            num_timesteps=system.schedule.num_timesteps,
        )(noisy, timesteps)

    start, fresh = _split_keys(inputs.keys)
    if noise is None:
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(start)
    latents, progress = samplers.sample_part(
        sampler,
        _with_hints(
            samplers.make_denoiser(predict, system.schedule, system.prediction_type),
            system,
            inputs,
            traced,
        ),
        noise,
        traced.plan,
        samplers.noise_from_keys(fresh, shape),
        after_step=None if inputs.background is None else _keep_background(inputs, traced),
        prediction_type=system.prediction_type,
        part=part,
    )
    if inputs.background is None:
        return latents, progress
    # Outside the mask there may be noise left: some samplers end at a level above zero.
    return jnp.where(_inside(inputs, traced), latents, inputs.background), progress


def _with_hints(
    denoise: Callable[[Array, Array], Array],
    system: System,
    inputs: SamplingInputs,
    traced: TracedOptions,
) -> Callable[[Array, Array], Array]:
    """Lead what is expected to the hints of colour, where there are some."""
    hints = inputs.color_hints
    if hints is None:
        return denoise

    def led(x: Array, sigma: Array) -> Array:
        t = sigma_to_t(system.schedule, jnp.broadcast_to(sigma, x.shape[:1]))
        window = traced.color_hint_window
        active = reference_active(t, window, None, system.schedule.num_timesteps)
        strength = traced.color_hint_strength * active
        return hints.lead(denoise(x, sigma), strength, traced.color_hint_reach)

    return led


def _split_keys(keys: Array) -> tuple[Array, Array]:
    """(B,) keys of pictures -> (B,) keys of their initial noise, (B,) of the sampler's draws."""
    both = jax.vmap(jax.random.split)(keys)
    return both[:, 0], both[:, 1]


def make_controls(
    system: System,
    static: StaticOptions,
    params: Params,
    inputs: SamplingInputs,
    traced: TracedOptions,
) -> Controls:
    """Build the controls of every forward, with the rows that `denoiser` describes."""

    def rows(x: Array, axis: int = 0) -> Array:
        return jnp.concatenate([x] * static.num_groups, axis) if static.num_groups > 1 else x

    mask = None if inputs.sketch_mask is None else rows(inputs.sketch_mask)
    regions = banks = None
    if static.split:
        regions = Regions(
            mask,
            None if static.blend else traced.mask_threshold,
            traced.foreground_strength,
            traced.background_strength,
            traced.merge,
        )
    if inputs.region_weights is not None:
        regions = (regions or Regions()).replace(
            weights=rows(inputs.region_weights, 1), strengths=rows(inputs.region_strengths, 1)
        )
    if inputs.bank is not None:
        projected = _unet(system, params, inputs.bank, method="project_banks")
        banks = {
            name: Bank(jax.tree.map(lambda x: rows(x, 1), kv), mask)
            for name, kv in projected.items()
        }
    return Controls(
        reference_strength=traced.block_strengths,
        regions=regions,
        banks=banks,
        lora_scales=traced.lora_scales,
        foreground=inputs.foreground,
    )


def project_inputs(
    system: System, params: Params, inputs: SamplingInputs, traced: TracedOptions
) -> ProjectedConditions:
    """Compute what does not change between steps, with the hints scaled by their strengths."""

    def scaled(hints: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(
            hint * strength.astype(hint.dtype)
            for hint, strength in zip(hints, traced.hint_strengths, strict=False)
        )

    blank = inputs.blank_hints
    if blank is not None:
        batch = inputs.keys.shape[:1]
        blank = scaled(tuple(jnp.broadcast_to(x, batch + x.shape[1:]) for x in blank))
    return project_conditions(
        system.colorizer,
        params,
        Conditions(inputs.context, scaled(inputs.hints), inputs.vector),
        blank_hints=blank,
        lora_scales=traced.lora_scales,
    )


def injected_banks(
    system: System,
    static: StaticOptions,
    params: Params,
    conditions: ProjectedConditions,
    inputs: SamplingInputs,
    traced: TracedOptions,
    timesteps: Array,
) -> dict[str, Bank]:
    """Run the UNet over the reference, as noisy as the picture is now, for its normed tokens.

    The reference has no sketch; its noise stays the same from step to step.

    Returns:
        Transformer stack -> keys and values that self-attention reads beside its own, for all rows;
        in the unguided ones a share `fidelity` of the attention goes without them.
    """
    keys = jax.vmap(lambda key: stream(key, 0, "injection"))(inputs.keys)
    noise = jax.vmap(lambda key: jax.random.normal(key, inputs.injected.shape[1:]))(keys)
    sigma = t_to_sigma(system.schedule, timesteps)[:, None, None, None]
    noisy = (inputs.injected + sigma * noise) * jax.lax.rsqrt(1 + sigma**2)
    unet_state = _unet(system, params, noisy, timesteps, inputs.vector, method="prefix")
    depths = system.colorizer.unet.stacks()
    _, features = _unet(
        system,
        params,
        unet_state,
        conditions.keys_values,
        method="body",
        controls=Controls(lora_scales=traced.lora_scales),
        collect=tuple((name, NORMED) for name in depths),
        until=list(depths.items())[-1],
    )
    tokens = {name: features[name, NORMED] for name in depths}
    projected = _unet(system, params, tokens, method="project_banks")
    guided = jnp.zeros(inputs.keys.shape[0])
    unguided = jnp.broadcast_to(traced.fidelity, guided.shape)
    weight = jnp.concatenate([guided] + [unguided] * (static.num_groups - 1))

    def rows(x: Array) -> Array:
        return jnp.concatenate([x] * static.num_groups, axis=1)

    return {
        name: Bank(jax.tree.map(rows, kv), plain_weight=weight) for name, kv in projected.items()
    }


def _unet(system: System, params: Params, *args, **options):
    return system.colorizer.unet.apply({"params": params["unet"]}, *args, **options)


def _inside(inputs: SamplingInputs, traced: TracedOptions) -> Array:
    return inputs.sketch_mask > traced.mask_threshold


def _keep_background(inputs: SamplingInputs, traced: TracedOptions) -> samplers.AfterStep:
    """Replace what is outside the mask by the known background, at the next step's noise level."""
    keys = jax.vmap(lambda key: stream(key, 0, "background"))(inputs.keys)
    draw = samplers.noise_from_keys(keys, inputs.background.shape[1:])

    def after_step(x: Array, sigma: Array, step: Array) -> Array:
        level = jnp.broadcast_to(sigma, x.shape[:1])[:, None, None, None]
        return jnp.where(_inside(inputs, traced), x, inputs.background + level * draw(step))

    return after_step
