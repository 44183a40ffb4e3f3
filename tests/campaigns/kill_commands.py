"""Kills of commands that write: export in its three forms, import, colorize on a folder."""

import hashlib
import os
import random
import shutil
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from tests.campaigns.processes import Note, kill, lines_of, run, start, wait_for

NUM_SKETCHES = 12
TEMPORARY = ".colorize-jax-tmp*"
FORMS = {
    "file": ("out.safetensors",),
    "shards": ("shards", "--max-shard-size", "500KB"),
    "diffusers": ("diffusers", "--format", "diffusers"),
}


def command(words: list[str], note: Note) -> None:
    """Run a command; note its beginning, its pictures and its end."""
    from colorize_jax.commands import cli
    from colorize_jax.inference import jobs

    save = jobs.save_png

    def noting(*given: Any) -> None:
        note("write")
        save(*given)

    jobs.save_png = noting
    note("begin")
    status = cli.main(words)
    note("ended 0" if status == 0 else f"failed with status {status}")


def digest(path: Path) -> str | None:
    """Of a file's or a folder's names and contents; None where there is nothing."""
    if not path.exists():
        return None
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        found.update(file.name.encode())
        if file.is_file():
            found.update(file.read_bytes())
    return found.hexdigest()


def values(path: Path, note: Note) -> None:
    """Note the digest of a folder of weights' numbers: its files differ each time."""
    import numpy as np
    from flax import traverse_util

    from colorize_jax.io.open_weights import open_weights

    weights, found = open_weights(path), hashlib.sha256()
    for component in sorted(weights.abstract):
        flat = traverse_util.flatten_dict(weights.read(component), sep="/")
        for name in sorted(flat):
            found.update(f"{component}/{name}".encode() + np.asarray(flat[name]).tobytes())
    note(f"values {found.hexdigest()}")


def make_runs(folder: Path, note: Note) -> None:
    """Two small runs that differ, and pictures to colour."""
    import numpy as np
    import small_run
    import small_system
    from PIL import Image

    for seed, name in enumerate("ab"):
        small_run.make(folder / name, seed=seed)
    for kind in ("sketches", "references"):
        (folder / kind).mkdir()
    for i in range(NUM_SKETCHES):
        pictures = small_system.make_pictures(i)
        for kind, picture in zip(("sketches", "references"), pictures, strict=True):
            Image.fromarray(np.asarray(picture)).save(folder / kind / f"{i}.png")
    note("made")


def replaced(
    count: int, rng: random.Random, seconds: float, folder: Path, importing: bool = False
) -> dict[str, Any]:
    """Kill commands that replace an output by that of one of two inputs.

    After every kill the output is the whole one of before or the whole new one.
    """
    report = folder / "report"
    run(partial(make_runs, folder), report)
    inputs, words = {name: folder / name for name in "ab"}, {}
    for name, path in inputs.items() if importing else ():
        inputs[name] = path.with_suffix(".safetensors")
        given = ["export", "--checkpoint", str(path), "--output", str(inputs[name])]
        run(partial(command, given), report)
    outputs = folder / "outputs"
    for form, (target, *rest) in ({"import": ("weights",)} if importing else FORMS).items():
        for name, path in inputs.items():
            verb, option = ("import", "--input") if importing else ("export", "--checkpoint")
            place = ["--output", str(outputs / target), "--overwrite"]
            words[form, name] = [verb, option, str(path), *rest, *place]

    def content(target: Path) -> str | None:
        return run(partial(values, target), report)[-1] if importing else digest(target)

    whole, lasts = {}, {}
    for (form, name), given in words.items():
        child, started = start(partial(command, given), report), time.monotonic()
        begun = _wait_for_output(outputs, report)
        os.waitpid(child, 0)
        ended = time.monotonic()
        lasts[form] = begun - started, ended - begun
        whole[form, name] = content(_target(given))
    phases, failures, kills, deadline = Counter(), [], 0, time.monotonic() + seconds
    while kills < count and time.monotonic() < deadline and not failures:
        form, name = rng.choice(list(words))
        target = _target(words[form, name])
        before = digest(target)
        child = start(partial(command, words[form, name]), report)
        # Most are killed while they write.
        writes = rng.random() < 0.8
        if writes:
            _wait_for_output(outputs, report)
        else:
            wait_for(report, "begin")
        moment = rng.random() * lasts[form][writes]
        time.sleep(moment)
        killed = kill(child)
        kills += killed
        failures += [line for line in lines_of(report) if line.startswith("failed")]
        # Nothing else than the whole output of before or the whole new one.
        changed = digest(target) != before
        if changed and content(target) != whole[form, name]:
            failures.append(f"{form} of {name}, killed after {moment:.3f} s, left something else")
        halves = list(outputs.glob(TEMPORARY))
        phases[f"{form}{', temporary files left' if halves else ''}"] += killed
    for (form, name), given in words.items():
        run(partial(command, given), report)
        if content(_target(given)) != whole[form, name]:
            failures.append(f"{form} of {name} ends as something else")
    failures += [f"{path.name} is left" for path in outputs.glob(TEMPORARY)]
    return {
        "kills": kills,
        "killed_after": dict(phases),
        "failures": failures,
        "identical_ends": len(words),
    }


def _wait_for_output(folder: Path, report: Path) -> float:
    """Wait until there is a temporary output, or the child has ended; returns the time."""
    before = set(folder.glob(TEMPORARY)) if folder.exists() else set()
    while set(folder.glob(TEMPORARY)) <= before and not any(
        line.startswith(("failed", "ended")) for line in lines_of(report)
    ):
        time.sleep(0.001)
    return time.monotonic()


def _target(words: list[str]) -> Path:
    return Path(words[words.index("--output") + 1])


def colorize(count: int, rng: random.Random, seconds: float, folder: Path) -> dict[str, Any]:
    """Kill `colorize` on a folder; what is there is whole, and the same command does the rest."""
    report = folder / "report"
    run(partial(make_runs, folder), report)
    output = folder / "results"
    words = ["colorize", "--checkpoint", str(folder / "a"), "--seed", "1"]
    words += ["--sketch", str(folder / "sketches"), "--reference", str(folder / "references")]
    words += ["--output", str(output)]

    def results() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in output.iterdir()}

    run(partial(command, words), report)
    whole = results()
    shutil.rmtree(output)
    phases, failures, kills, ends = Counter(), [], 0, 0
    deadline = time.monotonic() + seconds
    while not failures and (
        (goes_on := kills < count and time.monotonic() < deadline) or output.exists()
    ):
        child = start(partial(command, words), report)
        if goes_on:
            _wait_for_moment(rng, report, NUM_SKETCHES - sum(n in whole for n in _names(output)))
            kills += kill(child)
        else:
            os.waitpid(child, 0)
        lines = lines_of(report)
        phases[lines[-1].split()[0] if lines else "start"] += goes_on
        failures += [line for line in lines if line.startswith("failed")]
        found = results() if output.exists() else {}
        found = {n: content for n, content in found.items() if not n.startswith(".colorize-jax")}
        failures += [f"{n} is another picture" for n in found if found[n] != whole.get(n)]
        if "ended 0" in lines or len(found) == NUM_SKETCHES:
            run(partial(command, words), report)  # there is nothing to do, and that is said
            if "nothing to do" not in report.with_suffix(".out").read_text():
                failures.append("a folder that is done was done again")
            failures += [f"{n} is left" for n in _names(output) if n not in whole]
            ends += 1
            shutil.rmtree(output)
        elif not goes_on:
            failures.append(f"the folder is not done: {lines[-3:]}")
    return {
        "kills": kills,
        "killed_after": dict(phases),
        "failures": failures,
        "identical_ends": ends,
    }


def _wait_for_moment(rng: random.Random, report: Path, left: int) -> None:
    """Wait for the moment of a kill: most come while the `left` pictures are written."""
    if rng.random() < 0.85:
        wait_for(report, "write", rng.randint(1, max(1, min(4, left))))
        time.sleep(0.03 * rng.random())
    else:
        wait_for(report, "begin")
        time.sleep(3 * rng.random())


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.exists() else []
