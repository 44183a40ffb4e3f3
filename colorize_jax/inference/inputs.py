"""The host's part of a picture: files -> arrays of fixed shapes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from colorize_jax.errors import UserError
from colorize_jax.inference.controls.hints import read_hints
from colorize_jax.inference.controls.scenes import RegionReference, Scene, mask_of, region_weights
from colorize_jax.inference.options import SEED, InferenceOptions
from colorize_jax.inference.pictures.arrays import Picture, PictureSource, read_picture
from colorize_jax.inference.pictures.masks import ForegroundExtractor, dilate_mask, resize_mask
from colorize_jax.inference.pictures.preprocess import (
    PreparedSketch,
    paint_out,
    prepare_reference,
    prepare_sketch,
    reference_mask,
    sketch_mask,
)
from colorize_jax.inference.pictures.sizes import Box
from colorize_jax.inference.system import System
from colorize_jax.nn.resize import resize_antialiased, resize_bicubic
from data.pictures.lines import LineExtractor, extract_lines

PictureLike = PictureSource | Picture
ReferenceLike = PictureLike | Scene
HintsLike = PictureLike | Sequence[str]


@dataclass(frozen=True)
class Extractors:
    """Extractors of lines and foregrounds, which may be replaced by learned ones.

    Attributes:
        lines: for the preprocessor "extract".
        foreground: for masks that are not given; by default the built-in estimates.
    """

    lines: LineExtractor = extract_lines
    foreground: ForegroundExtractor | None = None


BUILT_IN = Extractors()


@dataclass(frozen=True, eq=False)
class BackgroundInputs:
    """What stands behind the figure: the reference's own background, or a picture of its own.

    Attributes:
        image: (h, w, 3) float32 in [-1, 1], its figure painted white.
        mask: (h, w) float32, where that figure was.
    """

    image: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class ReferenceInputs:
    """A reference and what options ask of it, at its own size.

    Attributes:
        image: (h, w, 3) float32 in [-1, 1], as the encoders read it.
        mask: (h, w) float32 foreground; None where nothing asks for it.
        background: None where nothing asks for it.
        scene: of several references; `image` is the first one's.
        images: (h, w, 3) of every reference of the scene.
    """

    image: np.ndarray
    mask: np.ndarray | None = None
    background: BackgroundInputs | None = None
    scene: Scene | None = None
    images: tuple[np.ndarray, ...] = ()

    @property
    def all_images(self) -> tuple[np.ndarray, ...]:
        """Pictures whose tokens are the context: one, or those of the scene."""
        return self.images or (self.image,)


@dataclass(frozen=True, eq=False)
class PictureInputs:
    """One picture to make.

    Attributes:
        sketch: prepared.
        mask: (H, W) float32 foreground at the size of the sketch's tensor; None where nothing asks
            for it.
        reference: None: without one.
        color_hints: colours (H, W, 3) and mask (H, W) of `read_hints`, or None.
        weights: (P, H, W) how far each reference of a scene counts; None: there is one.
        doubt: what looks wrong with the sketch, in one line.
    """

    sketch: PreparedSketch
    mask: np.ndarray | None
    reference: ReferenceInputs | None
    doubt: str | None = None
    weights: np.ndarray | None = None
    color_hints: tuple[np.ndarray, np.ndarray] | None = None


def as_picture(source: PictureLike, *, mask: bool = False) -> Picture:
    """Read a picture, or a mask, that is not read yet."""
    return source if isinstance(source, Picture) else read_picture(source, mask=mask)


def read_reference(
    source: ReferenceLike,
    options: InferenceOptions,
    mask: PictureLike | None = None,
    extractors: Extractors = BUILT_IN,
    background: PictureLike | None = None,
) -> ReferenceInputs:
    """Read a reference, and find foreground and background where options ask for them.

    Args:
        source: the reference, or several.
        options: the controls.
        mask: of its foreground.
        extractors: what finds a mask that is not given.
        background: a picture in the place of the reference's own background.

    Raises:
        UserError: a picture is unreadable, the mask does not fit, or nothing takes the background.
    """
    if background is not None and not options.splits_context:
        raise UserError(
            "got a background that nothing takes, expected background_plugin (or split_attention) "
            "with it; turn it on or drop the background"
        )
    if isinstance(source, Scene):
        return _read_scene(source, options, mask, extractors, background)
    picture = as_picture(source)
    image = prepare_reference(picture)
    removed = "foreground" if options.remove_foreground else "background"
    removes = options.remove_foreground or options.remove_background
    if not (removes or options.splits_context or options.foreground_latent):
        return ReferenceInputs(image)
    found = reference_mask(
        picture,
        None if mask is None else as_picture(mask, mask=True),
        options.mask_source,
        extractors.foreground,
    )
    if options.background_plugin:
        found = dilate_mask(found, options.reference_mask_dilation)
    if removes:
        image = paint_out(image, found, options.reference_mask_threshold, removed)
    behind = None
    if options.splits_context:
        own = BackgroundInputs(image, found)
        if background is not None:
            own = _read_background(background, options, extractors)
        behind = _without_figure(own, options)
    return ReferenceInputs(image, found, behind)


def _read_scene(
    scene: Scene,
    options: InferenceOptions,
    mask: PictureLike | None,
    extractors: Extractors,
    background: PictureLike | None,
) -> ReferenceInputs:
    """Read every reference of a scene; the first one is read as if it were alone."""
    first, *others = scene.references
    whole = read_reference(_masked(first), options, mask, extractors, background)
    plain = options.replace(background_plugin=False, split_attention=False)
    read = [read_reference(_masked(other), plain, None, extractors).image for other in others]
    return replace(whole, scene=scene, images=(whole.image, *read))


def _masked(reference: RegionReference) -> Picture:
    """A reference with what lies outside of its own mask painted white."""
    picture = as_picture(reference.picture)
    if reference.own_mask is None:
        return picture
    inside = resize_mask(mask_of(reference.own_mask, picture), picture.height, picture.width) >= 0.5
    # What is cut away is not there: transparency is white wherever a reference is read.
    alpha = np.where(inside, 255 if picture.alpha is None else picture.alpha, 0).astype(np.uint8)
    return replace(picture, alpha=alpha)


def _read_background(
    source: PictureLike, options: InferenceOptions, extractors: Extractors
) -> BackgroundInputs:
    """A picture of its own; its figure counts only where it is to be removed."""
    picture = as_picture(source)
    mask = np.zeros((picture.height, picture.width), np.float32)
    if options.remove_background_figure:
        mask = reference_mask(picture, None, options.mask_source, extractors.foreground)
        mask = dilate_mask(mask, options.reference_mask_dilation)
    return BackgroundInputs(prepare_reference(picture), mask)


def _without_figure(background: BackgroundInputs, options: InferenceOptions) -> BackgroundInputs:
    if options.white_background:
        return BackgroundInputs(np.ones_like(background.image), background.mask)
    threshold = options.reference_mask_threshold
    painted = paint_out(background.image, background.mask, threshold, "foreground")
    return BackgroundInputs(painted, background.mask)


def read_sketch(
    source: PictureLike,
    reference: ReferenceInputs | None,
    system: System,
    options: InferenceOptions,
    mask: PictureLike | None = None,
    extractors: Extractors = BUILT_IN,
    color_hints: HintsLike | None = None,
) -> PictureInputs:
    """Read a sketch, fit it into its canvas, and find its foreground where options ask for that.

    Raises:
        UserError: a picture is unreadable, the mask does not fit, or the size is out of range.
    """
    picture = as_picture(source)
    height, width = options.output_size(picture.height, picture.width, system.limits)
    sketch = prepare_sketch(
        picture, height, width, options.preprocessor, extractors.lines, system.multiple
    )
    found = None
    if options.splits_context or options.background_latent_copy:
        found = sketch_mask(
            picture,
            sketch,
            None if mask is None else as_picture(mask, mask=True),
            options.mask_source,
            extractors.foreground,
        )
    scene = None if reference is None else reference.scene
    weights = None
    if scene is not None:
        weights = region_weights(scene, picture, sketch, options.region_softness)
    hints = None if color_hints is None else read_hints(color_hints, sketch, picture)
    return PictureInputs(sketch, found, reference, sketch.doubt(), weights, hints)


# ----------------------------------------------------------------------------- references, resized


def unique_references(inputs: Sequence[PictureInputs]) -> list[ReferenceInputs]:
    """The references of a batch: one where all pictures share it, else one for each picture."""
    references = [picture.reference for picture in inputs]
    return references[:1] if all(r is references[0] for r in references) else references


def at_side(images: Sequence[np.ndarray], side: int) -> np.ndarray:
    """Resize pictures (h, w, 3) of any sizes as the encoders do: (B, side, side, 3)."""
    resized = [resize_antialiased(jnp.asarray(image)[None], side, side)[0] for image in images]
    return np.stack([np.asarray(image) for image in resized])


def cover_box(height: int, width: int, canvas_height: int, canvas_width: int) -> Box:
    """Return the largest part of a picture, in its middle, that has a canvas's aspect."""
    scale = min(height / canvas_height, width / canvas_width)
    own_height = min(height, max(1, round(canvas_height * scale)))
    own_width = min(width, max(1, round(canvas_width * scale)))
    return Box((height - own_height) // 2, (width - own_width) // 2, own_height, own_width)


def on_canvas(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut (h, w, 3) to a canvas's aspect and resize it to (height, width, 3)."""
    part = cover_box(*image.shape[:2], height, width).crop(image)
    channels = [
        Image.fromarray(np.ascontiguousarray(part[..., i])).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for i in range(part.shape[-1])
    ]
    return np.clip(np.stack([np.asarray(channel) for channel in channels], axis=-1), -1, 1)


def stretch(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Stretch (h, w, C) to (height, width, C): how the plugin sees a background or its mask."""
    return np.asarray(resize_bicubic(jnp.asarray(image)[None], height, width)[0])


def crop_shares(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(4,) top, left, height, width of a canvas in a background, as shares of the background.

    As in training, these numbers and not the pixels say what the canvas shows of it: the largest
    part of the canvas's aspect, from the top left corner on.
    """
    own_height, own_width = image.shape[:2]
    _, _, height, width = cover_box(own_height, own_width, height, width)
    return np.array((0, 0, height / own_height, width / own_width), np.float32)


def latent_mask(mask: np.ndarray, cell: int) -> np.ndarray:
    """Masks (B, H, W) at the latents' resolution (B, H/cell, W/cell, 1).

    Every cell takes its first pixel, as the published code does.
    """
    return mask[:, ::cell, ::cell, None].astype(np.float32)


def foreground_of(reference: ReferenceInputs, options: InferenceOptions) -> np.ndarray:
    """A reference with its background painted white."""
    threshold = options.reference_mask_threshold
    return paint_out(reference.image, reference.mask, threshold, "background")


def stack(pictures: Sequence[np.ndarray], batch: int) -> np.ndarray:
    """Stack arrays; one of them serves a whole batch."""
    stacked = np.stack(pictures)
    return np.broadcast_to(stacked, (batch, *stacked.shape[1:]))


def check_reference(reference: object, options: InferenceOptions) -> None:
    """Check that there is a reference where one is needed, and none where none is looked at.

    Raises:
        UserError: there is none, or none although a control needs it; or one with `unconditional`.
    """
    if reference is not None and options.unconditional:
        raise UserError(
            "got a reference with unconditional, expected one of them: it would not be looked at; "
            "drop one"
        )
    if reference is None and not options.unconditional:
        raise UserError(
            "got no reference, expected one; to colour without one ask for it (unconditional)"
        )
    needing = [
        name
        for name in (
            "text",
            "split_attention",
            "background_plugin",
            "foreground_latent",
            "background_latent_copy",
            "attention_injection",
        )
        if getattr(options, name)
    ]
    if needing and reference is None:
        raise UserError(
            f"got {', '.join(needing)} without a reference, expected one to take it from; drop "
            f"{'it' if len(needing) == 1 else 'them'} or give a reference"
        )


def check_seeds(seeds: Sequence[int], count: int) -> None:
    """Raise UserError unless there is a seed for each of `count` pictures."""
    if len(seeds) != count or not all(0 <= seed <= SEED.high for seed in seeds):
        raise UserError(
            f"got seeds {seeds} for {count} pictures, expected one from 0 to {SEED.high} for each"
        )


def sequence(source: Any) -> list[Any]:
    """One picture or several, as a list.

    Raises:
        UserError: an empty one.
    """
    if isinstance(source, list | tuple):
        if not source:
            raise UserError("got an empty list of pictures, expected at least one")
        return list(source)
    if isinstance(source, np.ndarray):
        is_grey_batch = source.ndim == 3 and source.shape[2] > 4
        return list(source) if source.ndim == 4 or is_grey_batch else [source]
    return [source]


def paired(mask: Any, picture: Any, what: str) -> list[Any]:
    """Masks, as many as there are pictures; None for each where none are given.

    Raises:
        UserError: there are fewer or more.
    """
    count = len(sequence(picture))
    masks = [None] * count if mask is None else sequence(mask)
    if len(masks) != count:
        raise UserError(f"got {len(masks)} {what} for {count}, expected one for each")
    return masks
