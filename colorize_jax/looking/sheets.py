"""Sheets of what the networks look at while they make one picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from colorize_jax.evaluation.contact_sheet import contact_sheet
from colorize_jax.inference.inputs import PictureLike
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pictures.preprocess import to_pictures
from colorize_jax.inference.pipeline import ColorizePipeline
from colorize_jax.looking import forward
from colorize_jax.looking.maps import heat, mark, shown

Point = tuple[float, float]  # y and x, as shares of a picture's height and width

POINTS: tuple[Point, ...] = ((0.35, 0.5), (0.8, 0.5), (0.1, 0.1))
FRAMES = 8
BLOCKS = (23, 63)  # the published Gram blocks
# Sheet of `Looks` -> what it shows.
TEXTS = {
    "denoising": "What the picture would be if the remaining steps were one, by noise level.",
    "attention": "Where in the reference a marked place of the picture looks, by stack of "
    "transformer blocks, mean over blocks and heads; and back: which places of the picture "
    "look at what that place looks at most.",
    "likeness": "Which places are like the marked one (Gram matrix) under the aligned "
    "reference and under the given one, and how far both differ.",
    "levels": "The picture with one level's reference, or all, switched off.",
}


class Looks:
    """One picture, made, and sheets of maps of it.

    Args:
        pipeline: who makes it.
        options: how, with a seed.
        sketch, reference: files, or pictures that are read.
        noise: 0..1, share of the timesteps, at which the networks look.

    Attributes:
        result: the picture.
    """

    def __init__(
        self,
        pipeline: ColorizePipeline,
        options: InferenceOptions,
        sketch: PictureLike,
        reference: PictureLike,
        noise: float,
    ):
        self.pipeline, self.options, self.noise = pipeline, options, noise
        self._sketch = sketch
        self._picture = self._read(reference)
        self.inputs = self._condition(self._picture)
        self.latents = pipeline.denoise(self.inputs, options)
        self.result = self._as_picture(pipeline.decode(self.latents, options)[0])
        self.reference = self._as_picture(self._picture.reference.image)

    def _read(self, reference: Any, options: Any = None) -> Any:
        options = options or self.options
        read = self.pipeline.read_reference(reference, options)
        return self.pipeline.read_sketch(self._sketch, read, options)

    def _condition(self, picture: Any, options: Any = None) -> Any:
        options = options or self.options
        return self.pipeline.condition([picture], options, [options.seed])

    @staticmethod
    def _as_picture(image: np.ndarray) -> Image.Image:
        return to_pictures(image[None])[0]

    def sheet(self, name: str) -> Image.Image:
        """The sheet of `TEXTS` that is named, of the default places and blocks."""
        sheets = {
            "denoising": lambda: self.denoising(FRAMES),
            "attention": lambda: self.attention(POINTS),
            "likeness": lambda: self.likeness(POINTS, default_blocks(self.pipeline), None),
            "levels": self.levels,
        }
        return sheets[name]()

    def denoising(self, count: int) -> Image.Image:
        """The strip of expected clean pictures."""
        frames = forward.denoising(self.pipeline, self.inputs, self.options, count)
        cells = [shown(self._as_picture(frame)) for _, frame in frames]
        return contact_sheet([cells], [f"sigma {level:.3g}" for level, _ in frames])

    def attention(self, points: Sequence[Point]) -> Image.Image:
        """Where places look, and back."""
        system, params = self.pipeline.system, self.pipeline.networks.params("unet")
        stacks = list(system.colorizer.unet.stacks())
        wanted = tuple((stack, forward.QUERIED) for stack in stacks)
        features, keys = self._collect(self.inputs, wanted)
        tokens = system.colorizer.reference_projection.num_tokens
        result, reference = shown(self.result), shown(self.reference)
        titles = ["picture", *(_title(stack) for stack in stacks)]
        maps = {
            stack: forward.cross_attention(system, params, stack, features, keys, tokens)
            for stack in stacks
        }
        rows = []
        for point in points:
            there: list[Any] = [mark(result, point)]
            back: list[Any] = [None]
            for stack in stacks:
                seen = maps[stack]
                grid = _grid(len(seen), self.latents.shape[1:3])
                looks = seen[_place(point, grid)]
                there.append(heat(_square(looks), reference))
                back.append(heat(seen[:, looks.argmax()].reshape(grid), result))
            rows += [there, back]
        captions = ["to the reference", "back"] * len(points)
        return contact_sheet(rows, titles, captions)

    def likeness(
        self, points: Sequence[Point], blocks: Sequence[int | str], aligned: str | None
    ) -> Image.Image:
        """Gram maps of blocks under both references, and their difference."""
        unet = self.pipeline.system.colorizer.unet
        places = [unet.locate(block) for block in blocks]
        wanted = tuple(dict.fromkeys((stack, "ff") for stack, _ in places))
        own = self._condition(self._read(self.result if aligned is None else aligned))
        seen = [self._collect(inputs, wanted)[0] for inputs in (own, self.inputs)]
        result = shown(self.result)
        rows, captions = [], []
        for (stack, index), block in zip(places, blocks, strict=True):
            grams = [forward.likeness(features[stack, "ff"][index]) for features in seen]
            grid = _grid(len(grams[0]), self.latents.shape[1:3])
            for point in points:
                row = [np.clip(g[_place(point, grid)].reshape(grid), 0, None) for g in grams]
                difference = np.abs(row[0] - row[1])
                rows.append(
                    [mark(result, point), *(heat(m, most=1.0) for m in row), heat(difference)]
                )
                change = float(np.mean((grams[0] - grams[1]) ** 2))
                captions.append(
                    f"block {block}: mean {grams[0].mean():.3f}, deviation {grams[0].std():.3f} "
                    f"(0: it says nothing); mean square difference {change:.2g}"
                )
        titles = ("picture", "aligned", "given", "difference")
        return contact_sheet(rows, titles, captions)

    def levels(self) -> Image.Image:
        """The picture without one level's reference."""
        cells, titles = [shown(self.result)], ["all"]
        strengths = {"no bottom": (1, 1, 0), "no low": (1, 0, 1), "no high": (0, 1, 1)}
        for title, off in {**strengths, "none": (0, 0, 0)}.items():
            options = self.options.replace(
                level_strengths=[
                    a * b for a, b in zip(self.options.level_strengths, off, strict=True)
                ]
            )
            (picture,) = self.pipeline.color([self._picture], options, [options.seed])
            cells.append(shown(picture))
            titles.append(title)
        return contact_sheet([cells], titles)

    def _collect(self, inputs: Any, wanted: Any) -> Any:

        return forward.collect(
            self.pipeline, inputs, self.latents, self.options, self.noise, wanted
        )


def default_blocks(pipeline: ColorizePipeline) -> list[int | str]:
    """The published Gram blocks, or two of a smaller network at about the same places."""
    num_blocks = sum(pipeline.system.colorizer.unet.stacks().values())
    if max(BLOCKS) <= num_blocks:
        return list(BLOCKS)
    return [max(1, num_blocks // 3), num_blocks - num_blocks // 6]


def _title(stack: str) -> str:
    return stack.replace("_blocks", "").replace("_1", "", 1) if "middle" not in stack else "middle"


def _grid(count: int, latents: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a stack's tokens, of latents that were halved some times."""
    height, width = latents
    while height * width > count:
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def _place(point: Point, grid: tuple[int, int]) -> int:
    return int(point[0] * grid[0]) * grid[1] + int(point[1] * grid[1])


def _square(values: np.ndarray) -> np.ndarray:
    """Tokens of a reference (S,) as the grid that they are."""
    side = int(len(values) ** 0.5)
    return values[: side * side].reshape(side, side)
