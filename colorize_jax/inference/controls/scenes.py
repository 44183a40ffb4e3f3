"""Several references of one picture, each for a part of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import ndimage

from colorize_jax.config.checks import Real
from colorize_jax.errors import UserError, nearest
from colorize_jax.inference.pictures.arrays import Picture, PictureSource, read_picture
from colorize_jax.inference.pictures.masks import given_mask, resize_mask
from colorize_jax.inference.pictures.preprocess import PreparedSketch

MAX_REFERENCES = 16
_FACTOR = Real(0, 100)


@dataclass(frozen=True, eq=False)
class RegionReference:
    """One of several references of a picture.

    Attributes:
        picture: file, PIL picture or array.
        mask: of the sketch's aspect, white where this reference counts; None: everywhere.
        own_mask: of the picture's aspect, white where the reference is meant; the rest is painted
            white before it is read.
        weight: against the others, where several count.
        strength: factor of its attention.

    Raises:
        UserError: a factor is out of range.
    """

    picture: PictureSource | Picture
    mask: PictureSource | Picture | None = None
    own_mask: PictureSource | Picture | None = None
    weight: float = 1.0
    strength: float = 1.0

    def __post_init__(self) -> None:
        for name in ("weight", "strength"):
            _FACTOR(f"{name} of a reference", getattr(self, name))


@dataclass(frozen=True, eq=False)
class Scene:
    """The references of one picture: their attentions are blended by their masks.

    Where no mask is white, all count; where several are, they share by their weights.

    Attributes:
        references: one at least; the controls that take pixels of a reference (attention injection,
            latent copies, the plugin's background) take the first one's.

    Raises:
        UserError: there is none, or more than `MAX_REFERENCES`, or all weights are 0.
    """

    references: tuple[RegionReference, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.references) <= MAX_REFERENCES:
            raise UserError(
                f"got {len(self.references)} references, expected 1 to {MAX_REFERENCES}; change "
                "their number"
            )
        if not any(reference.weight for reference in self.references):
            raise UserError(
                "got references whose weights are all 0, expected one above: they are shares of "
                "each other; raise one (a strength of 0 leaves a reference without effect)"
            )

    @classmethod
    def from_dict(cls, content: Any) -> "Scene":
        """Build a scene of {"references": [{"picture": PATH, "mask": PATH, ...}, ...]}.

        Raises:
            UserError: it is none; an unknown name is told with the nearest one.
        """
        content = content if isinstance(content, Mapping) else {}
        others = sorted(map(str, content.keys() - {"references"}))
        if others:
            raise UserError(
                f"got {', '.join(others)} beside the references of a scene, expected references "
                "alone; give options as flags or with --options"
            )
        rows = content.get("references")
        if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
            raise UserError(
                "got a scene without a list of references, expected references: and below it one "
                "- picture: FILE for each; correct it"
            )
        known = [one.name for one in fields(RegionReference)]
        for row in rows:
            for name in row:
                if name not in known:
                    raise UserError(
                        f'got "{name}" of a reference, expected some of {", ".join(known)} '
                        f'(the nearest is "{nearest(str(name), known)}"); rename it'
                    )
            if not isinstance(row.get("picture"), str):
                raise UserError("got a reference without a picture, expected its file; name it")
            for name in ("mask", "own_mask"):
                if not isinstance(row.get(name), str | None):
                    raise UserError(
                        f"got {name} {row[name]!r} of a reference, expected a file; name one"
                    )
        return cls(tuple(RegionReference(**row) for row in rows))

    @classmethod
    def read(cls, path: str | Path) -> "Scene":
        """Read a scene from YAML or JSON; relative files lie beside it.

        Raises:
            UserError: the file cannot be read, or holds no scene.
        """
        try:
            content = yaml.safe_load(Path(path).read_text())
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"got scene {path} that cannot be read ({reason}), expected YAML; check it"
            ) from error
        scene = cls.from_dict(content)
        return cls(tuple(_beside(Path(path).parent, one) for one in scene.references))

    def to_dict(self) -> dict[str, Any]:
        """As `from_dict` reads it, for scenes whose pictures are files."""
        rows = [asdict(one) for one in self.references]
        for row in rows:
            row |= {name: str(row[name]) for name in _PICTURES if row[name] is not None}
        return {"references": rows}

    def files(self) -> list[str]:
        """All that it is read from."""
        found = [getattr(one, name) for one in self.references for name in _PICTURES]
        return [str(path) for path in found if isinstance(path, str | Path)]


_PICTURES = ("picture", "mask", "own_mask")


def _beside(folder: Path, reference: RegionReference) -> RegionReference:
    paths = {name: getattr(reference, name) for name in _PICTURES}
    found = {n: None if path is None else str(folder / path) for n, path in paths.items()}
    return RegionReference(**found, weight=reference.weight, strength=reference.strength)


def region_weights(
    scene: Scene, sketch: Picture, prepared: PreparedSketch, softness: float
) -> np.ndarray:
    """How far each reference counts at every pixel of a picture.

    Args:
        scene: the references.
        sketch: as it was read, for its aspect.
        prepared: the same, in its canvas.
        softness: deviation of the Gaussian that softens borders, as a share of the shorter side.

    Returns:
        (K, H, W) float32, not below 0, of the size of the canvas; margins count everywhere.

    Raises:
        UserError: a mask cannot be read or has another aspect than the sketch.
    """
    height, width = prepared.tensor.shape[:2]
    weights = np.empty((len(scene.references), height, width), np.float32)
    for plane, reference in zip(weights, scene.references, strict=True):
        plane[:] = reference.weight
        if reference.mask is None:
            continue
        mask = mask_of(reference.mask, sketch)
        box = prepared.box
        plane[box.slices] *= resize_mask(mask, box.height, box.width)
        sigma = softness * min(height, width)
        if sigma:
            plane[:] = ndimage.gaussian_filter(plane, sigma, mode="nearest")
    return weights


def latent_weights(
    found: Sequence[tuple[np.ndarray, Scene] | None], cell: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """How far each reference counts at the latents' resolution; None where no picture has several.

    Args:
        found: of every picture of a batch its `region_weights` and their scene, or None: it has one
            reference.
        cell: px of a latent.

    Returns:
        (P, B, H/cell, W/cell, 1) means of the cells, and (P, B) factors of the references'
        attentions, -1 where a picture has fewer than P references.
    """
    shapes = [one[0].shape for one in found if one is not None]
    if not shapes:
        return None
    count, (height, width) = max(shape[0] for shape in shapes), shapes[0][1:]
    weights = np.zeros((count, len(found), height, width), np.float32)
    strengths = np.full((count, len(found)), -1, np.float32)
    for i, one in enumerate(found):
        own, factors = (1.0, [1.0]) if one is None else (one[0], _strengths(one[1]))
        weights[: len(factors), i], strengths[: len(factors), i] = own, factors
    cells = weights.reshape(*weights.shape[:2], height // cell, cell, width // cell, cell)
    return cells.mean(axis=(3, 5))[..., None], strengths


def _strengths(scene: Scene) -> list[float]:
    return [reference.strength for reference in scene.references]


def mask_of(source: PictureSource | Picture, picture: Picture) -> np.ndarray:
    """Read a mask (h, w) float32 in [0, 1] of a picture.

    Raises:
        UserError: it cannot be read, or has another aspect.
    """
    read = source if isinstance(source, Picture) else read_picture(source, mask=True)
    return given_mask(read, picture)
