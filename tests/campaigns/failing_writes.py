"""Every write of a command fails once, by each error; nothing may be half-written or lost.

    python -m tests.campaigns.failing_writes --results failing.jsonl
    python -m tests.campaigns.failing_writes --command colorize

The writes that fail are of every file and folder that a command makes the first, a middle and the
last one: a new name by each error, bytes by a full disk. Reports are lines of a file: started
again, the campaign does the commands that the file lacks.

A library that is compiled here (cc) and preloaded makes the n-th write below a folder fail, be it
of Python or of TensorStore: a file opened to write, a folder, a new name, bytes, their way to the
disk. A command then ends with its documented status and one line, and what was there is whole: the
old or the new. A training goes on or ends with one line; the same command, when everything can be
written again, then comes to the same end as a run that nothing happened to.
"""

import argparse
import ctypes
import errno
import importlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.campaigns import kill_runs
from tests.campaigns.kill_commands import command, make_runs, values
from tests.campaigns.processes import Note, lines_of, prepare, read, run, start

ERRORS = {
    "disk full": errno.ENOSPC,
    "permission": errno.EACCES,
    "read-only": errno.EROFS,
    "name too long": errno.ENAMETOOLONG,
}
SHIM = Path(__file__).with_name("failing_libc.c")
EVALUATION = ("--num=2", "--batch-size=2")
STEPS = 4
TRAINING = (*kill_runs.OPTIONS, f"--config.total_steps={STEPS}")
ENCODING = (f"--config={kill_runs.CONFIG}", "--config.data.num_examples=6", "--shard_size=3")
GOING_ON = ("eval", "encode", "prepare", "train")
OTHER_PROGRAMS = {"eval": "eval", "prepare": "data.prepare.__main__"}  # than the command line's
NEVER = 10**9


@dataclass(frozen=True)
class Fails:
    """Which write fails.

    Attributes:
        folder: below which they are counted.
        number: of the write, from 1.
        error: by which it fails.
        listed: file for the paths of all writes.
    """

    folder: str
    number: int = 0
    error: int = 0
    listed: str = ""


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
        "look": ["look", "--checkpoint", a, "--seed", "1", "--overwrite", *one[:-1]]
        + [str(out / "look")],
        "import": ["import", "--input", str(folder / "a.safetensors"), "--overwrite"]
        + ["--output", str(out / "weights")],
        "colorize": ["colorize", *pair, *one],
        "folder": ["colorize", *pair, *all_],
    }


def call(given: list[str], fails: Fails, note: Note) -> None:
    """Run a command while a write fails; note how many writes it has made, and its status."""
    program = OTHER_PROGRAMS.get(given[0])
    own = given[1:] if program else given
    main = importlib.import_module(program or "colorize_jax.commands.cli").main
    failing(lambda: main(own), fails, note)


def failing(act: Callable[[], int], fails: Fails, note: Note) -> None:
    """Do something while a write fails, or while the path of every write is listed."""
    library = ctypes.CDLL(None)
    library.fail_count.restype = ctypes.c_long
    if fails.listed:
        library.fail_log(os.open(fails.listed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    folder = os.fsencode(fails.folder)
    library.fail_set(folder, ctypes.c_long(fails.number), ctypes.c_int(fails.error))
    try:
        status = act()
    finally:
        count = library.fail_count()
        library.fail_set(b"", ctypes.c_long(0), ctypes.c_int(0))
    note(f"writes {count}")
    note(f"status {status}")


def chosen(measure: Callable[[Fails], None], fails: Fails) -> tuple[int, list[Fails]]:
    """Which writes shall fail, and of how many: of each output the first, a middle, the last.

    Args:
        measure: does what shall fail while the paths of its writes are listed.
        fails: below which folder, and where they are listed.
    """
    points, num_writes = [], 0
    for errors in (["disk full"], ["permission", "read-only", "name too long"]):
        measure(replace(fails, number=NEVER, error=ERRORS[errors[0]]))
        paths = Path(fails.listed).read_text().splitlines()
        numbers = defaultdict(list)
        for number, path in enumerate(paths, 1):
            numbers[output_of(path)].append(number)
        own = {
            n for group in numbers.values() for n in (group[0], group[len(group) // 2], group[-1])
        }
        points += [
            replace(fails, number=n, error=ERRORS[e], listed="") for e in errors for n in own
        ]
        num_writes += len(paths) * len(errors)
    return num_writes, sorted(points, key=lambda one: (one.error, one.number))


def output_of(path: str) -> str:
    """What a path is one of, without what differs from one start to the next, or by the step."""
    path = re.sub(r"(\.colorize-jax-tmp-\w+-\w+)-\d+", r"\1", path.rstrip("/"))
    path = re.sub(r"[0-9a-f]{16,}|(?<=-tmp-)\d+", "#", path)
    return re.sub(r"(?<=/checkpoints/)\d+", "STEP", path)


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
    given = words(folder)[name]
    nothing = Fails(str(out))
    run(partial(call, given, nothing), report)
    if outcome(report)[0] != 0:
        raise RuntimeError(f"{name} cannot be done here: {outcome(report)[2][-500:]}")

    def content() -> Any:
        """What must be the same: the files, or of weights by Orbax, whose files differ, values."""
        if name != "import":
            return snapshot(out)
        names = [path.name for path in out.iterdir()]
        return {"weights": run(partial(values, out / "weights"), report.with_name("values"))[-1],
                "names": names}  # fmt: skip

    before = content()
    listed = replace(nothing, listed=str(folder / "listed"))
    writes, points = chosen(lambda fails: run(partial(call, given, fails), report), listed)
    outcomes, failures = Counter(), []
    points = points if len(points) <= most else rng.sample(points, most)
    for fails in points:
        os.waitpid(start(partial(call, given, fails), report), 0)
        status, _, said = outcome(report)
        wrong = judge(name, status, said, before, content())
        failures += [f"{where(fails)}: {fault}" for fault in wrong]
        outcomes[f"status {status}"] += 1
        if wrong:
            shutil.rmtree(out)
            out.mkdir()
            run(partial(call, given, nothing), report)
        before = content()
    return {"writes": writes, "failed": len(points)} | dict(outcomes) | {"failures": failures}


def where(fails: Fails) -> str:
    return f"write {fails.number} by {errno.errorcode[fails.error]}"


def judge(
    name: str, status: int | None, said: str, before: dict[str, Any], after: dict[str, Any]
) -> list[str]:
    """What is wrong about a command whose write has failed."""
    wrong = [] if status in (0, 1, 2) and "Traceback" not in said else [f"{status} {said[-500:]}"]
    errors = [x for x in said.splitlines() if x.startswith(("error: ", "failed: "))]
    if status == 2 and len(errors) != 1:
        wrong.append(f"{len(errors)} lines: {said[-500:]}")
    if status == 1 and (name != "folder" or not errors):
        wrong.append(f"status 1: {said[-500:]}")
    if after != before:  # the same weights and seed make the same bytes
        changed = [n for n in {**before, **after} if before.get(n) != after.get(n)]
        wrong.append(f"changed {changed[:5]}")
    return wrong


def going_on(name: str, rng: random.Random, most: int, folder: Path) -> dict[str, Any]:
    """Fail writes of what goes on where it was; the same command then comes to the same end."""
    report, work = folder / "report", folder / "work"
    run(partial(make_runs, folder), report)
    given = {
        "eval": [*EVALUATION, f"--checkpoint={folder / 'a'}", f"--output={work}"],
        "encode": [*ENCODING, f"--output={work}"],
        "prepare": [str(folder / "references"), f"--output={work}", "--processes=1"],
    }
    if name == "train":
        act = partial(train, [*TRAINING, f"--workdir={work}"])
    else:
        act = partial(call, [name, *given[name]])

    def measure(fails: Fails) -> None:
        shutil.rmtree(work, ignore_errors=True)
        run(partial(act, fails), report)

    def end() -> Any:
        return hashes(report) if name == "train" else results(work)

    measure(Fails(str(work)))
    if outcome(report)[0] != 0:
        raise RuntimeError(f"{name} cannot be done here: {outcome(report)[2][-500:]}")
    expected = end()
    outcomes, failures = Counter(), []
    writes, points = chosen(measure, Fails(str(work), listed=str(folder / "listed")))
    points = points if len(points) <= most else rng.sample(points, most)
    for fails in points:
        shutil.rmtree(work, ignore_errors=True)
        os.waitpid(start(partial(act, fails), report), 0)
        status, _, said = outcome(report)
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        told = "WARNING" in said or status == 2
        outcomes[f"status {status}{'' if told else ', nothing said'}"] += 1
        if status not in (0, 2) or len(errors) != (status == 2) or "Traceback" in said:
            failures.append(f"{where(fails)}: {status} {said[-700:]}")
        os.waitpid(start(partial(act, Fails(str(work))), report), 0)
        if outcome(report)[0] != 0 or end() != expected:
            then, _, said = outcome(report)
            failures.append(f"{where(fails)}: then {then} {said[-700:]}")
    return {"writes": writes, "failed": len(points)} | dict(outcomes) | {"failures": failures}


def results(folder: Path) -> dict[str, bytes]:
    """What was made, without the times that it took and what is kept to go on."""
    timed = ("report.json", "report.html", "evaluation.json")
    found = snapshot(folder).items()
    return {name: x for name, x in found if name not in timed and not name.startswith(".")}


def hashes(report: Path) -> list[str]:
    return [line for line in lines_of(report) if line.startswith("hash")][-1:]


def train(arguments: list[str], fails: Fails, note: Note) -> None:
    """Run train.py while a write fails."""
    notes: list[str] = []
    failing(lambda: kill_runs.train(arguments, STEPS, notes.append), fails, note)
    for text in notes:
        if text.startswith("hash"):
            note(text)


def piece(name: str, rng: random.Random, most: int, folder: Path) -> dict[str, Any]:
    """Run the campaign of one command; returns its report."""
    folder.mkdir()
    began = time.monotonic()
    report = (going_on if name in GOING_ON else commands)(name, rng, most, folder)
    return {"command": name, **report, "seconds": round(time.monotonic() - began)}


def main() -> int:
    """Run the campaign of one command, or of all; 1 where anything went wrong."""
    names = [*words(Path()), *GOING_ON]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, metavar="FILE", help="of all commands")
    parser.add_argument("--command", choices=names, help="only this one")
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
    reports = read(options.results) if options.results else []
    done = {report["command"] for report in reports}
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        for command_ in [options.command] if options.command else names:
            if command_ in done:
                continue
            rng = random.Random(options.seed)
            reports.append(piece(command_, rng, options.most, Path(name) / command_))
            if options.results:
                with options.results.open("a") as file:
                    print(json.dumps(reports[-1]), file=file)
    print(json.dumps(reports[0] if options.command else reports, indent=1))
    return 1 if any(report["failures"] for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
