"""Small networks of the published architecture, imported from files under the published names."""

import json
from pathlib import Path

from colorize_jax.commands import cli
from tests import small_models

CHANGES = {
    "vae": {"channel_mult": [1, 1, 1, 2]},
    "tagger": {"image_size": 16, "window_size": 2},
}
# File -> its networks, where it has several.
FILES = {
    "colorizer": small_models.COLORIZER,
    "plugin": ("unet", "background_encoder", "foreground_encoder"),
}
NAMES = ("colorizer", "plugin", "clip_vision", "clip_text", "tagger")


def make(folder: Path, names: tuple[str, ...] = NAMES) -> dict[str, Path]:
    """Import small random files; name -> folder of weights."""
    configs = {
        name: config | CHANGES.get(name, {}) for name, config in small_models.CONFIGS.items()
    }
    paths = {}
    for name in names:
        networks = FILES.get(name, (name,))
        own = {network: configs[network] for network in networks}
        if name in FILES:
            changes = (
                {"vae": CHANGES["vae"]} if name == "colorizer" else {"unet": small_models.PLUGIN}
            )
            arrays = small_models.system(networks, **changes)
        else:
            arrays = small_models.tensors(name, prefix="", **CHANGES.get(name, {}))
        # A variance is never below zero.
        arrays |= {key: abs(value) for key, value in arrays.items() if key.endswith("running_var")}
        if name == "plugin":
            own["unet"] = own["unet"] | small_models.PLUGIN
        file = small_models.save(folder / f"{name}.safetensors", arrays)
        config, paths[name] = folder / f"{name}.json", folder / name
        config.write_text(json.dumps(own))
        words = ["import", "--input", file, "--output", paths[name], "--config", config]
        said = ["--prediction-type", "v"] if "unet" in own else []
        assert cli.main([*map(str, words), *said]) == 0
    return paths
