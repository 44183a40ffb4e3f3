"""Every control of a picture that is a number or a choice, under the names of the JAX program."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches


@dataclass(frozen=True)
class Options:
    """How to colour a sketch.

    Progress runs from 0 at the first step (most noise) to 1 at the last. Strengths are factors.

    Raises:
        ValueError: two options that exclude each other, or a value out of its range.
    """

    # guidance
    reference_guidance: float = 4.0  # scale of guidance by the reference; off at 1 or less
    sketch_guidance: float = 1.0  # scale of guidance by the sketch; off at 1 or less
    guidance_window: tuple[float, float] = (0.0, 1.0)  # progress during which there is a reference
    no_guidance_window: tuple[float, float] | None = None  # and during which there is none
    unconditional: bool = False  # colour without a reference
    # strengths
    reference_strength: float = 1.0  # of the reference in every transformer block
    level_strengths: tuple[float, float, float] = (1.0, 1.0, 1.0)  # high, low, bottom
    block_strengths: Sequence[float] | None = None  # one for each transformer block
    sketch_strength: float = 1.0
    sketch_strengths: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # by level, finest first
    # foreground and background
    split_attention: bool = False  # foreground and background attend to the reference's own
    foreground_strength: float = 1.0
    background_strength: float = 1.0
    merge: float = 0.0  # share of the background mixed into the foreground
    sketch_mask_threshold: float = 0.05  # above it the sketch's mask is foreground
    reference_mask_threshold: float = 0.5  # from it on the reference's mask is foreground
    remove_foreground: bool = False  # paint it white before the reference is read
    remove_background: bool = False
    background_plugin: bool = False  # transfer the background by the plugin model
    reference_mask_dilation: int = 21  # square that widens the plugin's mask, px at 1024
    white_background: bool = False  # give the plugin a white background
    foreground_latent: bool = False  # give the plugin the reference's foreground too
    background_latent_copy: bool = False  # keep the reference outside the sketch's mask
    lora_scales: Mapping[str, float] = field(default_factory=dict)  # of the plugin's additions
    # attention injection
    attention_injection: bool = False  # self-attention sees the noised reference
    injection_fidelity: float = 0.5  # share without injection in the unguided half
    # sampling
    steps: int = 20
    sampler: str | None = None  # by default the scheduler's
    schedule: str | None = None
    # sketch and output
    preprocessor: str = "invert"  # black lines on white; "none": white lines on black
    height: int | None = None  # px; by default the model's own
    width: int | None = None
    autofit: bool = False  # choose both by the sketch's aspect
    crop_to_sketch: bool = True  # cut off what was padded around the sketch
    aesthetic_score: float = 7.0

    def __post_init__(self) -> None:
        if self.remove_foreground and self.remove_background:
            raise ValueError("got remove_foreground and remove_background, expected one of them")
        if self.preprocessor not in ("invert", "none"):
            raise ValueError(
                f'got preprocessor "{self.preprocessor}", expected "invert" or "none"; lines are '
                "not extracted here"
            )
        if self.autofit and (self.height or self.width):
            raise ValueError("got autofit and a size, expected one of them")
        for name in ("merge", "sketch_mask_threshold", "injection_fidelity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"got {name} {getattr(self, name)}, expected 0 to 1")
        if self.steps < 1:
            raise ValueError(f"got {self.steps} steps, expected at least 1")

    @property
    def splits_context(self) -> bool:
        """Whether the context has a half of background tokens."""
        return self.split_attention or self.background_plugin

    @property
    def needs_reference_mask(self) -> bool:
        """Whether the reference's foreground has to be known."""
        removes = self.remove_foreground or self.remove_background
        return removes or self.splits_context or self.foreground_latent

    @property
    def needs_sketch_mask(self) -> bool:
        """Whether the sketch's foreground has to be known."""
        return self.splits_context or self.background_latent_copy

    def block_scales(self, levels: Sequence[str]) -> list[float]:
        """Factor of the reference in each transformer block, whose levels are given."""
        by_level = dict(zip(("high", "low", "bottom"), self.level_strengths, strict=True))
        scales = [self.reference_strength * by_level[level] for level in levels]
        if self.block_strengths is None:
            return scales
        if len(self.block_strengths) != len(scales):
            raise ValueError(
                f"got {len(self.block_strengths)} block_strengths, expected {len(scales)}, one "
                "for each transformer block"
            )
        return [a * b for a, b in zip(scales, self.block_strengths, strict=True)]

    def is_active(self, progress: float) -> bool:
        """Whether the reference is used at some progress, 0..1."""
        first, last = self.guidance_window
        inside = first <= progress <= last
        if self.no_guidance_window is not None:
            first, last = self.no_guidance_window
            inside = inside and not first <= progress <= last
        return inside

    def size(self, sketch_size: tuple[int, int], limits: "Limits") -> tuple[int, int]:
        """Height and width of the picture of a sketch of some height and width, px."""
        if self.autofit:
            return limits.autofit(*sketch_size)
        size = self.height or limits.default, self.width or limits.default
        for name, side in zip(("height", "width"), size, strict=True):
            if side < limits.minimum or side % limits.multiple:
                raise ValueError(
                    f"got {name} {side} px, expected a multiple of {limits.multiple} from "
                    f"{limits.minimum} up"
                )
        return size


@dataclass(frozen=True)
class Limits:
    """The sizes that a model draws, px: its usual side, the least, and what sides divide by."""

    default: int
    minimum: int
    multiple: int
    autofit_multiple: int

    def autofit(self, height: int, width: int) -> tuple[int, int]:
        """The model's usual area at a sketch's aspect."""
        step = self.autofit_multiple
        least = step * math.ceil(self.minimum / step)
        steepest = (self.default / least) ** 2
        root = math.sqrt(min(max(height / width, 1 / steepest), steepest))
        sides = self.default * root, self.default / root
        return tuple(max(least, step * math.floor(side / step + 0.5)) for side in sides)


def read_options(given: Mapping[str, object]) -> Options:
    """Options by their names.

    Raises:
        ValueError: there is no such option; the nearest is named.
    """
    known = [one.name for one in fields(Options)]
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1, 0)
            raise ValueError(f"got the option {name!r}, expected one such as {near[0]!r}")
    return Options(**given)
