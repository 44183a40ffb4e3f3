"""Choices that depend on the platform: "auto", or "auto:gpu" as on one that need not be there."""

from collections.abc import Mapping

import jax

AUTO = "auto"


def resolve(choice: str, by_platform: Mapping[str, str], otherwise: str) -> str:
    """What a choice stands for.

    Args:
        choice: a name, "auto" of the default backend's platform, or "auto:PLATFORM".
        by_platform: "cpu", "gpu" or "tpu" -> what "auto" is there.
        otherwise: what it is on all other platforms.
    """
    name, _, platform = choice.partition(":")
    if name != AUTO:
        return name
    return by_platform.get(platform or jax.default_backend(), otherwise)


def for_platform(choice: str, platform: str) -> str:
    """The same choice for a platform ("cpu", "gpu", "tpu") that need not be there."""
    return f"{AUTO}:{platform}" if choice == AUTO else choice
