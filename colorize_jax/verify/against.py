"""Run an exported PyTorch pipeline and ours on the same pictures and noise, and compare."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from colorize_jax.errors import UserError, nearest_hint
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pipeline import ColorizePipeline
from colorize_jax.rng import stream
from colorize_jax.setup.checkpoints import open_pipeline
from colorize_jax.verify.golden import relative_error

TOLERANCE = 2e-4  # of latents, in float32
LEVEL_TOLERANCE = 1  # of pictures, in 8 bits
SEED, STEPS = 7, 4
MASKED = ("split_attention", "background_plugin", "background_latent_copy", "remove_background")
PLUGIN_RUNS = ("background_plugin", "foreground_latent")

# Run -> options; "background": another picture than the reference's own.
RUNS: Mapping[str, Mapping[str, Any]] = {
    "as the model suggests": {},
    "DPM++ 2M": {"sampler": "DPM++ 2M", "reference_guidance": 1},
    "Euler a": {"sampler": "Euler a", "reference_guidance": 3},
    "Heun": {"sampler": "Heun", "reference_guidance": 2},
    "DPM++ SDE": {"sampler": "DPM++ SDE", "reference_guidance": 2},
    "DDIM": {"sampler": "DDIM", "reference_guidance": 2},
    "guidance by the sketch": {"reference_guidance": 1, "sketch_guidance": 2},
    "guidance by both": {"reference_guidance": 3, "sketch_guidance": 2},
    "guidance windows": {"guidance_window": (0, 0.8), "no_guidance_window": (0.2, 0.5)},
    "strengths": {
        "reference_strength": 0.8,
        "level_strengths": (0.7, 1.2, 0.9),
        "sketch_strength": 0.9,
        "sketch_strengths": (0.7, 0.8, 0.9, 1.1),
    },
    "no reference": {"unconditional": True},
    "split attention": {"split_attention": True},
    "split attention, merged": {
        "split_attention": True,
        "merge": 0.3,
        "foreground_strength": 0.9,
        "background_strength": 0.8,
    },
    "background removed": {"remove_background": True},
    "background copied": {"background_latent_copy": True},
    "attention injection": {"attention_injection": True, "injection_fidelity": 0.3},
    "plugin": {"background_plugin": True},
    "plugin, another background": {
        "background_plugin": True,
        "background": True,
        "sketch_guidance": 1.5,
    },
    "plugin, foreground and strengths": {
        "background_plugin": True,
        "foreground_latent": True,
        "lora_scales": {"background": 0.5},
        "merge": 0.2,
        "attention_injection": True,
    },
}

LEAST_CELLS = 4  # a side


@dataclass(frozen=True)
class Difference:
    """What was compared.

    Attributes:
        run: its name.
        error: of the latents, ||theirs - ours|| / ||ours||.
        levels: largest difference of the pictures, of 255; None: not decoded.
    """

    run: str
    error: float
    levels: int | None = None

    @property
    def passed(self) -> bool:
        """Whether both are within their tolerances."""
        return self.error <= TOLERANCE and (self.levels or 0) <= LEVEL_TOLERANCE


def verify_against(
    folder: str | Path,
    checkpoints: Sequence[str | Path] = (),
    *,
    size: int | None = None,
    runs: Mapping[str, Mapping[str, Any]] = RUNS,
    name: str | None = None,
) -> Iterator[Difference]:
    """Compare a pipeline folder with ours, in float32 on CPU.

    Args:
        folder: that `export --format pipeline` wrote.
        checkpoints: what it was made from; by default the folder itself is read back.
        size: side of the pictures, px; by default the least that the model draws, and at least
            `LEAST_CELLS` places at the UNet's coarsest level.
        runs: name -> options; those of the plugin are passed over where there is none.
        name: of the only one of them to compare.

    Raises:
        UserError: the folder cannot be read, there is no such run, or PyTorch's libraries are not
            installed.
    """
    if name is not None:
        if name not in runs:
            raise UserError(
                f"got run {name!r}, expected one of {', '.join(runs)}"
                f"{nearest_hint(name, runs)}; check the name"
            )
        runs = {name: runs[name]}
    ours = open_pipeline(*(checkpoints or [folder]), dtype="float32")
    theirs = load_pipeline(folder)
    limits = ours.system.limits
    multiple = ours.system.multiple
    # Group norms over one or two places amplify rounding without bound.
    side = size or -(-max(limits.minimum, LEAST_CELLS * multiple) // multiple) * multiple
    pictures = draw_pictures(side)
    shown = next(iter(runs))  # decoding is the same whatever the controls
    for name, given in runs.items():
        if ours.system.background_encoder is None and any(key in given for key in PLUGIN_RUNS):
            continue
        given = {"height": side, "width": side, "steps": STEPS, **given}
        with jax.default_matmul_precision("highest"):
            yield _compare(name, ours, theirs, pictures, given, shows=name == shown)


def load_pipeline(folder: str | Path) -> Any:
    """Load a folder's pipeline in float32 by diffusers.

    Raises:
        UserError: diffusers is not installed.
    """
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise UserError(
            "got --against without PyTorch's libraries, expected torch, diffusers and "
            "transformers; install the extra interop"
        ) from error
    pipeline = DiffusionPipeline.from_pretrained(
        str(folder), custom_pipeline=str(folder), trust_remote_code=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def jax_noise(seed: int, shape: Sequence[int]) -> Callable[[str, int], Any]:
    """The noise that our pipeline draws for one picture, as the folder's pipeline asks for it.

    Args:
        seed: of the picture.
        shape: of its latents, (h, w, C).
    """
    import torch

    key = jax.random.key(np.uint32(seed))
    start, fresh = jax.random.split(key)

    def noise(name: str, number: int) -> Any:
        if name == "initial":
            own = start
        elif name == "step":
            own = jax.random.fold_in(fresh, number)
        elif name == "injection":
            own = stream(key, 0, "injection")
        else:
            own = jax.random.fold_in(stream(key, 0, "background"), number)
        drawn = jax.random.normal(own, tuple(shape))
        return torch.tensor(np.asarray(drawn)).permute(2, 0, 1)[None]

    return noise


def draw_pictures(side: int) -> dict[str, Image.Image]:
    """A sketch, a reference, masks of both and a background, of several aspects."""
    random, found = np.random.default_rng(0), {}
    sizes = {"sketch": (5, 4), "reference": (4, 5), "background": (3, 5)}
    for name, shape in sizes.items():
        height, width = (max(8, side * share // 4) for share in shape)
        colors = random.integers(0, 255, (2, 3))
        picture = np.full((height, width, 3), 255 if name == "sketch" else colors[0], np.uint8)
        figure = np.s_[height // 4 : -height // 5, width // 4 : -width // 3]
        if name == "sketch":
            picture[figure][[0, -1]] = picture[figure][:, [0, -1]] = 0
        else:
            picture[figure] = colors[1]
            picture[: height // 6, ::3] //= 2
        mask = np.zeros((height, width), np.uint8)
        mask[figure] = 255
        found[name] = Image.fromarray(picture)
        found[f"{name}_mask"] = Image.fromarray(mask)
    return found


def _compare(
    name: str,
    ours: ColorizePipeline,
    theirs: Any,
    pictures: Mapping[str, Image.Image],
    given: Mapping[str, Any],
    *,
    shows: bool,
) -> Difference:
    """Compare the latents of one run, and the picture where it `shows`."""
    given = dict(given)
    inputs = {"sketch": pictures["sketch"]}
    if not given.get("unconditional"):
        inputs["reference"] = pictures["reference"]
    if any(given.get(option) for option in MASKED):
        inputs |= {mask: pictures[mask] for mask in ("sketch_mask", "reference_mask")}
    if given.pop("background", False):
        inputs["background"] = pictures["background"]

    options = InferenceOptions.from_dict({**ours.defaults.to_dict(), **given, "seed": SEED})
    reference = ours.read_reference(
        inputs.get("reference"), options, inputs.get("reference_mask"), inputs.get("background")
    )
    picture = ours.read_sketch(inputs["sketch"], reference, options, inputs.get("sketch_mask"))
    expected = ours.denoise(ours.condition([picture], options, [SEED]), options)
    given["noise"] = jax_noise(SEED, expected.shape[1:])
    found = theirs(**inputs, **given, output_type="latent").images
    error = relative_error(found.permute(0, 2, 3, 1).numpy(), np.asarray(expected))
    if not shows:
        return Difference(name, error)
    (shown,) = ours.color([picture], options, [SEED])
    levels = np.int16(np.asarray(shown)) - np.int16(np.asarray(theirs(**inputs, **given).images[0]))
    return Difference(name, error, int(np.abs(levels).max()))
