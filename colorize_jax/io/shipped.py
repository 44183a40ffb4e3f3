"""The checkpoint that comes with the package, by its name."""

from pathlib import Path

DEMO = "demo"
DEMO_FILE = Path(__file__).parents[1] / "demo" / "model.safetensors"


def find_checkpoint(path: str | Path) -> str | Path:
    """What a checkpoint's name means: "demo" is the model of this package, all else a path.

    A folder of that name is `./demo`.
    """
    return DEMO_FILE if str(path) == DEMO and not isinstance(path, Path) else path
