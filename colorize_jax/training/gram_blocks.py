"""Which features of the UNet the Gram loss compares, and whether they still say anything.

Where the loss is strong, a block can satisfy it by saying nothing: all its tokens become parallel,
or it stops looking at the reference, and what the reference says goes around it.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from colorize_jax.config.options import GramConfig
from colorize_jax.models.colorizer import Colorizer
from colorize_jax.nn.transformer import CROSS_SHARE, STACK
from colorize_jax.training.losses.gram import gram_contrast, gram_loss
from colorize_jax.types import Array

Features = Mapping[tuple[str, str], Array]


class GramBlocks:
    """The transformer blocks that `gram.blocks` names, located in the UNet's stacks.

    Attributes:
        collect: (stack, feature) pairs to collect in `UNet.body`.
        collect_shares: the same of cross-attention's share of every block's output.
        last: where the last of the blocks ends, as the argument `until` of `UNet.body`.
    """

    def __init__(self, colorizer: Colorizer, gram: GramConfig):
        unet = colorizer.unet
        order = list(unet.stacks())
        places = {block: unet.locate(block) for block in gram.blocks}
        self._places, self._tap = places, gram.tap
        stacks = dict.fromkeys(stack for stack, _ in places.values())
        self.collect = tuple((stack, gram.tap) for stack in stacks)
        self.collect_shares = tuple((stack, CROSS_SHARE) for stack in stacks)
        stack, index = max(places.values(), key=lambda place: (order.index(place[0]), place[1]))
        self.last = (stack, unet.stacks()[stack] if gram.tap == STACK else index + 1)

    def select(self, features: Features) -> dict[str, Array]:
        """Pick the blocks out of collected features: number of the block -> (B, N, C)."""
        return self._pick(features, self._tap)

    def select_shares(self, features: Features) -> dict[str, Array]:
        """Pick the blocks' shares of cross-attention: number of the block -> (B,)."""
        return self._pick(features, CROSS_SHARE)

    def _pick(self, features: Features, name: str) -> dict[str, Array]:
        return {
            str(block): features[stack, name][0 if name == STACK else index]
            for block, (stack, index) in self._places.items()
        }


def gram_metrics(
    misaligned: Mapping[str, Array],
    aligned: Mapping[str, Array],
    shares: Mapping[str, Array],
    gram: GramConfig,
) -> dict[str, Array]:
    """What tells whether the Gram blocks still say anything; float32 scalars without gradients.

    Args:
        misaligned: block -> (B, N, C) features under another sample's reference.
        aligned: the same under the sample's own.
        shares: block -> (B,) of cross-attention under its own.
        gram: how the loss sees features.

    Returns:
        Of every BLOCK gram_mean/BLOCK and gram_contrast/BLOCK: mean and deviation of the aligned
        Gram matrix, 1 and 0 where all tokens are parallel; gram_relative/BLOCK: difference of both
        branches' Gram matrices, root of the mean square, over that deviation; and
        gram_cross_share/BLOCK: cross-attention's output against the block's.
    """
    misaligned, aligned, shares = jax.lax.stop_gradient((misaligned, aligned, shares))
    _, losses = gram_loss(misaligned, aligned, standardize=gram.standardize)
    metrics = {}
    for block, features in aligned.items():
        mean, contrast = gram_contrast(features, standardize=gram.standardize)
        metrics |= {
            f"gram_mean/{block}": mean,
            f"gram_contrast/{block}": contrast,
            f"gram_relative/{block}": jnp.sqrt(losses[block]) / jnp.maximum(contrast, 1e-6),
            f"gram_cross_share/{block}": jnp.mean(shares[block]),
        }
    return metrics
