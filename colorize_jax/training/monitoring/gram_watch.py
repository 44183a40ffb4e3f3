"""Warns when a Gram block has found the cheap way to please the Gram loss: to say nothing."""

from collections.abc import Mapping

PARALLEL = 0.01  # deviation of a Gram matrix whose tokens count as parallel
LOST = 1 / 3  # of its largest share: cross-attention has gone
SOME = 0.05  # a share below this was never anything: cross-attention starts near zero
REMEDY = "lower gram.maximum, raise gram.zero_share, or choose other gram.blocks or gram.tap"


class GramWatch:
    """Looks at the metrics of `gram_blocks.gram_metrics`; warns once of each block and fault.

    A resumed run knows no larger shares than it has seen itself.
    """

    def __init__(self) -> None:
        self._largest: dict[str, float] = {}
        self._told: set[tuple[str, str]] = set()

    def look(self, metrics: Mapping[str, float]) -> list[str]:
        """Return what is to be warned of.

        Args:
            metrics: name -> mean over the last steps; without those of Gram blocks there is
                nothing to warn of.
        """
        prefix = "gram_contrast/"
        blocks = [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]
        return [line for block in blocks for line in self._look(block, metrics)]

    def _look(self, block: str, metrics: Mapping[str, float]) -> list[str]:
        mean, contrast, share = (
            metrics[f"gram_{name}/{block}"] for name in ("mean", "contrast", "cross_share")
        )
        largest = self._largest[block] = max(share, self._largest.get(block, 0.0))
        lines = []
        if contrast < PARALLEL and self._tell(block, "contrast"):
            lines.append(
                f"WARNING: Gram block {block} says nothing any more: its tokens are parallel (mean "
                f"cosine {mean:.3f}, deviation {contrast:.4f}); {REMEDY}"
            )
        if largest > SOME and share < LOST * largest and self._tell(block, "share"):
            lines.append(
                f"WARNING: Gram block {block} hardly looks at the reference any more: "
                f"cross-attention is {share:.0%} of its output, and was {largest:.0%}; {REMEDY}"
            )
        return lines

    def _tell(self, block: str, fault: str) -> bool:
        """Whether this is told for the first time."""
        new = (block, fault) not in self._told
        self._told.add((block, fault))
        return new
