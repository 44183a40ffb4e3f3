"""The suite: in order of value, within its budget, with little installed."""

import importlib.metadata
import json
import re
import subprocess
import sys
import time

import pytest

from colorize_jax.benchmark import parts, suite
from colorize_jax.benchmark.suite import Part, plan, read_rows, run_suite, table
from colorize_jax.commands import cli

# What has to be installed; what these need themselves comes with them.
INSTALLED = (
    "jax flax optax orbax-checkpoint chex safetensors numpy pillow tqdm ml_collections grain"
    " tensorboardX"
)
BLOCKED = """
import sys

class Missing:
    allowed = set({allowed!r})

    def find_spec(self, name, path=None, target=None):
        root = name.split(".")[0]
        if root in {known!r} and root not in self.allowed:
            raise ModuleNotFoundError(f"No module named {{root!r}}, as on a machine without it")

sys.meta_path.insert(0, Missing())
import {module}
"""


def with_what_they_need(names):
    """Names of distributions, and of all that they depend on without extras."""
    found, waiting = set(), list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name not in found:
            found.add(name)
            try:
                needed = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            waiting += [re.match(r"[\w.-]+", line)[0] for line in needed if "extra ==" not in line]
    return found


def test_what_it_does_not_use_it_does_not_import():
    modules = importlib.metadata.packages_distributions()
    # The package itself is there, and nothing that it needs besides.
    installed = with_what_they_need(INSTALLED.split()) | {"colorize-jax"}
    allowed = {
        module
        for module, owners in modules.items()
        if installed & {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners}
    }
    assert {"jax", "flax", "PIL", "grain"} <= allowed and "pytest" not in allowed
    code = BLOCKED.format(allowed=sorted(allowed), known=sorted(modules), module=suite.MODULE)
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_every_part_of_a_plan_exists(platform):
    for part in plan(platform):
        assert part.name in parts.PARTS and part.items
        if part.name == "step":
            assert all(re.fullmatch(r"(dual|single) \d+( \w+)?", item) for item in part.items)


@pytest.mark.parametrize(("platform", "products"), [("gpu", "float8"), ("tpu", "int8")])
def test_steps_and_pictures_of_all_sizes_are_in_the_plan_of_accelerators(platform, products):
    found = {
        (part.name, item)
        for part in plan(platform)
        for item in part.items
        if part.config.endswith("base.py")
    }
    batches = ("1", "2", "4", "8")
    steps = {("step", f"{b} {n}") for b in ("dual", "single") for n in batches}
    steps |= {("step", f"dual {n} {remat}") for n, remat in ((4, "block"), (4, "elementwise"))}
    steps |= {("step", "dual 8 elementwise")}
    assert (
        steps - {("step", "dual 4")} | {("sample", item) for item in ("1", "4", f"4 {products}")}
        == found
    )


class Process:
    """In the place of a part's process: what it writes, and how it ends."""

    def __init__(self, monkeypatch, *behaviours):
        self.behaviours, self.timeouts = list(behaviours), []
        monkeypatch.setattr(suite.subprocess, "run", self)

    def __call__(self, command, *, timeout, **_):
        self.timeouts.append(timeout)
        return self.behaviours.pop(0)(command[3:])


def answers(status, **row):
    def run(arguments):
        name, folder, _, *items = arguments
        for item in items[: row.pop("said", 1)]:
            suite.write_row(
                suite.Path(folder) / suite.ROWS,
                {"part": name, "item": item, "what": f"{name} {item}"} | row,
            )
        return subprocess.CompletedProcess(arguments, status)

    return run


def hangs(arguments):
    raise subprocess.TimeoutExpired(arguments, 1)


def test_what_fails_or_takes_too_long_is_a_row(tmp_path, monkeypatch):
    parts = (Part("ceilings"), Part("step", ("dual 4", "single 4"), "base.py"), Part("sample"))
    monkeypatch.setattr(suite, "plan", lambda *_: parts)
    fine = answers(0, seconds=0.25, rate="4 images/s", utilization=0.5, memory=2**31)
    process = Process(
        monkeypatch, answers(0, platform="gpu", rate="1 x card"), fine, answers(-6), hangs
    )
    assert run_suite(100, tmp_path / "out") == 0
    assert all(0 < timeout <= 100 for timeout in process.timeouts)
    rows = read_rows(tmp_path / "out" / suite.ROWS)
    notes = {row["what"]: row.get("note", "") for row in rows}
    assert notes["ceilings "] == ""
    assert notes["base single 4"] == "failed with status -6, see log.txt"
    assert rows[-1]["note"] == "stopped: the budget is spent"
    text = (tmp_path / "out" / suite.TABLE).read_text()
    assert text.strip() == table(rows)
    assert "| ceilings | ceilings  | 250 ms | 4 images/s | 50.0 % | 2.00 GiB |  |" in text
    assert "none is a roofline" in text


def test_a_spent_budget_leaves_rows_that_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "plan", lambda *_: (Part("ceilings"), Part("step", ("dual 4",))))

    def slow(arguments):
        time.sleep(0.2)
        return answers(0, platform="cpu")(arguments)

    Process(monkeypatch, slow)
    assert run_suite(0.1, tmp_path) == 1
    rows = read_rows(tmp_path / suite.ROWS)
    assert [row["note"] for row in rows[1:]] == ["not begun: the budget is spent"] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "got suite without --output"),
        (["--output", "OUT", "--budget", "0"], "got --budget 0.0, expected at least 1"),
        (["--output", "OUT"], "rows.jsonl that exists"),
    ],
)
def test_bad_input(tmp_path, capsys, options, message):
    (tmp_path / suite.ROWS).touch()
    options = [str(tmp_path) if option == "OUT" else option for option in options]
    assert cli.main(["benchmark", "suite", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_other_benchmarks_need_a_config(capsys):
    assert cli.main(["benchmark", "step"]) == 2
    assert "got step without --config" in capsys.readouterr().err


@pytest.mark.slow
def test_the_smallest_network_within_a_minute(tmp_path):
    config = "tests/configs/smallest.py"
    assert (
        cli.main(
            ["benchmark", "suite", "--budget", "600", "--output", str(tmp_path), "--config", config]
        )
        == 0
    )
    rows = read_rows(tmp_path / suite.ROWS)
    measured = {row["what"] for row in rows if row.get("seconds")}
    assert "matrix product, bfloat16" in measured
    assert "smallest, both branches, batch 8, remat none" in measured
    assert "smallest, 20 guided steps, batch 4" in measured
    assert all("error" not in row or row["error"] < 1e-4 for row in rows)
    json.loads((tmp_path / parts.FLOPS).read_text())
