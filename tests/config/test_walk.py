"""Every numeric option of a run with values that nobody wants: a run, or one line and status 2."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import train
from colorize_jax.analysis.stored_step import COMPILED
from colorize_jax.config.checks import Check, Either, Items, Real, Whole
from colorize_jax.config.difference import belongs, flatten
from colorize_jax.config.load import all_keys, field_check, load_config, value_at
from colorize_jax.config.options import Config
from colorize_jax.io.runs.saved_steps import find_steps
from colorize_jax.setup.initialize import abstract_state
from colorize_jax.setup.networks import build_train_system
from colorize_jax.training.step import TrainSystem, jit_step

CONFIG = str(Path(__file__).parents[1] / "configs" / "smallest.py")
VALUES = ("-1", "0", str(10**12), "nan", "inf")


def is_numeric(check: Check) -> bool:
    if isinstance(check, Items):
        return is_numeric(check.each)
    if isinstance(check, Either):
        return any(map(is_numeric, check.checks))
    return isinstance(check, Real | Whole)


KEYS = [key for key in all_keys() if is_numeric(field_check(key))]


def overrides() -> Iterator[tuple[str, str]]:
    """Every numeric option with every value; of lists the first item takes it."""
    config = load_config(CONFIG)
    for key in KEYS:
        for value in VALUES:
            text = value
            if isinstance(field_check(key), Items):
                rest = value_at(config, key)[1:]
                number = value if value.lstrip("-").isdigit() else f"'{value}'"
                text = f"({', '.join([number, *map(repr, rest)])},)"
            yield key, text


def outcome(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    status = train.main([f"--config={CONFIG}", *arguments])
    error = capsys.readouterr().err
    if status:
        assert status == 2, (arguments, error)
        assert error.startswith("error: ") and error.count("\n") == 1, (arguments, error)
        assert "expected" in error or "leave" in error, (arguments, error)
    return status


def test_the_walk_goes_everywhere() -> None:
    assert len(KEYS) > 60
    assert {"optimizer.learning_rate", "model.channel_mult", "mesh.data", "seed"} <= {*KEYS}


def test_numbers_are_refused_in_one_line_or_make_a_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    def build(config: Config, *_: object) -> int:
        system = build_train_system(config)
        networks = (config.model, config.encoders)
        if networks not in seen:  # the shapes of all others are the same
            seen.add(networks)
            assert abstract_state(system).params
        return 0

    monkeypatch.setattr(train, "train", build)
    accepted = []
    for key, text in overrides():
        status = outcome([f"--workdir={tmp_path / 'run'}", f"--config.{key}={text}"], capsys)
        if not status:
            accepted.append((key, text))
        assert status or ("nan" not in text and "inf" not in text), (key, text)
    assert 10 < len(accepted) < len(KEYS)


class Programs:
    """Steps that were compiled, by what is compiled into them: most options are not."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, bool], Any] = {}

    def jit_step(self, system: TrainSystem, *given: Any) -> Any:
        step, facts = jit_step(system, *given), flatten(system.config.to_dict())
        own = repr({name: value for name, value in facts.items() if belongs(name, COMPILED)})

        def lower(*arguments: Any, dual: bool) -> Any:
            key = own, dual
            if key not in self.known:
                self.known[key] = step.lower(*arguments, dual=dual).compile()
            return SimpleNamespace(compile=lambda: self.known[key])

        return SimpleNamespace(lower=lower)


@pytest.fixture(scope="module")
def programs() -> Programs:
    return Programs()


@pytest.mark.slow
@pytest.mark.parametrize("section", sorted({key.split(".")[0] for key in KEYS}))
def test_accepted_numbers_make_a_run(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    programs: Programs,
    section: str,
) -> None:
    monkeypatch.setattr(train, "jit_step", programs.jit_step)
    monkeypatch.setattr(train, "step_flops", lambda *_, **__: 1)
    short = ["--config.total_steps=1", "--config.logging.tracker=none"]
    if section not in ("sampling", "logging"):
        short.append("--config.logging.samples_every=0")
    own = [(key, text) for key, text in overrides() if key.split(".")[0] == section]
    for number, (key, text) in enumerate(own):
        workdir = tmp_path / str(number)
        if not outcome([f"--workdir={workdir}", *short, f"--config.{key}={text}"], capsys):
            assert find_steps(workdir)[0] == [1], (key, text)
