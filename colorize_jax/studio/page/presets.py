"""Sets of options under a name: ours, and those that users keep as YAML files."""

import re
from pathlib import Path

import yaml

from colorize_jax.errors import UserError
from colorize_jax.inference.options import InferenceOptions, read_options
from colorize_jax.io.formats.atomic import atomic_output

NAME = re.compile(r"\w[\w -]{0,39}")
SUFFIX = ".yaml"
OWN = "the model's own"
FAST_STEPS = 12


def built_in(own: InferenceOptions) -> dict[str, InferenceOptions]:
    """Our presets for a model that suggests some options: name -> options."""
    guidance = min(1.5 * own.reference_guidance, 100.0)
    fast = {} if own.steps <= FAST_STEPS else {"sampler": "DPM++ 2M", "steps": FAST_STEPS}
    return {
        OWN: own,
        "published defaults": InferenceOptions(),
        "fast": own.replace(**fast),
        "faithful to the reference": own.replace(
            reference_guidance=guidance, reference_strength=1.2
        ),
        "faithful to the sketch": own.replace(sketch_guidance=2.0, reference_strength=0.8),
        "background transfer": own.replace(background_plugin=True),
    }


class Presets:
    """Presets of one model, with a folder for users' own."""

    def __init__(self, folder: Path, defaults: InferenceOptions):
        """Use a folder, which is made when a preset is first saved."""
        self._folder, self._ours = folder, built_in(defaults)

    def names(self) -> list[str]:
        """All names, users' own last."""
        own = sorted(path.stem for path in self._folder.glob(f"*{SUFFIX}"))
        return [*self._ours, *(name for name in own if NAME.fullmatch(name))]

    def load(self, name: str) -> InferenceOptions:
        """Return a preset's options.

        Raises:
            UserError: there is none of this name, or its file holds no options.
        """
        if name in self._ours:
            return self._ours[name]
        if name not in self.names():
            raise UserError(f'got preset "{name[:60]}", expected one of {", ".join(self.names())}')
        return InferenceOptions.from_dict(read_options(self._folder / f"{name}{SUFFIX}"))

    def save(self, name: str, options: InferenceOptions) -> None:
        """Keep options under a name of the user's own; an earlier one of this name is replaced.

        Raises:
            UserError: a name that is ours or no name, or the file cannot be written.
        """
        name = name.strip()
        if not NAME.fullmatch(name) or name in self._ours:
            raise UserError(
                f'got preset name "{name[:60]}", expected up to 40 letters, digits, spaces, "-" or '
                '"_" that are no built-in name; choose another'
            )
        text = yaml.safe_dump(options.to_dict(), sort_keys=False, allow_unicode=True)
        path = self._folder / f"{name}{SUFFIX}"
        with atomic_output(path, nbytes=len(text), overwrite=True) as place:
            place.write_text(text, encoding="utf-8")
