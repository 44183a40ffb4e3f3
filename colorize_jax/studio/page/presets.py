"""Sets of options under a name: ours, and those that users keep as YAML files."""

import re
from pathlib import Path
from typing import Any

import yaml

from colorize_jax.errors import UserError
from colorize_jax.inference.options import InferenceOptions, read_options
from colorize_jax.io.formats.atomic import atomic_output

NAME = re.compile(r"\w[\w -]{0,39}")
SUFFIX = ".yaml"
# Changes of the published defaults.
BUILT_IN: dict[str, dict[str, Any]] = {
    "published defaults": {},
    "fast": {"sampler": "DPM++ 2M", "steps": 12},
    "faithful to the reference": {"reference_guidance": 6.0, "reference_strength": 1.2},
    "faithful to the sketch": {"sketch_guidance": 2.0, "reference_strength": 0.8},
    "background transfer": {"background_plugin": True},
}
OWN = "the model's own"


class Presets:
    """Presets of one model, with a folder for users' own."""

    def __init__(self, folder: Path, defaults: InferenceOptions):
        """Use a folder, which is made when a preset is first saved."""
        self._folder, self._defaults = folder, defaults

    def names(self) -> list[str]:
        """All names, users' own last."""
        own = sorted(path.stem for path in self._folder.glob(f"*{SUFFIX}"))
        return [OWN, *BUILT_IN, *(name for name in own if NAME.fullmatch(name))]

    def load(self, name: str) -> InferenceOptions:
        """Return a preset's options.

        Raises:
            UserError: there is none of this name, or its file holds no options.
        """
        if name == OWN:
            return self._defaults
        if name in BUILT_IN:
            return InferenceOptions.from_dict(BUILT_IN[name])
        if name not in self.names():
            raise UserError(f'got preset "{name[:60]}", expected one of {", ".join(self.names())}')
        return InferenceOptions.from_dict(read_options(self._folder / f"{name}{SUFFIX}"))

    def save(self, name: str, options: InferenceOptions) -> None:
        """Keep options under a name of the user's own; an earlier one of this name is replaced.

        Raises:
            UserError: a name that is ours or no name, or the file cannot be written.
        """
        name = name.strip()
        if not NAME.fullmatch(name) or name in (OWN, *BUILT_IN):
            raise UserError(
                f'got preset name "{name[:60]}", expected up to 40 letters, digits, spaces, "-" or '
                '"_" that are no built-in name; choose another'
            )
        text = yaml.safe_dump(options.to_dict(), sort_keys=False, allow_unicode=True)
        path = self._folder / f"{name}{SUFFIX}"
        with atomic_output(path, nbytes=len(text), overwrite=True) as place:
            place.write_text(text, encoding="utf-8")
