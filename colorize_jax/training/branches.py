"""The misaligned branch: the same noisy latent under another sample's reference.

The branches share everything before the first cross-attention, and the misaligned one ends with the
last Gram block.
"""

from typing import Any

import jax
import jax.numpy as jnp

from colorize_jax.models.colorizer import Colorizer
from colorize_jax.models.unet import UNetState
from colorize_jax.models.unet_controls import Controls
from colorize_jax.training.gram_blocks import GramBlocks
from colorize_jax.types import Array, Conditions, Params


def run_branches(
    colorizer: Colorizer,
    params: Params,
    unet_state: UNetState,
    conditions: Conditions,
    other_context: Array,
    gram_blocks: GramBlocks,
    controls: Controls | None = None,
) -> tuple[Array, dict[str, Array], dict[str, Array], dict[str, Array]]:
    """Run both branches after their common prefix, up to the last Gram block as one batch.

    One pass over the parameters instead of two: kernels are gathered and read once, the program is
    half as long, and their gradient is in memory once instead of twice.

    Args:
        colorizer: the networks.
        params: of all of them.
        unet_state: from the prefix, batch B.
        conditions: of the aligned branch.
        other_context: (B, S, C) of the misaligned one.
        gram_blocks: the Gram blocks.
        controls: what steers both, batch B.

    Returns:
        The aligned branch's prediction; its features, and those of the misaligned one; and its
        cross-attention's share of the Gram blocks' outputs.
    """
    hints = conditions.hints
    contexts = pair_rows(conditions.context, other_context)
    keys_values = colorizer.project_context(params, contexts)
    unet_states, features = colorizer.body(
        params,
        pair_rows(unet_state, unet_state),
        keys_values,
        pair_rows(hints, hints),
        controls=_twice(controls),
        collect=gram_blocks.collect + gram_blocks.collect_shares,
        until=gram_blocks.last,
    )
    own = colorizer.project_context(params, conditions.context)
    own[gram_blocks.last[0]], _ = split_pairs(keys_values[gram_blocks.last[0]], axis=1)
    unet_state, _ = split_pairs(unet_states)
    prediction, _ = colorizer.body(params, unet_state, own, hints, controls=controls)
    shares, _ = split_pairs(gram_blocks.select_shares(features))
    return prediction, *split_pairs(gram_blocks.select(features)), shares


def _twice(controls: Controls | None) -> Controls | None:
    """Controls of B samples for two rows of each."""
    if controls is None:
        return None

    def twice(x: Any, axis: int = 0) -> Any:
        return pair_rows(x, x, axis)

    regions = controls.regions.replace(mask=twice(controls.regions.mask))
    banks = {
        name: bank.replace(keys_values=twice(bank.keys_values, 1), mask=twice(bank.mask))
        for name, bank in controls.banks.items()
    }
    return controls.replace(regions=regions, banks=banks)


def pair_rows(own: Any, other: Any, axis: int = 0) -> Any:
    """Interleave two trees along `axis`, so that both rows of a sample are on the same device."""

    def interleave(a: Array, b: Array) -> Array:
        both = jnp.stack([a, b], axis + 1)
        return both.reshape(*a.shape[:axis], 2 * a.shape[axis], *a.shape[axis + 1 :])

    return jax.tree.map(interleave, own, other)


def split_pairs(both: Any, axis: int = 0) -> tuple[Any, Any]:
    """Undo `pair_rows`."""

    def rows(index: int) -> Any:
        def part(x: Array) -> Array:
            pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
            return jax.lax.index_in_dim(pairs, index, axis + 1, keepdims=False)

        return jax.tree.map(part, both)

    return rows(0), rows(1)


def anchor_features(
    colorizer: Colorizer,
    params: Params,
    conditions: Conditions,
    noisy: Array,
    timesteps: Array,
    gram_blocks: GramBlocks,
) -> dict[str, Array]:
    """The aligned branch's features, computed by a frozen colorizer."""
    unet_state = colorizer.prefix(params, noisy, timesteps, conditions)
    keys_values = colorizer.project_context(params, conditions.context)
    _, features = colorizer.body(
        params,
        unet_state,
        keys_values,
        conditions.hints,
        collect=gram_blocks.collect,
        until=gram_blocks.last,
    )
    return jax.lax.stop_gradient(gram_blocks.select(features))
