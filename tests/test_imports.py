"""Who may import whom: the arrows between the rooms point one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What every room of the package may know.
COMMON = {"types", "errors", "rng"}

# Room -> rooms that it may import beside itself and `COMMON`. Composition (build, datasets,
# initialize, commands, verify, cli) and the programs at the top know everything.
ALLOWED = {
    "types": set(),
    "errors": set(),
    "rng": set(),
    "config": {"diffusion"},
    "nn": {"sharding"},
    "models": {"nn", "sharding"},
    "conditioning": {"models"},
    "diffusion": set(),
    "evaluation": set(),
    "sharding": {"config"},
    "io": {"models", "nn", "config"},
    "training": {"nn", "models", "conditioning", "diffusion", "config", "analysis", "sharding"},
}


def _modules(room: str) -> list[Path]:
    folder = ROOT / "colorize_jax" / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def _imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _rooms(path: Path) -> set[str]:
    own = (name.split(".") for name in _imported(path))
    return {words[1] for words in own if words[0] == "colorize_jax" and len(words) > 1}


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_only_what_lies_below_them(room: str) -> None:
    for path in _modules(room):
        if path.exists():
            wrong = _rooms(path) - ALLOWED[room] - COMMON - {room}
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_training_and_inference_do_not_know_each_other() -> None:
    for room, other in (("training", "inference"), ("inference", "training")):
        for path in _modules(room):
            assert other not in _rooms(path), path


def test_data_knows_neither_the_package_nor_jax() -> None:
    for path in sorted((ROOT / "data").rglob("*.py")):
        roots = {name.split(".")[0] for name in _imported(path)}
        assert not roots & {"colorize_jax", "jax", "flax", "torch", "tensorflow"}, path


def test_only_the_programs_at_the_top_and_composition_know_data() -> None:
    composition = {"datasets.py", "benchmark.py"}
    for path in sorted((ROOT / "colorize_jax").rglob("*.py")):
        if path.name not in composition:
            names = {name for name in _imported(path) if name.split(".")[0] == "data"}
            # Colouring reads pictures as training does.
            allowed = ("data.pictures", "data.errors") if "inference" in path.parts else ()
            wrong = {name for name in names if not name.startswith(allowed)} if allowed else names
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"
