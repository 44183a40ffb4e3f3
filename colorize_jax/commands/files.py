"""Helpers of the commands that convert files."""

import json
import re
from pathlib import Path
from typing import Any

from colorize_jax.errors import UserError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def use_cpu() -> None:
    """Keep JAX off accelerators: converting files needs none, and one may be busy training."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def parse_size(text: str) -> int:
    """Bytes of a size such as 5GB, 500MB or 1GiB.

    Raises:
        UserError: it is no positive size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?)B?", text.strip().upper())
    size = int(float(match[1]) * UNITS[match[2]]) if match and match[2] in UNITS else 0
    if size <= 0:
        raise UserError(f"got size {text!r}, expected one such as 5GB or 500MB; correct it")
    return size


def read_config_file(path: str | None) -> dict[str, Any]:
    """Read the JSON of a --config option: network -> fields; empty without the option.

    Raises:
        UserError: the file cannot be read or holds something else.
    """
    if path is None:
        return {}
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"got config {path} that cannot be read ({error}), expected a JSON file; check it"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise UserError(
            f"got config {path}, expected a JSON dictionary of network -> fields, such as "
            '{"unet": {"head_dim": 16}}; correct it'
        )
    return content
