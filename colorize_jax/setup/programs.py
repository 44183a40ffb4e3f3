"""The training step's programs, one per picture size and number of branches, compiled ahead."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from colorize_jax.training.state import TrainState
from colorize_jax.training.step import Metrics
from colorize_jax.types import Array

logger = logging.getLogger(__name__)

_OWN = ("image", "sketch", "sketch_mask")
_REFERENCES = ("reference", "reference_mask")
_MOMENTS = "moments"  # at the size of latents
_CORES_EACH = 8  # host cores that one compilation keeps busy
_MOST = 4  # concurrent compilations


class ProgramKey(NamedTuple):
    """Which program a step is.

    Attributes:
        height, width: of the pictures, px.
        dual: whether both branches run.
    """

    height: int
    width: int
    dual: bool

    def __str__(self) -> str:
        return f"{self.height}x{self.width} px, {'both branches' if self.dual else 'one branch'}"


class _Program(NamedTuple):
    run: jax.stages.Compiled
    flops: int


class Programs:
    """Compiles the step in background threads, in the order of requests, and runs it.

    Args:
        step: `training.step.jit_step`, of (state, record, key, dual=).
        count_flops: (state, record, dual=) -> FLOPs of a step.
        mesh: where it runs.
        find_stored: (state, record, key) -> a program of both branches for such arguments that was
            compiled elsewhere, or None.
    """

    def __init__(
        self,
        step: Any,
        count_flops: Callable[..., int],
        mesh: Mesh,
        find_stored: Callable[[Any], jax.stages.Compiled | None] | None = None,
    ):
        self._step, self._count_flops, self._mesh = step, count_flops, mesh
        self._find_stored = find_stored
        # Several processes share autotuning results while they compile, so all of them have to
        # compile in the same order: one program at a time.
        cores = os.cpu_count() or 1
        alone = jax.process_count() == 1
        threads = min(_MOST, max(1, cores // _CORES_EACH)) if alone else 1
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="compile")
        self._programs: dict[ProgramKey, Future[_Program]] = {}

    def close(self) -> None:
        """Wait for running compilations and drop the queued ones."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def key(self, record: Mapping[str, Any], *, dual: bool) -> ProgramKey:
        """Which program a batch needs."""
        return ProgramKey(*record["sketch"].shape[1:3], dual)

    def is_ready(self, program: ProgramKey) -> bool:
        """Whether it can run at once."""
        return program in self._programs and self._programs[program].done()

    def prepare(
        self,
        state: TrainState,
        record: Mapping[str, Any],
        key: Array,
        shapes: Sequence[tuple[int, int]],
        *,
        dual: bool,
    ) -> None:
        """Queue compilations that are missing; returns at once.

        Args:
            state, record, key: of any step, arrays or shapes.
            shapes: heights and widths of the batches that will come.
            dual: for which of the branches.
        """
        size = tuple(record["sketch"].shape[1:3])
        told = [_abstract(tree) for tree in (state, record, key)]
        for height, width in shapes:
            program = ProgramKey(height, width, dual)
            if program not in self._programs:
                other = _resized(told[1], size, (height, width))
                self._programs[program] = self._pool.submit(
                    self._compile, program, told[0], other, told[2]
                )

    def wait(self, program: ProgramKey) -> None:
        """Block until a program is compiled; raises what its compilation raised."""
        self._programs[program].result()

    def flops(self, program: ProgramKey) -> int:
        """FLOPs of the global batch; waits for the program."""
        return self._programs[program].result().flops

    def __call__(
        self, state: TrainState, record: Mapping[str, Array], key: Array, *, dual: bool
    ) -> tuple[TrainState, Metrics]:
        """Do one update; see `training.step.train_step`."""
        program = self.key(record, dual=dual)
        self.prepare(state, record, key, [program[:2]], dual=dual)
        return self._programs[program].result().run(state, record, key)

    def _compile(
        self, program: ProgramKey, state: TrainState, record: Mapping[str, Any], key: Any
    ) -> _Program:
        start = time.perf_counter()
        with jax.set_mesh(self._mesh):
            flops = self._count_flops(state, record, dual=program.dual)
            run = None
            if program.dual and self._find_stored:
                run = self._find_stored((state, record, key))
            if run is None:
                run = self._step.lower(state, record, key, dual=program.dual).compile()
        seconds = time.perf_counter() - start
        total = len(self._programs)
        done = 1 + sum(one.done() for one in list(self._programs.values()))
        if total > 1:
            logger.info("program %d of %d after %.0f s: %s", done, total, seconds, program)
        return _Program(run, flops)


def _abstract(tree: Any) -> Any:
    """Shapes, and where the arrays lie."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def _resized(
    record: Mapping[str, jax.ShapeDtypeStruct], own: tuple[int, int], to: tuple[int, int]
) -> dict[str, jax.ShapeDtypeStruct]:
    """The record's shapes in a batch of other pictures; squares of references stay as they are."""

    def change(name: str, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        follows = name in _OWN or (name in _REFERENCES and leaf.shape[1:3] == own)
        if not follows and name != _MOMENTS:
            return leaf
        sides = (side * new // old for side, new, old in zip(leaf.shape[1:], to, own, strict=False))
        shape = (leaf.shape[0], *sides, *leaf.shape[3:])
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=leaf.sharding)

    return {name: change(name, leaf) for name, leaf in record.items()}
