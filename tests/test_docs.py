"""Commands that README and docs show are commands that exist, with options that exist."""

import argparse
import dataclasses
import re
import shlex
from pathlib import Path

import pytest

import eval as evaluation
import train
from colorize_jax.commands import cli
from colorize_jax.commands.option_flags import add_option_flags, options_from_flags
from colorize_jax.config.load import load_config, read_grid
from colorize_jax.evaluation.protocols.ablation import cells
from colorize_jax.inference.options import InferenceOptions
from data.check import __main__ as check
from data.prepare import __main__ as prepare

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CHECK = ["python", "-m", "data.check"]
PREPARE = ["python", "-m", "data.prepare"]
PACKAGE = ["python", "-m", "colorize_jax"]
TRAIN, EVAL = ["python", "train.py"], ["python", "eval.py"]


def commands(page):
    """Words of the commands in the page's blocks of shell."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.replace(".venv/bin/python", "python"), comments=True)
            while "&&" in words:
                yield words[: words.index("&&")]
                words = words[words.index("&&") + 1 :]
            yield words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        if any("…" in word for word in words):
            continue
        if words[:3] == PACKAGE:
            args, rest = cli.build_parser().parse_known_args(words[3:])
            assert not rest or hasattr(args, "overrides"), words
            if args.command == "ablate":
                grid = read_grid(args.config)
                cells(grid, ROOT, args.arms.split(",") if args.arms else ())
            elif getattr(args, "config", None):
                load_config(args.config, rest)
            if args.command == "colorize":
                InferenceOptions.from_dict(options_from_flags(args))
        elif words[:3] == CHECK:
            check.parse_arguments(words[3:])
        elif words[:3] == PREPARE:
            prepare.parse_arguments(words[3:])
        elif words[:2] == EVAL:
            options_from_flags(evaluation.build_parser().parse_args(words[2:]))
        elif words[:2] == TRAIN:
            options, overrides = train.parse_arguments(words[2:])
            # What a shell's variable stands for is not known here.
            load_config(options.config, [word for word in overrides if "$" not in word])


def test_ci_runs_the_tests_as_the_readme_says():
    (command,) = re.findall(r"^.*pytest -n 2$", PAGES[0].read_text(), re.MULTILINE)
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_file_that_the_plan_names_exists():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`((?:colorize_jax|data|tests)/[\w./]+|\w+\.py)`", page))
    assert len(names) > 40
    missing = sorted(name for name in names if not (ROOT / name).exists())
    assert not missing


def test_every_control_is_on_its_page():
    page = (ROOT / "docs" / "inference.md").read_text(encoding="utf-8")
    texts = re.findall(r"`(--[^`]*)`", page)
    named = {word.removeprefix("--") for text in texts for word in shlex.split(text)}
    listed = {option.name for option in dataclasses.fields(InferenceOptions)}
    assert listed <= named | {name.removeprefix("no-") for name in named}


def test_controls_are_written_as_they_are_understood():
    page = (ROOT / "docs" / "inference.md").read_text(encoding="utf-8")
    for row in re.findall(r"^\| (?!what|--).*? \| (.*) \|$", page, re.MULTILINE):
        for text in re.findall(r"`(--[^`]+)`", row):
            parser = argparse.ArgumentParser(allow_abbrev=False)
            add_option_flags(parser)
            for path in ("--sketch_mask", "--reference_mask", "--background"):
                parser.add_argument(path)
            words = shlex.split(text)
            if words == ["--block_strengths"]:
                continue  # its numbers are as many as a model has blocks
            InferenceOptions.from_dict(options_from_flags(parser.parse_args(words)))
