"""What runs on the device: pure functions of parameters and arrays, compiled once a shape.

    encode_texts        tokens -> embeddings in the space of CLIP's own tokens
    encode_references   pixels at the encoders' sizes, directions between texts -> context
    encode_sketches     pixels -> hints
    encode_background   latent and masks -> normed tokens of every decoder block: the plugin's bank
    denoise             all of that -> latents: the whole loop
    decode              latents -> pixels

Whatever is a number travels as an array, so that another strength, scale, seed or number of steps
compiles nothing; whether a control is there at all shows in the structure of the arguments.
"""

from dataclasses import dataclass, replace
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp

from colorize_jax.diffusion import samplers
from colorize_jax.diffusion.schedule import t_to_sigma
from colorize_jax.inference.denoiser import (
    BLANK,
    GuidanceScales,
    ProjectedConditions,
    make_predict,
    prepare,
    split_keys,
)
from colorize_jax.inference.system import System
from colorize_jax.inference.text.directions import TextDirections, manipulate
from colorize_jax.models.unet import Controls
from colorize_jax.nn.layers import sinusoid
from colorize_jax.nn.transformer import Bank, Regions
from colorize_jax.rng import stream
from colorize_jax.types import Array, Conditions, Params

NORMED = "norm1"  # the feature that self-attention reads, its own or a foreign one


@dataclass(frozen=True)
class StaticOptions:
    """What a compiled denoising loop is made for.

    Attributes:
        sampler: its name.
        guide_reference: whether the UNet is evaluated without reference too.
        guide_sketch: whether it is evaluated without sketch too.
        split: whether foreground and background attend to halves of the context.
    """

    sampler: str
    guide_reference: bool = True
    guide_sketch: bool = False
    split: bool = False

    @property
    def num_groups(self) -> int:
        """How many rows of the UNet a picture has; see `denoiser`."""
        return 1 + self.guide_sketch + self.guide_reference


@flax.struct.dataclass
class SamplingInputs:
    """What B pictures are made from.

    Attributes:
        keys: (B,) random keys.
        vector: (B, E) size embedding.
        hints: of the sketch, finest first.
        blank_hints: of a sheet without lines, batch 1; where the sketch guides.
        context: (B, S, C) reference tokens, foreground's first where attention is split; None: no
            reference.
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
    sketch_mask: Array | None = None
    bank: dict[str, Array] | None = None
    foreground: Array | None = None
    background: Array | None = None
    injected: Array | None = None


@flax.struct.dataclass
class TracedOptions:
    """Numbers that may change from picture to picture without compiling anything.

    Attributes:
        plan: noise levels.
        scales: of guidance.
        block_strengths: (number of transformer blocks,) factors of the reference.
        hint_strengths: (levels,) factors of the hints.
        foreground_strength, background_strength, merge: of split cross-attention, each ().
        mask_threshold: () what sketch masks are compared with.
        fidelity: () share without injection in the unguided rows.
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
    lora_scales: dict[str, Array]


# --------------------------------------------------------------------------------- before the loop


@partial(jax.jit, static_argnums=0)
def encode_texts(system: System, params: Params, ids: Array) -> Array:
    """Tokens (B, N) of CLIP's text tower -> embeddings (B, C) float32 of any length."""
    embeddings = system.clip_text.apply({"params": params["clip_text"]}, ids)
    return embeddings.astype(jnp.float32)


@partial(jax.jit, static_argnums=0)
def encode_references(
    system: System,
    params: Params,
    clip_images: Array,
    tagger_images: Array,
    directions: TextDirections | None = None,
) -> Array:
    """References at the sides of CLIP and the tagger (B, side, side, 3) -> context (B, S, C).

    Where `directions` are given, CLIP's tokens are moved along them.
    """
    clip_tokens, tagger_tokens = system.encoders.encode_resized(params, clip_images, tagger_images)
    if directions is not None:
        clip_tokens = manipulate(clip_tokens, directions)
    return system.colorizer.context(params, clip_tokens, tagger_tokens)


@partial(jax.jit, static_argnums=0)
def encode_sketches(system: System, params: Params, sketches: Array) -> tuple[Array, ...]:
    """Sketches (B, H, W, 3) -> hints, finest first."""
    return system.colorizer.hints(params, sketches)


def encode_blank(system: System, params: Params, height: int, width: int) -> tuple[Array, ...]:
    """Hints of a sheet without lines, batch 1."""
    return encode_sketches(system, params, jnp.full((1, height, width, 3), BLANK))


@partial(jax.jit, static_argnums=0)
def encode_images(system: System, params: Params, images: Array) -> Array:
    """Images (B, H, W, 3) -> scaled latents (B, h, w, C), the posterior's mean."""
    return system.encoders.encode_image(params, images)


@partial(jax.jit, static_argnums=0)
def encode_background(
    system: System,
    params: Params,
    latents: Array,
    sketch_mask: Array,
    reference_mask: Array,
    crop: Array,
) -> dict[str, Array]:
    """Run the plugin's background encoder.

    Args:
        system: with such an encoder.
        params: with "background_encoder".
        latents: (B, h, w, C) of the reference's background.
        sketch_mask, reference_mask: (B, h, w, 1) foregrounds.
        crop: (B, 4) top, left, height, width of what the latents show, as shares of the reference.

    Returns:
        Decoder stack -> (L, B, N, C) normed tokens of each block.
    """
    encoder = system.background_encoder
    inputs = jnp.concatenate([latents, sketch_mask, reference_mask], axis=-1)
    places = sinusoid(crop.reshape(-1), encoder.vector_channels // crop.shape[1])
    stacks = [name for name in encoder.stacks() if name.startswith("output_blocks")]
    _, features = encoder.apply(
        {"params": params["background_encoder"]},
        inputs,
        jnp.zeros(inputs.shape[0]),
        vector=places.reshape(crop.shape[0], -1),
        collect=tuple((name, NORMED) for name in stacks),
    )
    return {name: features[name, NORMED] for name in stacks}


# ----------------------------------------------------------------------------------------- the loop


@partial(jax.jit, static_argnums=(0, 1))
def denoise(
    system: System,
    static: StaticOptions,
    params: Params,
    inputs: SamplingInputs,
    traced: TracedOptions,
    noise: Array | None = None,
) -> Array:
    """Make scaled latents (B, h, w, C) from noise.

    Args:
        system: static.
        mode: static.
        params: of the UNet.
        given: pictures.
        settings: numbers.
        noise: (B, h, w, C) standard normal to start from; by default from the keys.
    """
    colorizer, sampler = system.colorizer, samplers.find_sampler(static.sampler)
    controls = make_controls(system, static, params, inputs, traced)
    prepared = prepare_rows(system, params, inputs, traced, controls)
    shape = (*inputs.hints[0].shape[1:3], colorizer.unet.out_channels)

    def predict(noisy: Array, timesteps: Array) -> Array:
        steered = controls
        if inputs.injected is not None:
            banks = injected_banks(system, static, params, prepared, inputs, traced, timesteps)
            # The plugin's bank keeps the stacks that it is made for.
            steered = controls.replace(banks=banks | dict(controls.banks or {}))
        return make_predict(
            colorizer,
            params,
            prepared,
            traced.scales,
            guide_reference=static.guide_reference,
            controls=steered,
            num_timesteps=system.schedule.num_timesteps,
        )(noisy, timesteps)

    start, fresh = split_keys(inputs.keys)
    if noise is None:
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(start)
    latents = samplers.sample(
        sampler,
        samplers.make_denoiser(predict, system.schedule, system.prediction_type),
        noise,
        traced.plan,
        samplers.noise_from_keys(fresh, shape),
        after_step=None if inputs.background is None else _keep_background(inputs, traced),
        prediction_type=system.prediction_type,
    )
    if inputs.background is None:
        return latents
    # Some samplers end at a level above zero.
    return jnp.where(_inside(inputs, traced), latents, inputs.background)


def make_controls(
    system: System,
    static: StaticOptions,
    params: Params,
    inputs: SamplingInputs,
    traced: TracedOptions,
) -> Controls:
    """What steers every forward, a row for each group of `denoiser`'s."""

    def rows(x: Array, axis: int = 0) -> Array:
        return jnp.concatenate([x] * static.num_groups, axis) if static.num_groups > 1 else x

    mask = None if inputs.sketch_mask is None else rows(inputs.sketch_mask)
    regions = banks = None
    if static.split:
        regions = Regions(
            mask,
            traced.mask_threshold,
            traced.foreground_strength,
            traced.background_strength,
            traced.merge,
        )
    if inputs.bank is not None:
        projected = _unet(system, params, inputs.bank, method="project_banks")
        banks = {
            name: Bank(jax.tree.map(lambda x: rows(x, 1), kv), mask, traced.mask_threshold)
            for name, kv in projected.items()
        }
    return Controls(
        reference_strength=traced.block_strengths,
        regions=regions,
        banks=banks,
        lora_scales=traced.lora_scales,
        foreground=inputs.foreground,
    )


def prepare_rows(
    system: System,
    params: Params,
    inputs: SamplingInputs,
    traced: TracedOptions,
    controls: Controls,
) -> ProjectedConditions:
    """Compute what does not change between steps."""

    def scaled(hints: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(
            hint * strength.astype(hint.dtype)
            for hint, strength in zip(hints, traced.hint_strengths, strict=False)
        )

    blank = inputs.blank_hints
    if blank is not None:
        batch = inputs.keys.shape[:1]
        blank = scaled(tuple(jnp.broadcast_to(x, batch + x.shape[1:]) for x in blank))
    return prepare(
        system.colorizer,
        params,
        Conditions(inputs.context, scaled(inputs.hints), inputs.vector),
        blank_hints=blank,
        controls=controls,
    )


def injected_banks(
    system: System,
    static: StaticOptions,
    params: Params,
    prepared: ProjectedConditions,
    inputs: SamplingInputs,
    traced: TracedOptions,
    timesteps: Array,
) -> dict[str, Bank]:
    """Look at the reference, as noisy as the picture is now, with the UNet's own eyes.

    The reference has no sketch; its noise stays the same from step to step.

    Returns:
        Transformer stack -> its self-attention's view of the reference, for all rows; of the
        unguided ones a share `fidelity` does without.
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
        prepared.keys_values,
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
    """Put the known background, as noisy as the next step expects, outside the mask."""
    keys = jax.vmap(lambda key: stream(key, 0, "background"))(inputs.keys)
    draw = samplers.noise_from_keys(keys, inputs.background.shape[1:])

    def after_step(x: Array, sigma: Array, step: Array) -> Array:
        level = jnp.broadcast_to(sigma, x.shape[:1])[:, None, None, None]
        return jnp.where(_inside(inputs, traced), x, inputs.background + level * draw(step))

    return after_step


# ----------------------------------------------------------------------------------- after the loop


@partial(jax.jit, static_argnums=0)
def decode(system: System, params: Params, latents: Array) -> Array:
    """Scaled latents (B, h, w, C) -> images (B, H, W, 3) in [-1, 1]."""
    return jnp.clip(system.encoders.decode(params, latents), -1, 1)


def without_loras(system: System) -> System:
    """The same system for parameters into which low-rank additions were merged."""
    unet = system.colorizer.unet.clone(loras=())
    return replace(system, colorizer=replace(system.colorizer, unet=unet))
