"""Kills of a small loop that does nothing but take a workdir, restore, save and prune."""

import hashlib
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.campaigns.processes import Note, kill, lines_of, start, wait_for

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


def train(workdir: str, total: int, note: Note) -> None:
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


def campaign(count: int, rng: random.Random, seconds: float, folder: Path) -> dict[str, Any]:
    """Kill the loop so many times, or until the time is over, and compare its end.

    Returns:
        Kills, in which phase they came, what went wrong, and how many ends were the same.
    """
    phases, failures = Counter(), []
    deadline, kills, at_least = time.monotonic() + seconds, 0, 0
    report, workdir = folder / "report", str(folder / "killed")
    while kills < count and time.monotonic() < deadline and not failures:
        child = start(lambda note: train(workdir, TOTAL, note), report)
        wait_for(report, "resumed" if rng.random() < 0.8 else "take")
        time.sleep(rng.random() * rng.choice((0.1, 1.0, 3.0)))
        kills += kill(child)
        lines = lines_of(report)
        failures += [line for line in lines if line.startswith("failed")]
        for line in lines:
            if line.startswith("resumed"):
                step, own, index = map(int, line.split()[1:])
                if not step == own == index or step < at_least:
                    failures.append(f"{line}, at least {at_least} was saved")
        at_least = max(at_least, complete_step(lines))
        phases[lines[-1].split()[0] if lines else "start"] += 1
    ends = []
    if not failures:
        for place in (workdir, str(folder / "undisturbed")):
            total = at_least + 3
            os.waitpid(start(lambda note, p=place, t=total: train(p, t, note), report), 0)
            ends.append(lines_of(report)[-1])
        if not ends[0].startswith("ended") or ends[0] != ends[1]:
            failures.append(f"ends {ends}")
    return {
        "kills": kills,
        "steps": at_least,
        "killed_after": dict(phases),
        "failures": failures,
        "identical_ends": int(not failures),
    }


def complete_step(lines: list[str]) -> int:
    """The newest step that is on the disk for sure: a save is complete before the next starts."""
    saved = [int(line.split()[1]) for line in lines if line.startswith("saved")]
    begun = [int(line.split()[1]) for line in lines if line.startswith("started")]
    return max([0, *saved, *begun[:-1]])
