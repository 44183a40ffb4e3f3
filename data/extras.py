"""Packages that only some need: imported when they are, or asked for in one line."""

from types import ModuleType

from data.errors import DataError


def import_tfds() -> ModuleType:
    """The package, which sets of TFDS need alone.

    Raises:
        DataError: it is not installed.
    """
    try:
        import importlib_resources  # noqa: F401 (TFDS reads its own files through it)
        import tensorflow_datasets
    except ImportError as error:
        raise DataError(
            f"got no package {error.name}, expected tensorflow-datasets and importlib_resources; "
            "pip install '.[tfds]'"
        ) from error
    return tensorflow_datasets
