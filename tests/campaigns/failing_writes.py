"""Every write of a command fails once, by each error; nothing may be half-written or lost.

    python -m tests.campaigns.failing_writes --command colorize

A library that is compiled here (cc) and preloaded makes the n-th write below a folder fail, be it
of Python or of TensorStore: a file opened to write, a folder, a new name, bytes, their way to the
disk. A command then ends with its documented status and one line, and what was there is whole: the
old or the new. A training goes on or ends with one line; the same command, when everything can be
written again, then comes to the same end as a run that nothing happened to.
"""

import argparse
import ctypes
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.campaigns import kill_runs
from tests.campaigns.kill_commands import command, make_runs
from tests.campaigns.processes import Note, lines_of, prepare, run, start

ERRORS = {
    "disk full": errno.ENOSPC,
    "permission": errno.EACCES,
    "read-only": errno.EROFS,
    "name too long": errno.ENAMETOOLONG,
}
SHIM = Path(__file__).with_name("failing_libc.c")
SMALL = ("--config.evaluation.num_pairs=2", "--config.evaluation.batch_size=2")
STEPS = 4


def make_commands(folder: Path, note: Note) -> None:
    """Runs, pictures and what commands replace; their words go into a file."""
    make_runs(folder, note)
    for kind in ("sketches", "references"):  # two pictures are enough
        for path in sorted((folder / kind).iterdir())[2:]:
            path.unlink()


def words(folder: Path) -> dict[str, list[str]]:
    """Command -> what it is called with; OUT is the folder in which writes fail."""
    a, out = str(folder / "a"), folder / "out"
    pair = ["--checkpoint", a, "--seed", "1", "--overwrite"]
    one = ["--sketch", str(folder / "sketches/0.png")]
    one += ["--reference", str(folder / "references/0.png"), "--output", str(out / "one.png")]
    all_ = ["--sketch", str(folder / "sketches"), "--reference", str(folder / "references")]
    all_ += ["--output", str(out / "all"), "--contact-sheet", str(out / "sheet.png")]
    export = ["export", "--checkpoint", a, "--overwrite", "--output"]
    return {
        "export": [*export, str(out / "m.safetensors")],
        "shards": [*export, str(out / "shards"), "--max-shard-size", "500KB"],
        "diffusers": [*export, str(out / "diffusers"), "--format", "diffusers"],
        "import": ["import", "--input", str(folder / "a.safetensors"), "--overwrite"]
        + ["--output", str(out / "weights")],
        "colorize": ["colorize", *pair, *one],
        "folder": ["colorize", *pair, *all_],
        "eval": ["eval", f"--workdir={out / 'run'}", "--overwrite", *SMALL],
    }


def call(given: list[str], fails: tuple[str, int, int], note: Note) -> None:
    """Run a command while a write fails; note how many writes it has made, and its status."""
    if given[0] == "eval":
        import eval as evaluation

        def act() -> int:
            return evaluation.main(given[1:])
    else:
        from colorize_jax.commands import cli

        def act() -> int:
            return cli.main(given)

    failing(act, fails, note)


def failing(act: Callable[[], int], fails: tuple[str, int, int], note: Note) -> None:
    library = ctypes.CDLL(None)
    library.fail_count.restype = ctypes.c_long
    folder, number, error = fails
    library.fail_set(os.fsencode(folder), ctypes.c_long(number), ctypes.c_int(error))
    try:
        status = act()
    finally:
        count = library.fail_count()
        library.fail_set(b"", ctypes.c_long(0), ctypes.c_int(0))
    note(f"writes {count}")
    note(f"status {status}")


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def outcome(report: Path) -> tuple[int | None, int, str]:
    """Status, writes and what was said, of a child that has ended."""
    lines = dict(line.split(" ", 1) for line in lines_of(report))
    said = report.with_suffix(".out").read_text()
    if "failed" in lines:
        return None, 0, f"{lines['failed']} {said[-300:]}"
    return int(lines.get("status", -1)), int(lines.get("writes", 0)), said


def commands(name: str, rng: random.Random, most: int, folder: Path) -> dict[str, Any]:
    """Fail every write of a command (or `most` of them, drawn) by every error."""
    report, out = folder / "report", folder / "out"
    run(partial(make_commands, folder), report)
    out.mkdir()
    if name == "import":
        given = ["export", "--checkpoint", str(folder / "a")]
        run(partial(command, [*given, "--output", str(folder / "a.safetensors")]), report)
    if name == "eval":
        shutil.copytree(folder / "a", out / "run")
    given = words(folder)[name]
    run(partial(call, given, (str(out), 0, 0)), report)
    before = snapshot(out)
    points = []
    for error in ERRORS.values():
        run(partial(call, given, (str(out), 10**9, error)), report)
        points += [(number + 1, error) for number in range(outcome(report)[1])]
    chosen = points if len(points) <= most else rng.sample(points, most)
    outcomes, failures = Counter(), []
    for number, error in chosen:
        os.waitpid(start(partial(call, given, (str(out), number, error)), report), 0)
        status, _, said = outcome(report)
        wrong = judge(name, status, said, before, snapshot(out))
        failures += [f"write {number} by {errno.errorcode[error]}: {fault}" for fault in wrong]
        outcomes[f"status {status}"] += 1
        if wrong:
            shutil.rmtree(out)
            out.mkdir()
            if name == "eval":
                shutil.copytree(folder / "a", out / "run")
            run(partial(call, given, (str(out), 0, 0)), report)
        before = snapshot(out)
    return {"writes": len(points), "failed": len(chosen)} | dict(outcomes) | {"failures": failures}


def judge(
    name: str, status: int | None, said: str, before: dict[str, bytes], after: dict[str, bytes]
) -> list[str]:
    """What is wrong about a command whose write has failed."""
    wrong = [] if status in (0, 1, 2) and "Traceback" not in said else [f"{status} {said[-500:]}"]
    errors = [x for x in said.splitlines() if x.startswith(("error: ", "failed: "))]
    if status == 2 and len(errors) != 1:
        wrong.append(f"{len(errors)} lines: {said[-500:]}")
    if status == 1 and (name != "folder" or not errors):
        wrong.append(f"status 1: {said[-500:]}")
    # The same weights and seed make the same bytes, but for what an evaluation took.
    same = {n: x for n, x in after.items() if not n.endswith("report.json")}
    if same != {n: x for n, x in before.items() if not n.endswith("report.json")}:
        changed = [n for n in {**before, **after} if before.get(n) != after.get(n)]
        wrong.append(f"changed {changed[:5]}")
    for n in after:
        if n.endswith("report.json"):
            json.loads(after[n])
    return wrong


def training(_: str, rng: random.Random, most: int, folder: Path) -> dict[str, Any]:
    """Fail writes of a training; the same command then comes to the same end."""
    report, template = folder / "report", folder / "undisturbed"
    work = folder / "work"

    def arguments(workdir: Path) -> list[str]:
        return [*kill_runs.OPTIONS, f"--config.total_steps={STEPS}", f"--workdir={workdir}"]

    run(partial(train, arguments(template), (str(folder), 0, 0)), report)
    expected = hashes(report)
    outcomes, failures, writes = Counter(), [], {}
    for error in (errno.ENOSPC, errno.EACCES):
        shutil.rmtree(work, ignore_errors=True)
        run(partial(train, arguments(work), (str(work), 10**9, error)), report)
        writes[error] = outcome(report)[1]
    for _ in range(most):
        error = rng.choice(list(ERRORS.values()))
        number = rng.randint(1, writes[error if error == errno.ENOSPC else errno.EACCES])
        shutil.rmtree(work, ignore_errors=True)
        fails = (str(work), number, error)
        os.waitpid(start(partial(train, arguments(work), fails), report), 0)
        status, _, said = outcome(report)
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        told = "WARNING" in said or status == 2
        outcomes[f"status {status}{'' if told else ', nothing said'}"] += 1
        where = f"write {number} by {errno.errorcode[error]}"
        if status not in (0, 2) or len(errors) != (status == 2) or "Traceback" in said:
            failures.append(f"{where}: {status} {said[-700:]}")
        os.waitpid(start(partial(train, arguments(work), (str(work), 0, 0)), report), 0)
        if outcome(report)[0] != 0 or hashes(report) != expected:
            failures.append(f"{where}: then {outcome(report)[0]} {outcome(report)[2][-700:]}")
    return {"writes": writes[errno.ENOSPC]} | dict(outcomes) | {"failures": failures}


def hashes(report: Path) -> list[str]:
    return [line for line in lines_of(report) if line.startswith("hash")][-1:]


def train(arguments: list[str], fails: tuple[str, int, int], note: Note) -> None:
    """Run train.py while a write fails."""
    notes: list[str] = []
    failing(lambda: kill_runs.train(arguments, STEPS, notes.append), fails, note)
    for text in notes:
        if text.startswith("hash"):
            note(text)


def main() -> int:
    """Run the campaign of one command; 1 where anything went wrong."""
    names = [*words(Path()), "train"]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--command", choices=names, required=True)
    parser.add_argument("--most", type=int, default=10**6, metavar="N", help="failures, drawn")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the drawing")
    options = parser.parse_args()
    if "LD_PRELOAD" not in os.environ:
        with tempfile.TemporaryDirectory() as name:
            library = f"{name}/failing.so"
            build = ["cc", "-shared", "-fPIC", "-O1", "-o", library, str(SHIM), "-ldl"]
            subprocess.run(build, check=True)
            again = [sys.executable, "-m", "tests.campaigns.failing_writes", *sys.argv[1:]]
            return subprocess.call(again, env=os.environ | {"LD_PRELOAD": library})
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        folder = Path(name) / "work"
        folder.mkdir()
        act = training if options.command == "train" else commands
        began = time.monotonic()
        report = act(options.command, random.Random(options.seed), options.most, folder)
    seconds = round(time.monotonic() - began)
    print(json.dumps({"command": options.command, **report, "seconds": seconds}, indent=1))
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
