"""Which features of the UNet the Gram loss compares."""

from collections.abc import Mapping

from colorize_jax.config.options import GramConfig
from colorize_jax.models.colorizer import Colorizer
from colorize_jax.types import Array


class GramBlocks:
    """The transformer blocks that `gram.blocks` names, located in the UNet's stacks.

    Attributes:
        collect: (stack, feature) pairs to collect in `UNet.body`.
        last: where the last of the blocks ends, as the argument `until` of `UNet.body`.
    """

    def __init__(self, colorizer: Colorizer, gram: GramConfig):
        unet = colorizer.unet
        order = list(unet.stacks())
        places = {block: unet.locate(block) for block in gram.blocks}
        self._places, self._tap = places, gram.tap
        stacks = dict.fromkeys(stack for stack, _ in places.values())
        self.collect = tuple((stack, gram.tap) for stack in stacks)
        stack, index = max(places.values(), key=lambda place: (order.index(place[0]), place[1]))
        self.last = (stack, index + 1)

    def select(self, features: Mapping[tuple[str, str], Array]) -> dict[str, Array]:
        """Pick the blocks out of collected features: number of the block -> (B, N, C)."""
        return {
            str(block): features[stack, self._tap][index]
            for block, (stack, index) in self._places.items()
        }
