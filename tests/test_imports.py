"""Who may import whom: the arrows between folders point one way, down this table.

Every folder of the package and of `data` stands here with all that its modules may import beside
each other; so does every module at the root of either. An import inside a function counts.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BASICS = {"errors", "types"}
NETWORKS = {"models", "models.frozen", "nn"}
INFERENCE = {"inference", "inference.controls", "inference.pictures", "inference.text"}
IO = {"io", "io.formats", "io.pipelines", "io.published", "io.runs"}
TRAINING = {"training", "training.losses", "training.monitoring"}
READING = {"data.errors", "data.pictures"}  # colouring reads pictures as training does
DRAWING = {"data.illustrations.canvas", "data.illustrations.parts"}
PREPARING = {"data.errors", "data.prepare.jobs", "data.prepare.models", "data.sources"}
DATA = READING | {
    "data.buckets",
    "data.cache",
    "data.encoded",
    "data.illustrations",
    "data.loader",
    "data.records",
    "data.sources",
    "data.transforms",
}

# Folder or module of a root -> what it may import. Names without a root are of the package.
ALLOWED: dict[str, set[str]] = {
    # ------------------------------------------------- records and pictures: neither JAX nor ours
    "data.errors": set(),
    "data.extras": {"data.errors"},
    "data.outputs": {"data.errors"},
    "data.records": set(),
    "data.pictures": {"data.errors"},
    "data.illustrations.canvas": set(),
    "data.illustrations.parts": {"data.illustrations.canvas"},
    "data.illustrations": {"data.errors", "data.extras", "data.outputs", "data.records", *DRAWING},
    "data.sources": {"data.errors", "data.extras", "data.pictures", "data.records"},
    "data.buckets": {"data.errors"},
    "data.cache": {"data.records"},
    "data.transforms": {"data.errors", "data.pictures", "data.records"},
    "data.loader": {"data.buckets", "data.errors", "data.records"},
    "data.encoded": {"data.errors", "data.loader", "data.records", "data.sources"},
    "data.prepare.models": {"data.errors"},
    "data.prepare.jobs": {"data.errors", "data.pictures", "data.prepare.models", "data.sources"},
    "data.prepare.stages": PREPARING | {"data.pictures"},
    "data.prepare": PREPARING | {"data.pictures", "data.prepare.stages"},
    "data.prepare.tfds": {"data.errors", "data.extras", "data.sources"},
    "data.check": (DATA | {"data.outputs"})
    - {"data.cache", "data.encoded", "data.illustrations", "data.loader"},
    # ------------------------------------------------------------------ what everybody knows
    "errors": {"data.errors"},
    "types": set(),
    "rng": {"types"},
    # ----------------------------------------------------------------------- numbers, options
    "diffusion": BASICS,
    "diffusion.samplers": BASICS | {"diffusion"},
    "evaluation": {"errors"},
    "config": {"errors", "diffusion.samplers"},
    "sharding": BASICS | {"config"},
    # ------------------------------------------------------------------------------- networks
    "nn": BASICS | {"sharding"},
    "models.frozen": BASICS | {"nn"},
    "models": BASICS | {"models.frozen", "nn", "sharding"},
    "conditioning": BASICS | {"models.frozen"},
    # ---------------------------------------------------------------------------------- files
    "io.formats": BASICS,
    "io.runs": BASICS | {"io.formats", "config"},
    "io": BASICS | {"io.formats", "io.runs"},
    "io.published": BASICS | {"config", "diffusion", "io", "io.formats", "io.runs", "models"},
    "io.pipelines": BASICS
    | {"config", "io", "io.formats", "io.published", "models", "models.frozen"},
    # ---------------------------------------------- sources for PyTorch: they know nothing of ours
    "pytorch.comfyui": set(),
    "pytorch.networks": set(),
    "pytorch.pipeline": set(),
    # ------------------------------------------------- training and inference, never each other
    "training.losses": {"types"},
    "training": BASICS
    | NETWORKS
    | {"conditioning", "config", "diffusion", "rng", "sharding", "training.losses"},
    "training.monitoring": BASICS | {"training"},
    "inference.pictures": BASICS | READING,
    "inference.text": BASICS | {"config", "models.frozen"},
    "inference.controls": BASICS | {"config", "inference.pictures"},
    "inference": BASICS
    | NETWORKS
    | READING
    | {
        "conditioning",
        "config",
        "diffusion",
        "diffusion.samplers",
        "inference.controls",
        "inference.pictures",
        "inference.text",
        "io.formats",
        "rng",
        "sharding",
    },
    "evaluation.protocols": BASICS
    | INFERENCE
    | DATA
    | {"config", "evaluation", "io.formats", "models.frozen"},
    "looking": BASICS | INFERENCE | {"diffusion", "evaluation", "nn", "rng"},
    # ---------------------------------------------------------------------------- composition
    "setup.machine": BASICS | {"data.errors"},
    "setup": BASICS
    | NETWORKS
    | INFERENCE
    | IO
    | TRAINING
    | DATA
    | {
        "conditioning",
        "config",
        "diffusion",
        "evaluation",
        "evaluation.protocols",
        "rng",
        "setup.machine",
        "sharding",
    },
    "analysis.hardware": BASICS | {"setup.machine"},
    "analysis.compiled": {"analysis.hardware"},
    "analysis": BASICS
    | TRAINING
    | {
        "analysis.compiled",
        "analysis.hardware",
        "config",
        "io.formats",
        "models",
        "nn",
        "setup",
        "sharding",
    },
    "verify": BASICS
    | NETWORKS
    | INFERENCE
    | TRAINING
    | {
        "conditioning",
        "config",
        "diffusion",
        "diffusion.samplers",
        "io.published",
        "rng",
        "setup",
        "setup.machine",
    },
    "benchmark": BASICS
    | INFERENCE
    | TRAINING
    | {
        "analysis",
        "analysis.compiled",
        "analysis.hardware",
        "config",
        "diffusion.samplers",
        "io.formats",
        "models",
        "nn",
        "setup",
        "setup.machine",
        "sharding",
    },
    # ---------------------------------------------------------------------------- over the network
    "client": set(),
    "studio": BASICS | READING | INFERENCE | {"config", "diffusion.samplers", "io.formats"},
    "studio.page": BASICS | READING | INFERENCE | {"config", "io.formats", "looking", "studio"},
    "commands": BASICS
    | INFERENCE
    | IO
    | {
        "analysis",
        "benchmark",
        "config",
        "evaluation",
        "evaluation.protocols",
        "looking",
        "models",
        "setup",
        "setup.machine",
        "studio",
        "studio.page",
        "verify",
    },
    "commands.weights": BASICS | IO | {"commands", "setup"},
    "__main__": {"commands", "errors"},
}

# Inference's own layers: a module imports those of earlier lines alone.
INFERENCE_LAYERS = (
    ("options", "denoiser"),
    ("system",),
    ("sampling",),
    ("inputs",),
    ("program_options", "programs"),
    ("batches", "pipeline", "tagging"),
    ("metadata",),
    ("jobs",),
)


def _folders() -> Iterator[tuple[str, list[Path]]]:
    """Every folder, and every module of a root, with the files that it consists of."""
    for root, prefix in ((ROOT / "colorize_jax", ""), (ROOT / "data", "data.")):
        for path in sorted(root.glob("*.py")):
            if path.name != "__init__.py":
                yield prefix + path.stem, [path]
        for folder in sorted(path for path in root.rglob("*") if path.is_dir()):
            files = sorted(folder.glob("*.py"))
            if files:
                yield prefix + ".".join(folder.relative_to(root).parts), files


def _imported(path: Path, relative: bool = True) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and (relative or not node.level):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _folder_of(name: str) -> str | None:
    """The folder, or the module of a root, that an imported name lies in; None: not ours."""
    root, *words = name.split(".")
    if root not in ("colorize_jax", "data"):
        return None
    place, found = ROOT / root, []
    for word in words:
        if not (place / word).is_dir():
            break
        place, found = place / word, [*found, word]
    prefix = "data." if root == "data" else ""
    return prefix + (".".join(found) or words[0])


FOLDERS = dict(_folders())


def test_the_table_has_every_folder_and_no_other() -> None:
    assert set(FOLDERS) == set(ALLOWED)


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_import_only_what_the_table_says(folder: str) -> None:
    for path in FOLDERS[folder]:
        found = {_folder_of(name) for name in _imported(path)} - {None, folder}
        wrong = found - ALLOWED.get(folder, set())
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_the_arrows_make_no_circle() -> None:
    """What a folder may import stands above it in the table."""
    order = list(ALLOWED)
    for folder, allowed in ALLOWED.items():
        later = {name for name in allowed if order.index(name) > order.index(folder)}
        assert not later, f"{folder} may import {', '.join(sorted(later))}, which come after it"


def test_inference_imports_its_own_earlier_layers_alone() -> None:
    below: set[str] = set()
    files = {path.stem: path for path in FOLDERS["inference"] if path.stem != "__init__"}
    assert set(files) == {name for layer in INFERENCE_LAYERS for name in layer}
    for layer in INFERENCE_LAYERS:
        for name in layer:
            words = (n.split(".") for n in _imported(files[name]))
            own = {w[2] for w in words if w[:2] == ["colorize_jax", "inference"] and len(w) > 2}
            wrong = (own & set(files)) - below
            assert not wrong, f"inference/{name}.py imports {', '.join(sorted(wrong))}"
        below |= set(layer)


def test_what_is_written_for_pytorch_needs_its_four_libraries_alone() -> None:
    known = {"torch", "diffusers", "transformers", "numpy", "PIL", *sys.stdlib_module_names}
    for path in sorted((ROOT / "colorize_jax" / "pytorch").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                assert list(path.parent.parent.rglob(f"{node.module}.py")), (path, node.module)
        roots = {name.split(".")[0] for name in _imported(path, relative=False)}
        own = {"comfy", "comfy_api", "folder_paths"} if path.parent.name == "comfyui" else set()
        assert roots <= known | own, path


def test_data_knows_neither_the_package_nor_jax() -> None:
    for path in sorted((ROOT / "data").rglob("*.py")):
        roots = {name.split(".")[0] for name in _imported(path)}
        assert not roots & {"colorize_jax", "jax", "flax", "torch", "tensorflow"}, path
