"""Kills of train.py on the smallest config, of one process or of one of two."""

import hashlib
import random
import socket
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.campaigns.kill_saves import complete_step
from tests.campaigns.processes import Note, kill, lines_of, start, wait_for
from tests.campaigns.stored_programs import stored

CONFIG = Path(__file__).parents[1] / "configs" / "smallest.py"
TOTAL = 12  # steps
OPTIONS = (
    f"--config={CONFIG}",
    # One program for all steps, and a smaller one: loading it takes most of a start.
    "--config.gram.zero_share=0",
    "--config.model.transformer_depth=(0,0,1)",
    "--config.gram.blocks=(1,)",
    "--config.checkpoint.every_steps=1",
    "--config.logging.samples_every=0",
    "--config.logging.tracker=none",
)
TWO = ("--config.mesh.data=1", "--config.mesh.fsdp=-1", "--num_processes=2")


def train(arguments: Sequence[str], total: int, note: Note) -> int:
    """Run train.py; note its saves, the step resumed from, and the last step's hash.

    Args:
        arguments: of the command line.
        total: the last step.
        note: see `processes.start`.

    Returns:
        The exit status.
    """
    import jax
    import numpy as np

    import train as program
    from colorize_jax.io.runs.checkpoint import Checkpoints

    def digest(state: Any) -> str:
        found = hashlib.sha256()
        for leaf in jax.tree.leaves(state):
            for shard in leaf.addressable_shards:
                found.update(np.asarray(shard.data).tobytes())
        return found.hexdigest()

    class Noting(Checkpoints):
        def restore(self, *given: Any, **options: Any) -> Any:
            note("restore")
            restored = super().restore(*given, **options)
            note(f"resumed {restored[1] if restored else 0}")
            if restored and restored[1] == total:
                note(f"hash {digest(restored[0])}")
            return restored

        def save(self, step: int, state: Any, *given: Any) -> bool:
            if step == total:
                note(f"hash {digest(state)}")
            note("save")
            started = super().save(step, state, *given)
            note(f"started {step}")
            return started

    program.Checkpoints = Noting
    program.jit_step = stored(program.jit_step)
    program.step_flops = lambda *_, **__: 1  # traces the step once more, for a figure of the log
    note("take")
    return program.main(arguments)


def run_whole(arguments: Sequence[str], note: Note) -> None:
    """Run train.py, and note how it ends."""
    status = train(arguments, TOTAL, note)
    note(f"ended {status}" if status == 0 else f"failed with status {status}")


class Run:
    """A workdir, and how train.py is started on it."""

    def __init__(self, folder: Path, name: str, processes: int):
        self.workdir = folder / name
        self.reports = [folder / f"report-{i}" for i in range(processes)]

    def start(self) -> list[int]:
        """Start all processes; returns their numbers."""
        arguments = [*OPTIONS, f"--config.total_steps={TOTAL}", f"--workdir={self.workdir}"]
        if len(self.reports) == 1:
            return [start(partial(run_whole, arguments), self.reports[0])]
        arguments += [*TWO, f"--coordinator=127.0.0.1:{free_port()}"]
        own = [[*arguments, f"--process_id={i}"] for i in range(len(self.reports))]
        pairs = zip(own, self.reports, strict=True)
        return [start(partial(run_whole, each), report) for each, report in pairs]

    def finish(self) -> None:
        """Run to the end, with nobody killed."""
        children = self.start()
        # A process that fails alone would leave the other waiting for it.
        for report in self.reports:
            wait_for(report, "ended", seconds=1200)
        for child in children:
            kill(child)

    def ended(self) -> bool:
        return all("ended 0" in lines_of(report) for report in self.reports)

    def hashes(self) -> list[list[str]]:
        """Of the last state's parts, those that each process notes."""
        return [[x for x in lines_of(r) if x.startswith("hash")][-1:] for r in self.reports]


def moment(rng: random.Random) -> tuple[str, int, float]:
    """Which line, the how manieth, a kill waits for, and how long then; most come during saves."""
    seconds = rng.random() * rng.choice((0.05, 0.5, 2.0))
    if rng.random() < 0.6:
        return "save", rng.randint(1, 4), seconds
    return rng.choice(("resumed", "resumed", "take")), 1, seconds


def campaign(
    count: int, rng: random.Random, seconds: float, folder: Path, processes: int = 1
) -> dict[str, Any]:
    """Kill runs at random moments, starting each again to its end; see `kill_saves.campaign`.

    What was killed is compared at its end with a run that nobody stops, the last one too.
    """
    whole = Run(folder, "undisturbed", processes)
    whole.finish()
    if not whole.ended():
        said = [report.with_suffix(".out").read_text()[-500:] for report in whole.reports]
        raise RuntimeError(f"the undisturbed run failed: {said}")
    expected = whole.hashes()
    phases, failures = Counter(), []
    deadline, kills, ends, at_least = time.monotonic() + seconds, 0, 0, 0
    run = Run(folder, "killed-0", processes)
    while not failures and ((goes_on := kills < count and time.monotonic() < deadline) or at_least):
        # Which one is killed first; what the other does without it must not count as a step.
        first = rng.randrange(processes)
        if goes_on:
            word, number, pause = moment(rng)
            children = run.start()
            wait_for(run.reports[first], word, number)
            time.sleep(pause)
            kills += kill(children.pop(first))
            for child in children:
                time.sleep(2 * rng.random())
                kill(child)
        else:
            run.finish()
        lines = lines_of(run.reports[first])
        phases[lines[-1].split()[0] if lines else "start"] += goes_on
        for line in lines:
            if line.startswith("resumed") and int(line.split()[1]) < at_least:
                failures.append(f"{line}, at least {at_least} was saved")
        # The other one fails, of course, when its partner is gone.
        failures += [line for line in lines if line.startswith("failed")]
        at_least = max(at_least, complete_step(lines))
        if run.ended():
            ends += 1
            if run.hashes() != expected:
                failures.append(f"{run.workdir.name} ends as {run.hashes()}, not {expected}")
            run, at_least = Run(folder, f"killed-{ends}", processes), 0
        elif not goes_on:
            failures.append(f"{run.workdir.name} does not end: {lines[-3:]}")
    return {
        "kills": kills,
        "killed_after": dict(phases),
        "failures": failures,
        "identical_ends": ends,
    }


def free_port() -> int:
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        return connection.getsockname()[1]
