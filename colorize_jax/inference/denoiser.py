"""The guided denoiser: what runs in each sampling step, and what is computed once before.

Rows of one forward, for B pictures:

    rows                hints       reference
    B  conditional      sketch      context
    B  without sketch   blank       context      where sketch guidance is on
    B  without reference sketch     none         where reference guidance is on

The UNet's prefix is the same for the first and the last group and runs once for both; without a
reference, cross-attention is its output bias alone. Hints and the keys and values of context and
banks do not depend on the timestep: they are computed before the loop (`project_conditions`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from colorize_jax.diffusion import guidance
from colorize_jax.models.colorizer import Colorizer
from colorize_jax.models.unet_controls import Controls
from colorize_jax.nn.regions import KeysValues
from colorize_jax.types import Array, Conditions, Params

BLANK = -1.0  # a sketch without lines


@flax.struct.dataclass
class ProjectedConditions:
    """Conditions as every step reads them: the context as keys and values.

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
    """Scales and intervals of guidance; other numbers need no recompilation.

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


def project_conditions(
    colorizer: Colorizer,
    params: Params,
    conditions: Conditions,
    *,
    blank_hints: tuple[Array, ...] | None = None,
    lora_scales: Mapping[str, Array] | None = None,
) -> ProjectedConditions:
    """Compute what does not depend on the timestep.

    Args:
        colorizer: the networks.
        params: theirs.
        conditions: of B pictures; without a context they have no reference.
        blank_hints: hints of a blank sketch, batch B, for sketch guidance.
        lora_scales: label -> scale of the low-rank additions.
    """
    keys_values = None
    if conditions.context is not None:
        keys_values = colorizer.project_context(params, conditions.context, lora_scales)
    return ProjectedConditions(keys_values, conditions.hints, blank_hints, conditions.vector)


def make_predict(
    colorizer: Colorizer,
    params: Params,
    conditions: ProjectedConditions,
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
        conditions: from `project_conditions`; sketch guidance runs where it has blank hints.
        scales: of guidance.
        guide_reference: whether to evaluate without reference; static.
        controls: of every forward, one row for each row above; only the foreground has one
            for each picture.
        num_timesteps: of the schedule.
    """
    guide_sketch = conditions.blank_hints is not None

    def predict(noisy: Array, timesteps: Array) -> Array:
        batch = noisy.shape[0]
        foreground = None if controls is None else controls.foreground

        def prefix(hints: tuple[Array, ...]) -> Any:
            own = Conditions(None, hints, conditions.vector)
            return colorizer.prefix(params, noisy, timesteps, own, foreground=foreground)

        groups = [(prefix(conditions.hints), conditions.hints)]
        if guide_sketch:
            groups.append((prefix(conditions.blank_hints), conditions.blank_hints))
        keys_values = None
        if conditions.keys_values is not None:
            active = guidance.reference_active(
                timesteps, scales.window, scales.excluded, num_timesteps
            )
            keys_values = _repeat_rows(conditions.keys_values, active, len(groups))
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
    """Repeat keys and values for `count` groups of rows; zero where the reference is inactive."""
    kept = active[None, :, None, None, None]

    def repeat(x: Array) -> Array:
        x = x * kept.astype(x.dtype)
        return jnp.concatenate([x] * count, axis=1) if count > 1 else x

    return jax.tree.map(repeat, keys_values)
