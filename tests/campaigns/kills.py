"""Kill a run that saves all the time, at random moments; it must always go on, and end the same.

    python -m tests.campaigns.kills --count 1000 --seed 0

The run owns a workdir, restores its newest checkpoint, saves after every step and prunes, as
train.py does. A parent that has imported everything forks it, so that a kill costs a second. The
last line says how it went.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

TOTAL = 10**9  # steps that no run comes to before it is killed


class Data:
    """A position in data that every step depends on."""

    def __init__(self) -> None:
        self.index = 0

    def get_state(self) -> dict[str, int]:
        return {"next_index": self.index}

    def set_state(self, state: dict[str, int]) -> None:
        self.index = state["next_index"]

    def __next__(self) -> Any:
        import numpy as np

        self.index += 1
        return np.random.default_rng(self.index).standard_normal((16, 100), np.float32)


def run(workdir: str, total: int, report: Path) -> None:
    """Train up to a step; note each phase, the step resumed from, and the end's hash."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from colorize_jax.io.runs.checkpoint import Checkpoints
    from colorize_jax.io.runs.owner import Owner
    from colorize_jax.training import optim
    from colorize_jax.training.state import apply_gradients, create_state

    optimizer = optim.make_optimizer(optim.learning_rate(0.1, 10), clip_norm=1.0)

    def make_state() -> Any:
        params = {"unet": {"kernel": jnp.eye(100)}, "vae": {"kernel": jnp.ones((20, 20))}}
        return create_state(params, optimizer, trainable=("^unet/",))

    @jax.jit
    def step(state: Any, x: Any) -> Any:
        def loss(params: Any) -> Any:
            return jnp.mean(jnp.sin(x @ params["unet"]["kernel"]) ** 2)

        return apply_gradients(state, jax.grad(loss)(state.params), optimizer, 0.9)

    notes = report.open("a", buffering=1)

    def note(text: str) -> None:
        notes.write(text + "\n")

    data = Data()
    with Owner(workdir) as owner:
        note("take")
        owner.take()
        with Checkpoints(workdir, keep_last=2) as checkpoints:
            note("restore")
            restored = checkpoints.restore(jax.eval_shape(make_state), data)
            state, first = restored or (make_state(), 0)
            note(f"resumed {first} {int(state.step)} {data.index}")
            for number in range(first, total):
                state = step(state, next(data))
                note("save")
                checkpoints.save(number + 1, state, data)
                note(f"started {number + 1}")
                if random.random() < 0.3:
                    checkpoints.wait()
                    note(f"saved {number + 1}")
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    note(f"ended {digest.hexdigest()}")


def fork(workdir: str, total: int, report: Path) -> int:
    """Start a run in a child of this process; returns its number."""
    report.unlink(missing_ok=True)
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        run(workdir, total, report)
        status = 0
    except BaseException as error:
        with report.open("a") as file:
            file.write(f"failed {type(error).__name__}: {' '.join(str(error).split())[:300]}\n")
    finally:
        os._exit(status)


def lines_of(report: Path) -> list[str]:
    return report.read_text().splitlines() if report.exists() else []


def campaign(count: int, first_seed: int, seconds: float) -> dict[str, Any]:
    """Kill a run so many times, or until the time is over, and compare its end.

    Returns:
        Kills, in which phase they came, what went wrong, and whether the end is the same.
    """
    rng, phases, failures = random.Random(first_seed), Counter(), []
    deadline, kills, at_least = time.monotonic() + seconds, 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report, workdir = folder / "report", str(folder / "killed")
        while kills < count and time.monotonic() < deadline and not failures:
            child = fork(workdir, TOTAL, report)
            _wait_for(report, "resumed" if rng.random() < 0.8 else "take")
            time.sleep(rng.random() * rng.choice((0.1, 1.0, 3.0)))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
            lines = lines_of(report)
            failures += [line for line in lines if line.startswith("failed")]
            for line in lines:
                if line.startswith("resumed"):
                    step, own, index = map(int, line.split()[1:])
                    if not step == own == index or step < at_least:
                        failures.append(f"{line}, at least {at_least} was saved")
            complete = [int(line.split()[1]) for line in lines if line.startswith("saved")]
            # A save is complete before the next one starts.
            begun = [int(line.split()[1]) for line in lines if line.startswith("started")]
            at_least = max([at_least, *complete, *begun[:-1]])
            phases[lines[-1].split()[0] if lines else "start"] += 1
        ends = []
        if not failures:
            for place in (workdir, str(folder / "undisturbed")):
                child = fork(place, at_least + 3, report)
                os.waitpid(child, 0)
                ends.append(lines_of(report)[-1])
        shutil.rmtree(workdir, ignore_errors=True)
    same = len(ends) == 2 and ends[0].startswith("ended") and ends[0] == ends[1]
    return {
        "kills": kills,
        "steps": at_least,
        "killed_after": dict(phases),
        "failures": failures,
        "bit_identical_end": same,
    }


def _wait_for(report: Path, word: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(line.startswith((word, "failed")) for line in lines_of(report)):
            return
        time.sleep(0.002)


def main() -> int:
    """Run the campaign; 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="kills")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments")
    parser.add_argument("--seconds", type=float, default=1e9, metavar="S", help="stop after")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Everything that can be imported before a process is split; no device is touched.
    import jax  # noqa: F401

    import colorize_jax.io.runs.checkpoint
    import colorize_jax.io.runs.owner
    import colorize_jax.training.state  # noqa: F401

    report = campaign(options.count, options.seed, options.seconds)
    print(json.dumps(report, indent=1))
    return 0 if report["bit_identical_end"] and not report["failures"] else 1


if __name__ == "__main__":
    sys.exit(main())
