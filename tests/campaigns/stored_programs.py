"""The programs of a training step, compiled by one child of a campaign and loaded by the next.

Tracing and compiling them takes most of a short run; what is killed or fails in a campaign is what
a run reads and writes.
"""

import contextlib
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FOLDER = "CAMPAIGN_PROGRAMS"  # in the environment: where they are kept


def stored(make_step: Callable[..., Any]) -> Callable[..., "Stored"]:
    """`training.step.jit_step`, whose programs are stored: one config for a number of processes."""
    return lambda *given: Stored(make_step(*given))


class Stored:
    """A jitted step, compiled only where no process of the same place did so before."""

    def __init__(self, step: Any):
        self._step = step
        self._lowered: tuple[Any, dict[str, Any]] = ((), {})

    def lower(self, *given: Any, dual: bool) -> "Stored":
        lowered = Stored(self._step)
        lowered._lowered = given, {"dual": dual}
        return lowered

    def compile(self) -> Any:
        import jax
        from jax.experimental import serialize_executable

        given, options = self._lowered
        place = f"{jax.process_index()}-of-{jax.process_count()}-{options['dual']}"
        path = Path(os.environ[FOLDER]) / place
        if path.exists():
            return serialize_executable.deserialize_and_load(*pickle.loads(path.read_bytes()))
        with _no_cache():
            compiled = self._step.lower(*given, **options).compile()
        whole = path.with_name(f"{path.name}.{os.getpid()}")
        whole.write_bytes(pickle.dumps(serialize_executable.serialize(compiled)))
        whole.rename(path)
        return compiled


@contextlib.contextmanager
def _no_cache() -> Iterator[None]:
    """On CPU what comes out of JAX's cache cannot be stored again."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()
