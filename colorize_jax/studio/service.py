"""Jobs -> pictures: one thread owns the device and takes jobs of one shape together.

A job waits in the queue until the worker takes it, with others whose options and shape are the same
and that come within a few milliseconds: they differ in pictures and seeds alone. What a picture
looks like does not depend on its company, but for rounding.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import jax

from colorize_jax.errors import UserError
from colorize_jax.inference.inputs import PictureInputs
from colorize_jax.inference.metadata import PictureMetadata
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pictures.arrays import Picture
from colorize_jax.inference.pipeline import ColorizePipeline
from colorize_jax.inference.program_options import make_traced_options
from colorize_jax.studio import journal
from colorize_jax.studio.errands import Errand
from colorize_jax.studio.journal import JobRecord, Journal
from colorize_jax.studio.metrics import Metrics
from colorize_jax.studio.previews import Preview
from colorize_jax.studio.several import read_scene

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = (
    "got a picture too large for the device's memory, expected a smaller one; lower height and "
    "width, or turn on tiled_decode or low_memory"
)
STEP_SECONDS = 60.0  # that a step, or its compilation, is waited for at the end
UNWRITABLE = "the server cannot write its outputs, its disk may be full; tell who runs it"
INTERNAL = "the server failed at this picture ({}); its log says why"


class BusyError(Exception):
    """No job is taken now; the message says why in one sentence."""


class AllCancelledError(Exception):
    """Nobody wants the pictures any more that are being made."""


@dataclass(frozen=True)
class ServiceLimits:
    """How much is done at a time.

    Attributes:
        queue: most jobs that wait.
        batch: most pictures at a time.
        window: how long the first one waits for company, seconds.
        num_pixels: most pixels of a result.
    """

    queue: int = 64
    batch: int = 4
    window: float = 0.005
    num_pixels: int = 8 * 10**6


@dataclass(eq=False)
class Job:
    """A job that is not finished, or just was.

    Attributes:
        record: what is told about it; replaced, never changed.
        picture: what is coloured.
        options: with the seed.
        wanted: false once it is cancelled.
        preview: what it will roughly be, once a step has run.
        finished: resolves to the last record.
    """

    record: JobRecord
    picture: PictureInputs
    options: InferenceOptions
    wanted: bool = True
    preview: Preview | None = None
    finished: "Future[JobRecord]" = field(default_factory=Future)

    @property
    def group(self) -> tuple[Any, ...]:
        """Equal for jobs that can be made together."""
        reference, sketch = self.picture.reference, self.picture.sketch
        references = 0 if reference is None else len(reference.all_images)
        hinted = self.picture.color_hints is not None
        return (self.options.replace(seed=0), sketch.tensor.shape, references, hinted)


class Service:
    """The queue, the worker and the journal.

    Attributes:
        pipeline: which colours.
        journal: of all jobs.
        metrics: what happens here, in numbers.
    """

    def __init__(
        self,
        pipeline: ColorizePipeline,
        journal: Journal,
        limits: ServiceLimits | None = None,
        metrics: Metrics | None = None,
    ):
        """Start the worker."""
        self.pipeline, self.journal = pipeline, journal
        self.metrics = metrics or Metrics()
        self._limits = limits or ServiceLimits()
        self._queue: deque[Job] = deque()
        self._jobs: dict[str, Job] = {}  # those that are not finished
        self._errands: deque[Errand] = deque()
        self._open = True
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="device", daemon=True)
        self._worker.start()

    # --------------------------------------------------------------------------------- clients

    def submit(
        self,
        pictures: dict[str, Picture],
        options: InferenceOptions,
        owner: str = "",
        factors: Sequence[Any] = (),
    ) -> Job:
        """Queue a picture; what is wrong with it is found here, before it waits.

        Args:
            pictures: role of `uploads.ROLES` -> picture.
            options: without a seed they get one.
            owner: name of the client's key.
            factors: of several references, see `several.read_scene`.

        Raises:
            UserError: bad input.
            BusyError: the queue is full, or the service is closing.
        """
        if "sketch" not in pictures:
            raise UserError("got no sketch, expected one; send a picture under that name")
        options = options.with_seed()
        self.check_size(pictures["sketch"], options)
        # Strengths and steps that the model does not have.
        make_traced_options(self.pipeline.system, options)
        reference = self.pipeline.read_reference(
            read_scene(pictures, factors),
            options,
            pictures.get("reference_mask"),
            pictures.get("background"),
        )
        picture = self.pipeline.read_sketch(
            pictures["sketch"],
            reference,
            options,
            pictures.get("sketch_mask"),
            pictures.get("color_hints"),
        )
        record = JobRecord.new(owner, options.to_dict(), picture.doubt)
        job = Job(record, picture, options)
        with self._changed:
            if not self._open:
                raise BusyError("the server is closing; send the picture again later")
            if len(self._queue) >= self._limits.queue:
                raise BusyError(
                    f"got a full queue ({len(self._queue)} pictures wait); send it again later"
                )
            try:
                self.journal.add(record)
            except UserError as error:
                logger.error("%s", error)
                raise BusyError(UNWRITABLE) from error
            self._jobs[record.id] = job
            self._queue.append(job)
            self._changed.notify_all()
        return job

    def check_size(self, sketch: Picture, options: InferenceOptions) -> None:
        """Raise UserError before anything of a size is allocated that is too large."""
        sizes = self.pipeline.system.limits
        height, width = options.output_size(sketch.height, sketch.width, sizes)
        if height * width > self._limits.num_pixels:
            raise UserError(
                f"got a size of {width}x{height} px, expected at most {self._limits.num_pixels} "
                "pixels; lower height or width"
            )

    def run(self, function: Callable[[ColorizePipeline], Any]) -> "Future[Any]":
        """Do something else on the device, before the next pictures.

        Args:
            function: gets the pipeline; what it returns or raises is the future's.

        Raises:
            BusyError: too many wait, or the service is closing.
        """
        errand = Errand(function)
        with self._changed:
            if not self._open or len(self._errands) >= self._limits.queue:
                raise BusyError("got no room for this now; ask again later")
            self._errands.append(errand)
            self._changed.notify_all()
        return errand.future

    def find(self, job_id: str, owner: str = "") -> JobRecord | None:
        """Return a job's record; None: the owner has no such job."""
        job = self._jobs.get(job_id)
        record = job.record if job else self.journal.read(job_id)
        return record if record is not None and record.owner == owner else None

    def preview(self, job_id: str) -> Preview | None:
        """What a running job's picture will roughly be, once a step has run."""
        job = self._jobs.get(job_id)
        return None if job is None else job.preview

    def place(self, job_id: str) -> int | None:
        """How many jobs stand before this one, itself included; None: it does not wait."""
        with self._changed:
            ids = [job.record.id for job in self._queue]
        return ids.index(job_id) + 1 if job_id in ids else None

    def cancel(self, job_id: str, owner: str = "") -> JobRecord | None:
        """Cancel a job: at once where it waits, after the current step where it runs.

        Returns:
            Its record; None: the owner has no such job.
        """
        with self._changed:
            job = self._jobs.get(job_id)
            if job is not None and job.record.owner == owner:
                job.wanted = False
                if job in self._queue:
                    self._queue.remove(job)
                self._finish(job, status=journal.CANCELLED)
        return self.find(job_id, owner)

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._queue)

    @property
    def is_open(self) -> bool:
        """Whether jobs are taken."""
        return self._open

    def close(self, seconds: float = 0.0) -> None:
        """Take no more jobs; finish those that are queued, as long as the time allows.

        Args:
            seconds: after which jobs that are left are given up, and said to be lost.
        """
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self._worker.join(seconds)
        with self._changed:
            self._queue.clear()
            while self._errands:
                self._errands.pop().future.cancel()
            for job in list(self._jobs.values()):
                job.wanted = False
                self._finish(job, status=journal.LOST, error=journal.LOST_REASON)
            self._changed.notify_all()
        self._worker.join(STEP_SECONDS)
        self.journal.close()

    # ------------------------------------------------------------------------------ the worker

    def _work(self) -> None:
        while (batch := self._take()) is not None:
            if isinstance(batch, Errand):
                batch.run(self.pipeline)
                continue
            try:
                self._make(batch)
            except Exception as error:
                # Whatever it is: the next picture may be a good one.
                logger.exception("a batch of %d pictures failed", len(batch))
                self._fail(batch, INTERNAL.format(type(error).__name__), journal.INTERNAL)

    def _take(self) -> list[Job] | Errand | None:
        """Wait for a job and for its company, or for an errand; None: the service is closed."""
        with self._changed:
            while not (self._queue or self._errands):
                if not self._open:
                    return None
                self._changed.wait()
            if self._errands:
                return self._errands.popleft()
            group, deadline = self._queue[0].group, time.monotonic() + self._limits.window
            while self._open and len(self._of(group)) < self._limits.batch:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            batch = self._of(group)[: self._limits.batch]
            for job in batch:
                self._queue.remove(job)
                self._update(job, status=journal.RUNNING, started=time.time())
        return batch or self._take()  # all of them may have been cancelled

    def _of(self, group: tuple[Any, ...]) -> list[Job]:
        return [job for job in self._queue if job.group == group]

    def _make(self, batch: Sequence[Job]) -> None:
        """Make pictures of one group, together or, where memory is short, one by one."""
        try:
            self._color(batch)
        except AllCancelledError:
            return
        except UserError as error:
            self._fail(batch, str(error), journal.INPUT)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            if len(batch) == 1:
                logger.warning("out of memory: %s", error)
                self._fail(batch, OUT_OF_MEMORY, journal.MEMORY)
                return
            for job in batch:
                self._make([job])

    def _color(self, batch: Sequence[Job]) -> None:
        options = batch[0].options
        # Where memory is short, the autoencoder is not kept for previews.
        color_map = None if options.low_memory else self.pipeline.color_map

        def watch(done: int, expected: Any, total: int | None) -> None:
            seen = None if color_map is None else color_map.pixels(expected)
            with self._changed:
                for i, job in enumerate(batch):
                    if job.wanted:
                        job.record = job.record.change(steps_done=done, steps=total)
                        job.preview = None if seen is None else Preview(seen[i])
            if not any(job.wanted for job in batch):
                raise AllCancelledError

        # Sizes of batches are powers of two: each is compiled for.
        size = 1 << (len(batch) - 1).bit_length()
        rows = [batch[min(i, len(batch) - 1)] for i in range(size)]
        self.metrics.batches.observe(len(batch))
        with self.metrics.seconds.time():
            images = self.pipeline.color(
                [job.picture for job in rows], options, [job.options.seed for job in rows], watch
            )
        for job, image in zip(batch, images, strict=False):
            if not job.wanted:
                continue
            try:
                self.journal.save(job.record, image, PictureMetadata(job.options))
            except UserError as error:
                logger.error("%s", error)
                self._fail([job], UNWRITABLE, journal.INTERNAL)
                continue
            with self._changed:
                self._finish(job, status=journal.DONE)

    def _fail(self, batch: Sequence[Job], reason: str, kind: str) -> None:
        with self._changed:
            for job in batch:
                self._finish(job, status=journal.FAILED, error=reason, error_kind=kind)

    # What follows is called with the lock held.

    def _update(self, job: Job, **changes: Any) -> None:
        job.record = job.record.change(**changes)
        try:
            self.journal.write(job.record)
        except UserError as error:  # clients are told all the same, as long as the process lives
            logger.error("%s", error)

    def _finish(self, job: Job, **changes: Any) -> None:
        """Say what became of a job, unless that is said already."""
        if job.record.id not in self._jobs:
            return
        self._update(job, finished=time.time(), **changes)
        del self._jobs[job.record.id]
        self.metrics.jobs.labels(job.record.status).inc()
        job.finished.set_result(job.record)
