"""From what the page holds to jobs, and from jobs to what the page shows."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from colorize_jax.config.options import SEED
from colorize_jax.errors import UserError
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pictures.arrays import Picture
from colorize_jax.inference.pictures.preprocess import reference_mask
from colorize_jax.studio import journal
from colorize_jax.studio.journal import JobRecord
from colorize_jax.studio.page.painting import (
    painted_hints,
    painted_mask,
    painted_regions,
    read_editor,
)
from colorize_jax.studio.service import BusyError, Job, Service
from colorize_jax.studio.uploads import REFERENCES, REGIONS
from data.pictures.lines import extract_lines
from data.pictures.masks import estimate_foreground, estimate_sketch_foreground

LOOK_SECONDS = 0.15
MAX_PICTURES = 8  # of a grid of seeds


@dataclass(frozen=True)
class Progress:
    """Where the pictures of one click stand.

    Attributes:
        records: of all jobs.
        told: in one sentence.
        previews: URLs of what running pictures will roughly be.
    """

    records: tuple[JobRecord, ...]
    told: str
    previews: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether nothing is to come."""
        return all(record.status not in journal.UNFINISHED for record in self.records)


def read_pictures(
    sketch: Mapping[str, Any] | None,
    reference: Mapping[str, Any] | None,
    background: Any,
    options: InferenceOptions,
    others: Sequence[Any] = (),
    regions: Mapping[str, Any] | None = None,
    hints: Mapping[str, Any] | None = None,
) -> dict[str, Picture]:
    """Read the editors.

    Args:
        sketch, reference: of the two large editors.
        background: a picture, or None.
        options: of the picture.
        others: further references, None where a place is empty.
        regions, hints: of the editors of regions and of colour hints.

    Raises:
        UserError: a picture is missing or unreadable.
    """
    pictures = {
        "sketch": read_editor(sketch, "the sketch"),
        "reference": read_editor(reference, "the reference"),
        "background": None if background is None else read_editor(_only(background), "background"),
    }
    if pictures["sketch"] is None:
        raise UserError("got no sketch, expected one; upload, paste or draw it")

    def lines_inside() -> np.ndarray:
        image = np.asarray(pictures["sketch"].on(255).convert("L"), np.float32) / 255
        if options.preprocessor == "extract":
            lines = extract_lines(np.asarray(pictures["sketch"].on(255), np.float32) / 127.5 - 1)
        else:
            lines = image if options.preprocessor == "none" else 1 - image
        return estimate_sketch_foreground(lines)

    pictures["sketch_mask"] = painted_mask(sketch, lines_inside, "the sketch's mask")
    if pictures["reference"] is not None:
        pictures["reference_mask"] = painted_mask(
            reference,
            lambda: reference_mask(pictures["reference"], source=options.mask_source),
            "the reference's mask",
        )
    more = [read_editor(_only(one), "a reference") for one in others if one is not None]
    if more and pictures["reference"] is None:
        raise UserError("got further references without the first, expected it; upload it, too")
    if not more and any(painted_regions(regions, len(REGIONS))):
        raise UserError(
            "got regions for one reference, expected further ones; add them or erase the regions"
        )
    pictures |= zip(REFERENCES[1:], more, strict=False)
    pictures |= zip(REGIONS, painted_regions(regions, 1 + len(more)), strict=False)
    pictures["color_hints"] = painted_hints(hints)
    return {role: picture for role, picture in pictures.items() if picture is not None}


def mask_preview(value: Mapping[str, Any] | None, is_sketch: bool) -> np.ndarray | None:
    """The mask of an editor's picture with what is painted, (H, W) uint8; None: no picture."""
    picture = read_editor(value, "the picture")
    if picture is None:
        return None

    def estimate() -> np.ndarray:
        image = picture.on(255)
        if not is_sketch:
            return estimate_foreground(image)
        return estimate_sketch_foreground(1 - np.asarray(image.convert("L"), np.float32) / 255)

    mask = painted_mask(value, estimate, "the mask")
    if mask is None:
        return (estimate() * 255).astype(np.uint8)
    return mask.rgb[..., 0]


def submit_all(
    service: Service,
    pictures: dict[str, Picture],
    options: InferenceOptions,
    count: int,
    owner: str,
) -> list[Job]:
    """Queue one picture for each of `count` seeds that follow each other.

    Raises:
        UserError: bad input.
    """
    options, jobs = options.with_seed(), []
    for i in range(count):
        seed = (options.seed + i) % (SEED.high + 1)
        try:
            jobs.append(service.submit(pictures, options.replace(seed=seed), owner))
        except BusyError as error:
            if not jobs:
                raise UserError(str(error)) from error
            break
    return jobs


def follow(service: Service, jobs: Sequence[Job]) -> Iterator[Progress]:
    """Tell where jobs stand whenever that has changed, until all are finished."""
    last = None
    while last is None or not last.finished:
        records = tuple(job.record for job in jobs)
        seen = (service.preview(record.id) for record in records)
        previews = tuple(preview.url for preview in seen if preview is not None)
        now = Progress(records, _sentence(service, records), previews)
        if now != last:
            yield now
            last = now
        if not now.finished:
            time.sleep(LOOK_SECONDS)


def _sentence(service: Service, records: Sequence[JobRecord]) -> str:
    errors = [record.error for record in records if record.error]
    if errors:
        return f"⚠ {errors[0]}"
    done = sum(record.status == journal.DONE for record in records)
    if any(record.status == journal.CANCELLED for record in records):
        return "Cancelled."
    if done == len(records):
        warnings = [record.warning for record in records if record.warning]
        seeds = ", ".join(str(record.options["seed"]) for record in records)
        return f"Done, seed {seeds}." + (f" ⚠ {warnings[0]}" if warnings else "")
    running = [record for record in records if record.status == journal.RUNNING]
    if running:
        steps = f"step {running[0].steps_done}"
        if running[0].steps:
            steps += f" of {running[0].steps}"
        return f"Colouring: {steps}; {done} of {len(records)} pictures done."
    places = [service.place(record.id) for record in records]
    return f"Waiting, place {min((p for p in places if p), default=1)} in the queue."


def _only(picture: Any) -> dict[str, Any]:
    """A picture as an editor would hold it."""
    return {"background": picture, "layers": [], "composite": picture}
