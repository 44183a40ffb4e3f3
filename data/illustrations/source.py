"""Sources that render on the fly: aligned examples for training, cross pairs for evaluation."""

import math
from typing import SupportsIndex

import numpy as np

from data.errors import DataError
from data.illustrations.canvas.seeds import Dice, example_seed
from data.illustrations.drawing import (
    Illustration,
    draw,
    draw_figure,
    draw_in_front,
    paint,
    render,
)
from data.illustrations.tags import encode_tags
from data.records import Record, checked_index, resize


class _Source:
    """What both sources share: a length, a size and a checked index."""

    def __init__(
        self, seed: int, length: int, height: int, width: int, reference_size: int | None
    ) -> None:
        for name, value, least in (
            ("seed", seed, 0),
            ("the number of examples", length, 1),
            ("height", height, 16),
            ("width", width, 16),
            ("reference_size", reference_size, 16),
        ):
            if value is not None and value < least:
                raise DataError(f"got {name} {value}, expected at least {least}; raise it")
        self.seed, self.height, self.width = seed, height, width
        self.reference_size = reference_size
        self._length = length

    def __len__(self) -> int:
        return self._length

    def _as_reference(self, picture: np.ndarray) -> np.ndarray:
        size = self.reference_size
        return picture if size is None else resize(picture, size, size)

    def _target(self, drawn: Illustration) -> Record:
        """What a record says of its own picture."""
        return {
            "image": drawn.image,
            "sketch": drawn.sketch,
            "sketch_mask": drawn.mask,
            "parts": drawn.parts,
            "tags": encode_tags(drawn.tags),
            "size": np.float32(math.sqrt(self.height * self.width)),
            "aesthetic_score": np.float32(drawn.aesthetic_score),
        }


class IllustrationSource(_Source):
    """Training examples: the reference is the picture itself, as in the paper.

    Args:
        seed: which dataset.
        num_examples: its length.
        height, width: size of image and sketch, px.
        same_identity_rate: share of the examples whose reference is the same identity in another
            geometry instead (the published format's `reference_list`).
        reference_size: side of the square reference, px; the picture's own size if None.
        reference_background: draw every picture in front of its reference's whole background, as
            the second stage wants it; what the reference's figure hides is seen then.

    Raises:
        DataError: on sizes, lengths or rates out of range.
    """

    def __init__(
        self,
        seed: int,
        num_examples: int,
        height: int,
        width: int,
        same_identity_rate: float = 0.0,
        reference_size: int | None = None,
        reference_background: bool = False,
    ) -> None:
        super().__init__(seed, num_examples, height, width, reference_size)
        if not 0.0 <= same_identity_rate <= 1.0:
            raise DataError(
                f"got same_identity_rate {same_identity_rate}, expected 0..1; give a probability"
            )
        self.same_identity_rate = same_identity_rate
        self.reference_background = reference_background

    def __repr__(self) -> str:
        return (
            f"IllustrationSource(seed={self.seed}, num_examples={len(self)}, "
            f"height={self.height}, width={self.width}, "
            f"same_identity_rate={self.same_identity_rate}, reference_size={self.reference_size}, "
            f"reference_background={self.reference_background})"
        )

    def __getitem__(self, index: SupportsIndex) -> Record:
        """Record of example `index`.

        Returns:
            image (H, W, 3), sketch (H, W, 1; paper 255, line 0), sketch_mask (H, W, 1), reference
            (h, w, 3), reference_mask (h, w, 1), parts (H, W, 1; indices into `PART_NAMES`) and tags
            (T,; 1 where the picture has that one of `TAG_NAMES`), all uint8; size (px) and
            aesthetic_score, float32.
        """
        index = checked_index(index, len(self))
        geometry, identity, choice, other = (
            example_seed("train", stream, self.seed, index)
            for stream in ("geometry", "identity", "choice", "reference")
        )
        size = self.height, self.width
        drawn = reference = render(geometry, identity, *size)
        if self.same_identity_rate and Dice(choice).chance(self.same_identity_rate):
            reference = render(other, identity, *size)
            if self.reference_background:
                drawn = paint(draw_in_front(geometry, other, *size), identity)
        return {
            **self._target(drawn),
            "reference": self._as_reference(reference.image),
            "reference_mask": self._as_reference(reference.mask),
        }


class CrossPairSource(_Source):
    """Held-out pairs with exact truth: a sketch of one geometry, a reference of another identity.

    Its seeds differ from every training example's by construction (`seeds.example_seed`).

    Args:
        seed: which set of pairs.
        num_pairs: its length.
        height, width: size of image and sketch, px.
        reference_size: side of the square references, px; the picture's own size if None.
        reference_background: the truth of the second stage: the sketch is of the figure alone, the
            picture stands in front of the reference's whole background.
    """

    def __init__(
        self,
        seed: int,
        num_pairs: int,
        height: int,
        width: int,
        reference_size: int | None = None,
        reference_background: bool = False,
    ) -> None:
        super().__init__(seed, num_pairs, height, width, reference_size)
        self.reference_background = reference_background

    def __repr__(self) -> str:
        return (
            f"CrossPairSource(seed={self.seed}, num_pairs={len(self)}, height={self.height}, "
            f"width={self.width}, reference_size={self.reference_size}, "
            f"reference_background={self.reference_background})"
        )

    def __getitem__(self, index: SupportsIndex) -> Record:
        """Record of pair `index`: a training record whose `image` is the truth.

        Returns:
            what `IllustrationSource` returns, with
            reference: identity p in geometry g2; the truth is p in the sketch's geometry g.
            aligned_reference: the truth itself as a reference.
            moved_reference: p in a third geometry g3.
            other_reference: another identity q in a fourth geometry g4.
        """
        index = checked_index(index, len(self))
        g, g2, g3, g4, p, q = (
            example_seed("heldout", stream, self.seed, index)
            for stream in ("geometry", "reference", "moved", "other", "identity", "stranger")
        )
        height, width = self.height, self.width
        reference = render(g2, p, height, width)
        if self.reference_background:
            truth = paint(draw_in_front(g, g2, height, width), p)
            target = {
                **self._target(truth),
                "sketch": paint(draw_figure(g, height, width), p).sketch,
            }
        else:
            truth = paint(draw(g, height, width), p)
            target = self._target(truth)
        return {
            **target,
            "reference": self._as_reference(reference.image),
            "reference_mask": self._as_reference(reference.mask),
            "aligned_reference": self._as_reference(truth.image),
            "moved_reference": self._as_reference(render(g3, p, height, width).image),
            "other_reference": self._as_reference(render(g4, q, height, width).image),
        }
