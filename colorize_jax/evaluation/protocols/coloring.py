"""Colour pairs as `colorize` does, and score them as they come: memory does not grow with them."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from colorize_jax.errors import UserError
from colorize_jax.evaluation.protocols.features import Judges
from colorize_jax.evaluation.protocols.pairs import Kind, Pair, Pairs
from colorize_jax.evaluation.protocols.progress import Progress
from colorize_jax.evaluation.protocols.scoring import score
from colorize_jax.inference.inputs import PictureInputs
from colorize_jax.inference.options import SEED, InferenceOptions
from colorize_jax.inference.pipeline import ColorizePipeline
from data.errors import DataError

NUM_SHOWN = 12  # pairs whose pictures are kept for the report
SHOWN_SIDE = 384  # px, at most
THREADS = 4  # that read and score

_Done = tuple[int, dict[str, Any], dict[str, np.ndarray]]  # index, line, features


@dataclass(eq=False)
class _Open:
    """A pair of which some results are still to be made."""

    index: int
    pair: Pair
    missing: set[str]
    results: dict[str, np.ndarray] = field(default_factory=dict)


class Evaluator:
    """Colours and scores pairs.

    Args:
        pipeline: who colours.
        pairs: what.
        options: how; the seed is that of the first pair, every further pair has the next.
        progress: where results are kept.
        judges: networks that look at them.
        batch_size: pictures at a time.
        advance: called with 1 for every pair that is done.
    """

    def __init__(
        self,
        pipeline: ColorizePipeline,
        pairs: Pairs,
        options: InferenceOptions,
        progress: Progress,
        judges: Judges,
        batch_size: int,
        advance: Callable[[int], object] = lambda count: None,
    ):
        self._pipeline, self._pairs, self._options = pipeline, pairs, options
        self._progress, self._judges, self._batch_size = progress, judges, batch_size
        self._waiting: dict[tuple, list[tuple[_Open, str, PictureInputs]]] = {}
        self._advance = advance
        self._scoring: list[Future[_Done]] = []

    def run(self, indices: Sequence[int]) -> None:
        """Do the pairs that are not done.

        Args:
            indices: of this process's pairs.

        Raises:
            UserError: what is wrong for every pair, or results that cannot be written.
        """
        left = [i for i in indices if i not in self._progress.rows]
        with ThreadPoolExecutor(THREADS) as pool:
            try:
                for index, pair in self._read(left, pool):
                    if isinstance(pair, str):
                        self._note((index, {"name": f"pair {index}", "problem": pair}, {}))
                    else:
                        self._open(index, pair, pool)
                    self._collect(self._batch_size)
                for key in list(self._waiting):
                    self._color(key, pool)
                self._collect(0)
            finally:
                pool.shutdown(cancel_futures=True)

    def _read(
        self, indices: Sequence[int], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[int, Pair | str]]:
        """Pairs in order, read ahead; the reason in the place of one that cannot be read."""

        def read(index: int) -> Pair | str:
            try:
                return self._pairs[index]
            except DataError as error:
                return str(error)

        ahead: list[tuple[int, Future[Pair | str]]] = []
        for index in indices:
            ahead.append((index, pool.submit(read, index)))
            if len(ahead) > THREADS:
                first, future = ahead.pop(0)
                yield first, future.result()
        for index, future in ahead:
            yield index, future.result()

    def _open(self, index: int, pair: Pair, pool: ThreadPoolExecutor) -> None:
        """Prepare a pair's pictures, and colour whatever fills a batch."""
        kinds = {n: k for n, k in self._pairs.kinds.items() if k.reference in pair.references}
        try:
            inputs = {name: self._prepare(pair, kind) for name, kind in kinds.items()}
        except UserError as error:
            self._note((index, {"name": pair.name, "problem": str(error)}, {}))
            return
        opened = _Open(index, pair, set(kinds))
        for name, one in inputs.items():
            key = (name, *one.sketch.tensor.shape)
            batch = self._waiting.setdefault(key, [])
            batch.append((opened, name, one))
            if len(batch) == self._batch_size:
                self._color(key, pool)

    def _prepare(self, pair: Pair, kind: Kind) -> PictureInputs:
        options = self._options_of(kind)
        masks = [None if m is None else m[..., 0] for m in (pair.reference_mask, pair.sketch_mask)]
        if not kind.plugin:
            masks = [None, None]
        given = None if options.unconditional else pair.references[kind.reference]
        reference = self._pipeline.read_reference(given, options, masks[0])
        hints = pair.hint.picture if kind.hinted else None
        return self._pipeline.read_sketch(pair.sketch[..., 0], reference, options, masks[1], hints)

    def _options_of(self, kind: Kind) -> InferenceOptions:
        if any(one.plugin for one in self._pairs.kinds.values()):
            return self._options.replace(background_plugin=kind.plugin)
        return self._options

    def _color(self, key: tuple, pool: ThreadPoolExecutor) -> None:
        """Colour a batch, filled up where it is not full: a smaller one would be compiled anew."""
        batch = self._waiting.pop(key)
        rows = [batch[min(i, len(batch) - 1)] for i in range(self._batch_size)]
        options = self._options_of(self._pairs.kinds[batch[0][1]])
        seeds = [(options.seed + opened.index) % (SEED.high + 1) for opened, _, _ in rows]
        made = self._pipeline.color([inputs for _, _, inputs in rows], options, seeds)
        for (opened, name, _), image in zip(batch, made, strict=False):
            opened.results[name] = np.asarray(image)
            opened.missing.remove(name)
            if not opened.missing:
                self._finish(opened, pool)

    def _finish(self, done: _Open, pool: ThreadPoolExecutor) -> None:
        kinds, pair = self._pairs.kinds, done.pair
        # In the order of the protocol, whatever order they were made in.
        results = {name: done.results[name] for name in kinds if name in done.results}
        seen, features = self._judges(pair, kinds, results)

        def rest() -> _Done:
            if done.index < NUM_SHOWN:
                self._keep_pictures(done.index, pair, results)
            scores = score(pair, kinds, results) | seen
            return done.index, {"name": pair.name, "scores": scores}, features

        self._scoring.append(pool.submit(rest))

    def _keep_pictures(self, index: int, pair: Pair, results: dict[str, np.ndarray]) -> None:
        shown = {"sketch": pair.sketch[..., 0], "truth": pair.truth}
        shown |= {f"reference-{name}": image for name, image in pair.references.items()}
        shown |= {f"result-{name}": image for name, image in results.items()}
        if pair.hint is not None:
            shown["hints"] = np.asarray(pair.hint.picture)
        for name, picture in shown.items():
            thumbnail = Image.fromarray(picture)
            thumbnail.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
            self._progress.keep_picture(index, name, thumbnail)

    def _collect(self, most: int) -> None:
        """Note what is scored, and wait until at most so many pairs are not."""
        while self._scoring and (self._scoring[0].done() or len(self._scoring) > most):
            self._note(self._scoring.pop(0).result())

    def _note(self, done: _Done) -> None:
        self._progress.add(*done)
        self._advance(1)
