"""Many pictures: which sketch takes its colours from which reference, and where the result goes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from colorize_jax.errors import UserError
from colorize_jax.inference.controls.scenes import Scene
from colorize_jax.inference.inputs import PictureInputs, ReferenceInputs
from colorize_jax.inference.metadata import PictureMetadata, save_png
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pipeline import ColorizePipeline
from colorize_jax.io.formats.atomic import NOTHING, Reads

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".ppm")
MAX_LISTED = 3
PARTNERS = ("reference", "sketch_mask", "reference_mask", "background", "hints")


@dataclass(frozen=True)
class Job:
    """One picture to make.

    Attributes:
        sketch: its file.
        output: PNG to write.
        reference: file, or None: without one.
        scene: several references in its place.
        sketch_mask, reference_mask, background, hints: files, or None.
        points: hints in the place of a file's.
    """

    sketch: Path
    output: Path
    reference: Path | None = None
    scene: Scene | None = None
    sketch_mask: Path | None = None
    reference_mask: Path | None = None
    background: Path | None = None
    hints: Path | None = None
    points: tuple[str, ...] = ()

    @property
    def inputs(self) -> dict[str, str]:
        """Role -> path, of those that there are."""
        roles = ("sketch", *PARTNERS)
        return {role: str(path) for role in roles if (path := getattr(self, role)) is not None}


@dataclass
class Report:
    """How many pictures went which way.

    Attributes:
        made: jobs whose picture was written.
        failed: jobs that could not be done, and why.
    """

    made: list[Job] = field(default_factory=list)
    failed: list[tuple[Job, str]] = field(default_factory=list)


def plan_jobs(
    sketch: Path,
    output: Path,
    *,
    scene: Scene | None = None,
    points: Sequence[str] = (),
    **partners: Path,
) -> list[Job]:
    """Match files: a sketch or a folder of them, with one reference for all or those of its name.

    Args:
        sketch: file or folder.
        output: PNG to write, or the folder for results where `sketch` is one.
        scene: several references, of every sketch.
        points: colour hints, of every sketch.
        partners: of `PARTNERS`, a file for all, or a folder whose files are matched by name without
            suffix; sketches without a partner are made without it, where that is allowed.

    Raises:
        UserError: there are no sketches, or results would overwrite each other or the sketches.
    """
    if not sketch.is_dir():
        if output.is_dir():
            output = output / f"{sketch.stem}.png"
        if output.suffix.lower() != ".png":
            raise UserError(f"got output {output}, expected a name that ends in .png; change it")
        sketches, outputs = [sketch], [output]
    else:
        if output.suffix and not output.is_dir():
            raise UserError(
                f"got output {output} for a folder of sketches, expected a folder; name one"
            )
        sketches = list(_pictures(sketch))
        outputs = [output / f"{path.stem}.png" for path in sketches]
        if not sketches:
            raise UserError(
                f"got {sketch} without pictures, expected some of {', '.join(SUFFIXES)}; check it"
            )
    matched = {role: _partners(path, sketches) for role, path in partners.items()}
    _check_distinct(sketches, outputs)
    return [
        Job(
            path,
            outputs[i],
            scene=scene,
            points=tuple(points),
            **{role: found[i] for role, found in matched.items()},
        )
        for i, path in enumerate(sketches)
    ]


def run_jobs(
    pipeline: ColorizePipeline,
    jobs: Sequence[Job],
    options: InferenceOptions,
    *,
    batch_size: int = 1,
    overwrite: bool = False,
    reads: Reads = NOTHING,
    extra: dict[str, object] | None = None,
    progress: Callable[[int, list[str]], None] = lambda count, warnings: None,
) -> Report:
    """Make pictures one batch after another; what cannot be read or written costs itself alone.

    Args:
        pipeline: who makes them.
        jobs: what to make.
        options: with a seed, the same for every picture.
        batch_size: pictures at a time.
        overwrite: replace outputs that exist.
        reads: what must not be written to.
        extra: for the metadata of every picture.
        progress: called with how many more jobs are done, and what is doubtful about them.

    Raises:
        UserError: what is wrong for every picture.
    """
    report = Report()
    batch_size = min(batch_size, len(jobs))
    waiting: dict[tuple[int, ...], list[tuple[Job, PictureInputs]]] = {}

    def make(batch: list[tuple[Job, PictureInputs]]) -> None:
        # A smaller batch would be compiled anew.
        rows = [batch[min(i, len(batch) - 1)][1] for i in range(batch_size)]
        images = pipeline.color(rows, options, [options.seed] * batch_size)
        for (job, _), image in zip(batch, images, strict=False):
            made_with = PictureMetadata(options, inputs=job.inputs, extra=extra or {})
            try:
                save_png(image, job.output, made_with, overwrite, reads)
                report.made.append(job)
            except UserError as error:
                report.failed.append((job, str(error)))
        doubts = [f"{job.sketch}: {picture.doubt}" for job, picture in batch if picture.doubt]
        progress(len(batch), doubts)
        batch.clear()

    readers = _Reader(pipeline, options)
    for job in jobs:
        try:
            picture = readers.read(job)
        except UserError as error:
            report.failed.append((job, str(error)))
            progress(1, [])
            continue
        batch = waiting.setdefault(picture.sketch.tensor.shape, [])
        batch.append((job, picture))
        if len(batch) == batch_size:
            make(batch)
    for batch in waiting.values():
        if batch:
            make(batch)
    return report


class _Reader:
    """Reads jobs; a reference that serves many sketches is read once."""

    def __init__(self, pipeline: ColorizePipeline, options: InferenceOptions):
        self._pipeline, self._options = pipeline, options
        self._last: tuple[object, ReferenceInputs | None] | None = None

    def read(self, job: Job) -> PictureInputs:
        key = job.reference, job.scene, job.reference_mask, job.background
        if self._last is None or self._last[0] != key:
            reference = self._pipeline.read_reference(
                job.scene or job.reference, self._options, job.reference_mask, job.background
            )
            self._last = key, reference
        hints = list(job.points) or job.hints
        return self._pipeline.read_sketch(
            job.sketch, self._last[1], self._options, job.sketch_mask, hints
        )


def _pictures(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            yield path


def _partners(path: Path, sketches: Sequence[Path]) -> list[Path | None]:
    """What goes with each sketch."""
    if not path.is_dir():
        return [path] * len(sketches)
    by_name: dict[str, Path] = {}
    for found in _pictures(path):
        by_name.setdefault(found.stem, found)
    partners = [by_name.get(sketch.stem) for sketch in sketches]
    if not any(partners):
        raise UserError(
            f"got {path} without a file of any sketch's name (such as {sketches[0].stem}), "
            "expected pairs of the same name; rename them or name one file for all"
        )
    return partners


def _check_distinct(sketches: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Two sketches that differ in their suffix alone would have one result."""
    seen: dict[Path, Path] = {}
    for sketch, output in zip(sketches, outputs, strict=True):
        if output in seen:
            raise UserError(
                f"got {seen[output].name} and {sketch.name}, which both become {output.name}, "
                "expected names that differ; rename one"
            )
        seen[output] = sketch
