"""Every control of inference, with its default, its range and its meaning.

`InferenceOptions` is frozen and checked; each field carries its help text and its rule, from which
`option_flags` makes the command line.
"""

import dataclasses
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colorize_jax.config.checks import (
    Choice,
    Flag,
    Items,
    Maybe,
    Named,
    Real,
    Scales,
    Whole,
    Window,
)
from colorize_jax.config.fields import Options, option
from colorize_jax.config.options import (
    GUIDANCE,
    MAX_SAMPLER_STEPS,
    RATE,
    SEED,
    SamplingConfig,
    sampler_name,
    schedule_name,
)
from colorize_jax.errors import UserError
from colorize_jax.inference.pictures.preprocess import MASK_SOURCES, PREPROCESSORS
from colorize_jax.inference.pictures.sizes import (
    PUBLISHED_LIMITS,
    SizeLimits,
    autofit_size,
    check_size,
)
from colorize_jax.inference.text.manipulation import TextManipulation, TextManipulations

MAX_STEPS = MAX_SAMPLER_STEPS

_STRENGTH = Real(0, 10)
_SIDE = Maybe(Whole(1, 2**16))


@dataclass(frozen=True)
class InferenceOptions(Options):
    """How to colour a sketch; the help text of each field says what it does.

    Progress runs from 0 at the first step (most noise) to 1 at the last: 1 - t / (T - 1). Strengths
    are factors. Sequences are kept as tuples, scales by name as sorted (name, scale) pairs.

    Raises:
        UserError: a value of the wrong type or out of its range, or two that exclude each other.
    """

    # ------------------------------------------------------------------------------- guidance
    reference_guidance: float = option(
        4.0, GUIDANCE, "scale of guidance by the reference; off at 1 or less"
    )
    sketch_guidance: float = option(
        1.0, GUIDANCE, "scale of guidance by the sketch; off at 1 or less"
    )
    guidance_window: tuple[float, float] = option(
        (0.0, 1.0), Window(), "progress, from and to, during which the reference is used"
    )
    no_guidance_window: tuple[float, float] | None = option(
        None, Maybe(Window()), "progress, from and to, during which the reference is not used"
    )
    unconditional: bool = option(False, Flag(), "colour without a reference")

    # ------------------------------------------------------------------------------ strengths
    reference_strength: float = option(
        1.0, _STRENGTH, "factor of the reference in every transformer block"
    )
    level_strengths: tuple[float, float, float] = option(
        (1.0, 1.0, 1.0),
        Items(_STRENGTH, 3),
        "further factors at the high, the low and the bottom level (blocks 1-4 and 65-70, 5-24 "
        "and 35-64, 25-34)",
    )
    block_strengths: tuple[float, ...] | None = option(
        None, Maybe(Items(_STRENGTH)), "further factors, one for each block (70 in the published)"
    )
    sketch_strength: float = option(1.0, _STRENGTH, "factor of the sketch")
    sketch_strengths: tuple[float, float, float, float] = option(
        (1.0, 1.0, 1.0, 1.0),
        Items(_STRENGTH, 4),
        "further factors of its four levels, finest first",
    )

    region_softness: float = option(
        0.01, Real(0, 0.5), "of the borders between several references, share of the shorter side"
    )

    # ---------------------------------------------------------------------------- colour hints
    color_hint_method: str = option(
        "automatic",
        Choice(("automatic", "trained", "led", "both")),
        "who follows hints: the sketch encoder that was trained to, or every step, led without "
        "training; automatic: both where the model has such an encoder",
    )
    color_hint_strength: float = option(
        1.0, RATE, "how far hints count: led, every step goes so far to their colour"
    )
    color_hint_reach: float = option(
        0.1,
        RATE,
        "how far hints that lead spread in what has one colour, share of the shorter side",
        only={"color_hint_method": ("automatic", "led", "both")},
    )
    color_hint_window: tuple[float, float] = option(
        (0.0, 1.0),
        Window(),
        "progress, from and to, during which hints lead",
        only={"color_hint_method": ("automatic", "led", "both")},
    )

    # ----------------------------------------------------------------------------------- text
    text: tuple[TextManipulation, ...] = option(
        (),
        TextManipulations(),
        'lead the reference to a text, such as "red hair; anchor=blue hair; control=hair": from '
        "what it is now (anchor), where it looks like something (control, from threshold=0.5 on), "
        "so far (strength=1), each token as far as it still has to go (adaptive=true); repeat it "
        "for several, none for nothing",
    )

    # -------------------------------------------------------------- foreground and background
    split_attention: bool = option(
        False,
        Flag(),
        "let foreground and background attend to the reference's own; always so with the "
        "background plugin",
    )
    foreground_strength: float = option(1.0, _STRENGTH, "factor of the reference's foreground")
    background_strength: float = option(1.0, _STRENGTH, "factor of the reference's background")
    merge: float = option(0.0, RATE, "share of the background mixed into the foreground")
    sketch_mask_threshold: float = option(0.05, RATE, "above it the sketch's mask is foreground")
    reference_mask_threshold: float = option(
        0.5, RATE, "from it on the reference's mask is foreground"
    )
    mask_source: str = option(
        "automatic", Choice(MASK_SOURCES), "where masks come from that are not given"
    )
    remove_foreground: bool = option(
        False, Flag(), "paint the reference's foreground white before it is read"
    )
    remove_background: bool = option(
        False, Flag(), "paint the reference's background white before it is read"
    )
    background_plugin: bool = option(
        False, Flag(), "transfer the reference's background by the plugin model"
    )
    reference_mask_dilation: int = option(
        21,
        Whole(0, 1024),
        "square that widens the plugin's reference mask, px at 1024",
        only={"background_plugin": True},
    )
    white_background: bool = option(
        False, Flag(), "give the plugin a white background in the place of the reference's"
    )
    remove_background_figure: bool = option(
        False, Flag(), "paint the figure of a background of its own white before it is read"
    )
    foreground_latent: bool = option(
        False, Flag(), "give the plugin model the reference's foreground too"
    )
    background_latent_copy: bool = option(
        False, Flag(), "keep the reference's own background outside the sketch's mask"
    )
    lora_scales: tuple[tuple[str, float], ...] = option(
        (),
        Scales(Real(-10, 10)),
        "scales of low-rank additions; by default 1, or 0 for the plugin's while it is off",
    )
    merge_loras: bool = option(False, Flag(), "add low-rank additions to the weights beforehand")

    # -------------------------------------------------------------------- attention injection
    attention_injection: bool = option(
        False, Flag(), "let self-attention see the noised reference in every step"
    )
    injection_fidelity: float = option(
        0.5, RATE, "share of the picture without injection in the unguided half"
    )

    # ------------------------------------------------------------------------------- sampling
    steps: int = option(20, Whole(1, MAX_STEPS), "number of denoising steps")
    sampler: str = option("DPM++ 3M SDE", Named(sampler_name), "which sampler")
    schedule: str = option(
        "automatic", Named(schedule_name), "which noise levels; automatic is the sampler's own"
    )
    seed: int | None = option(None, Maybe(SEED), "same seed, same picture; random if none is given")

    # ---------------------------------------------------------------------- sketch and output
    preprocessor: str = option(
        "invert",
        Choice(PREPROCESSORS),
        "invert: black lines on white; none: white lines on black; extract: draw the lines of a "
        "coloured picture",
    )
    height: int | None = option(None, _SIDE, "output height, px; the model's own if none is given")
    width: int | None = option(None, _SIDE, "output width, px; the model's own if none is given")
    autofit: bool = option(False, Flag(), "choose height and width by the sketch's aspect")
    crop_to_sketch: bool = option(True, Flag(), "cut off what was padded around the sketch")
    aesthetic_score: float = option(7.0, Real(0, 10), "what the picture's rating should be")

    # ----------------------------------------------------------------------------------- memory
    tiled_decode: bool = option(False, Flag(), "decode in tiles, for large pictures")
    low_memory: bool = option(False, Flag(), "free the encoders before denoising")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.remove_foreground and self.remove_background:
            raise UserError(
                "got remove_foreground and remove_background, expected one of them: together they "
                "leave nothing; drop one"
            )
        if self.white_background and self.remove_background_figure:
            raise UserError(
                "got white_background and remove_background_figure, expected one of them: a white "
                "background has no figure; drop one"
            )
        if self.autofit and (self.height or self.width):
            raise UserError(
                f"got autofit and a size ({self.height}x{self.width}), expected one of them; drop "
                "one"
            )

    @property
    def splits_context(self) -> bool:
        """Whether the context has a half of background tokens."""
        return self.split_attention or self.background_plugin

    def with_seed(self) -> "InferenceOptions":
        """Return these options with a seed: their own (0 is one), or a random one."""
        if self.seed is not None:
            return self
        return dataclasses.replace(self, seed=secrets.randbelow(SEED.high + 1))

    def output_size(
        self, sketch_height: int, sketch_width: int, limits: SizeLimits = PUBLISHED_LIMITS
    ) -> tuple[int, int]:
        """Return the output's height and width for a sketch of some size, px.

        Raises:
            UserError: a size that the model (see `SizeLimits`) does not draw.
        """
        if self.autofit:
            return autofit_size(sketch_height, sketch_width, limits)
        height, width = self.height or limits.default, self.width or limits.default
        check_size(height, width, limits)
        return height, width

    def block_scales(self, levels: Iterable[str]) -> tuple[float, ...]:
        """Return the factor of the reference in each transformer block.

        Args:
            levels: level of each block in order of execution, see `block_levels`.

        Raises:
            UserError: `block_strengths` are not as many as the blocks.
        """
        by_level = dict(zip(("high", "low", "bottom"), self.level_strengths, strict=True))
        scales = [self.reference_strength * by_level[level] for level in levels]
        if self.block_strengths is None:
            return tuple(scales)
        if len(self.block_strengths) != len(scales):
            raise UserError(
                f"got {len(self.block_strengths)} block_strengths, expected {len(scales)}, one "
                "for each transformer block of the model; add or drop some"
            )
        return tuple(a * b for a, b in zip(scales, self.block_strengths, strict=True))

    def to_json(self) -> str:
        """Return all options as a JSON object."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_config(cls, sampling: SamplingConfig) -> "InferenceOptions":
        """The options with which a training run samples."""
        return cls(
            sampler=sampling.sampler,
            schedule=sampling.schedule,
            steps=sampling.num_steps,
            reference_guidance=sampling.reference_guidance,
            sketch_guidance=sampling.sketch_guidance,
        )

    @classmethod
    def from_json(cls, text: str) -> "InferenceOptions":
        """Build options from a JSON object; see `from_dict`."""
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(
                f"got options that are no JSON ({error}), expected an object"
            ) from error
        return cls.from_dict(content)


def read_options(path: str | Path) -> dict[str, Any]:
    """Read the options that a JSON or YAML file sets; `InferenceOptions.from_dict` checks them.

    Raises:
        UserError: the file cannot be read, or holds no object.
    """
    import yaml

    path = Path(path)
    try:
        # JSON is YAML, but not to every YAML reader.
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        detail = getattr(error, "strerror", None) or "not text"
        raise UserError(f"got options file {path} ({detail}), expected JSON or YAML") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        detail = " ".join(str(error).split())
        raise UserError(f"got options file {path} ({detail}), expected JSON or YAML") from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"got options file {path} that holds a {type(content).__name__}, expected names and "
            "values"
        )
    return dict(content)


def block_levels(transformer_depth: Iterable[int], num_res_blocks: int) -> tuple[str, ...]:
    """Return the level of each transformer block of a UNet in order of execution.

    "bottom" is the middle of the UNet, "low" its deepest level on either side, "high" all others.

    Args:
        transformer_depth: transformer blocks after each res block, by level.
        num_res_blocks: res blocks a level in the encoder, one more in the decoder.
    """
    depths = tuple(transformer_depth)
    deepest = len(depths) - 1

    def side(order: Iterable[int], count: int) -> list[str]:
        return [
            "low" if level == deepest else "high"
            for level in order
            for _ in range(depths[level] * count)
        ]

    encoder = side(range(len(depths)), num_res_blocks)
    decoder = side(reversed(range(len(depths))), num_res_blocks + 1)
    return (*encoder, *["bottom"] * depths[-1], *decoder)
