"""The guided denoiser: what one sampling step costs, and what is computed once a picture.

Rows of one forward, for B pictures:

    rows                hints       reference
    B  conditional      sketch      context
    B  without sketch   blank       context      where sketch guidance is on
    B  without reference sketch     none         where reference guidance is on

Everything before the first cross-attention is the same for the first and the last group and runs
once; the last group's cross-attention is its bias alone. Keys and values of the context, hints and
banks do not depend on the timestep: `prepare` makes them, once.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from colorize_jax.diffusion import guidance, samplers
from colorize_jax.diffusion.schedule import NoiseSchedule
from colorize_jax.models.colorizer import Colorizer
from colorize_jax.models.unet import Controls
from colorize_jax.nn.transformer import KeysValues
from colorize_jax.types import Array, Conditions, Params

BLANK = -1.0  # a sketch without lines


@flax.struct.dataclass
class ProjectedConditions:
    """What of a picture does not change between steps.

    Attributes:
        keys_values: of the context in every transformer stack, or None: no reference at all.
        hints: of the sketch.
        blank_hints: of a sheet without lines, where sketch guidance is on; else None.
        vector: (B, E) size embedding.
    """

    keys_values: dict[str, KeysValues] | None
    hints: tuple[Array, ...]
    blank_hints: tuple[Array, ...] | None
    vector: Array


@flax.struct.dataclass
class GuidanceScales:
    """Numbers that may change without recompilation.

    Attributes:
        reference: scale of guidance by the reference, off at 1 or less.
        sketch: scale of guidance by the sketch, off at 1 or less.
        window: first and last progress, 0..1, at which the reference is used.
        excluded: first and last progress at which it is not; None: nowhere.
    """

    reference: Array | float = 4.0
    sketch: Array | float = 1.0
    window: tuple[Array | float, Array | float] = (0.0, 1.0)
    excluded: tuple[Array | float, Array | float] | None = None


def prepare(
    colorizer: Colorizer,
    params: Params,
    conditions: Conditions,
    *,
    blank_hints: tuple[Array, ...] | None = None,
    controls: Controls | None = None,
) -> ProjectedConditions:
    """Compute what does not depend on the timestep.

    Args:
        colorizer: the networks.
        params: theirs.
        conditions: of B pictures; without a context they have no reference.
        blank_hints: hints of a blank sketch, batch B, for sketch guidance.
        controls: only the scales of low-rank additions matter here.
    """
    scales = None if controls is None else controls.lora_scales
    return ProjectedConditions(
        keys_values=(
            None
            if conditions.context is None
            else colorizer.project_context(params, conditions.context, scales)
        ),
        hints=conditions.hints,
        blank_hints=blank_hints,
        vector=conditions.vector,
    )


def make_predict(
    colorizer: Colorizer,
    params: Params,
    prepared: ProjectedConditions,
    scales: GuidanceScales,
    *,
    guide_reference: bool = True,
    controls: Controls | None = None,
    num_timesteps: int = 1000,
) -> Callable[[Array, Array], Array]:
    """Return the guided network: (z_t (B, h, w, C), t (B,)) -> prediction (B, h, w, C).

    Args:
        colorizer: the networks.
        params: theirs.
        prepared: from `prepare`; sketch guidance runs where it has blank hints.
        scales: of guidance.
        guide_reference: whether to evaluate without reference; static.
        controls: what steers every forward; batches as those of the rows,
            except of the foreground, which all rows of a picture share.
        num_timesteps: of the schedule.
    """
    guide_sketch = prepared.blank_hints is not None

    def predict(noisy: Array, timesteps: Array) -> Array:
        batch = noisy.shape[0]
        foreground = None if controls is None else controls.foreground

        def prefix(hints: tuple[Array, ...]) -> Any:
            conditions = Conditions(None, hints, prepared.vector)
            return colorizer.prefix(params, noisy, timesteps, conditions, foreground=foreground)

        groups = [(prefix(prepared.hints), prepared.hints)]
        if guide_sketch:
            groups.append((prefix(prepared.blank_hints), prepared.blank_hints))
        keys_values = None
        if prepared.keys_values is not None:
            active = guidance.reference_active(
                timesteps, scales.window, scales.excluded, num_timesteps
            )
            keys_values = _repeat_rows(prepared.keys_values, active, len(groups))
        if guide_reference:
            groups.append(groups[0])
        unet_state, hints = jax.tree.map(lambda *rows: jnp.concatenate(rows), *groups)
        prediction, _ = colorizer.body(params, unet_state, keys_values, hints, controls=controls)
        rows = [prediction[i * batch : (i + 1) * batch] for i in range(len(groups))]
        return guidance.guide(
            rows[0],
            without_reference=rows[-1] if guide_reference else None,
            without_sketch=rows[1] if guide_sketch else None,
            reference_scale=scales.reference,
            sketch_scale=scales.sketch,
        )

    return predict


def _repeat_rows(
    keys_values: dict[str, KeysValues], active: Array, count: int
) -> dict[str, KeysValues]:
    """Keys and values for `count` groups of rows, vanished where the reference is not active."""
    kept = active[None, :, None, None, None]

    def repeat(x: Array) -> Array:
        x = x * kept.astype(x.dtype)
        return jnp.concatenate([x] * count, axis=1) if count > 1 else x

    return jax.tree.map(repeat, keys_values)


def generate(
    colorizer: Colorizer,
    params: Params,
    schedule: NoiseSchedule,
    conditions: Conditions,
    keys: Array,
    plan: samplers.Plan,
    scales: GuidanceScales,
    latents_shape: tuple[int, int, int],
    *,
    sampler: samplers.Sampler,
    prediction_type: str,
    guide_reference: bool = True,
    blank_hints: tuple[Array, ...] | None = None,
    controls: Controls | None = None,
    after_step: Callable[[Array, Array, Array], Array] | None = None,
) -> Array:
    """Sample scaled latents (B, h, w, C); to be called inside jit.

    Args:
        colorizer: the networks.
        params: theirs.
        schedule: of the noise that they were trained with.
        conditions: of B pictures.
        keys: (B,) one random key a picture; a picture's result depends on its own alone.
        plan: noise levels, from `samplers.make_plan`.
        scales: of guidance.
        latents_shape: (h, w, C).
        sampler: from `samplers.find_sampler`; static.
        prediction_type: "v" or "eps".
        guide_reference: whether to evaluate without reference; static.
        blank_hints: of a blank sketch, where sketch guidance is on.
        controls: what steers every forward.
        after_step: see `samplers.sample`.
    """
    prepared = prepare(colorizer, params, conditions, blank_hints=blank_hints, controls=controls)
    predict = make_predict(
        colorizer,
        params,
        prepared,
        scales,
        guide_reference=guide_reference,
        controls=controls,
        num_timesteps=schedule.num_timesteps,
    )
    start, fresh = split_keys(keys)
    noise = jax.vmap(lambda key: jax.random.normal(key, latents_shape))(start)
    return samplers.sample(
        sampler,
        samplers.make_denoiser(predict, schedule, prediction_type),
        noise,
        plan,
        samplers.noise_from_keys(fresh, latents_shape),
        after_step=after_step,
        prediction_type=prediction_type,
    )


def split_keys(keys: Array) -> tuple[Array, Array]:
    """(B,) keys of pictures -> (B,) keys of their initial noise, (B,) of the sampler's draws."""
    both = jax.vmap(jax.random.split)(keys)
    return both[:, 0], both[:, 1]
