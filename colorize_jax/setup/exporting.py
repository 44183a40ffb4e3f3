"""From checkpoints to a pipeline folder: the system as a whole, and what is known of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from colorize_jax.config.load import config_from_dict
from colorize_jax.errors import UserError
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.system import Networks
from colorize_jax.io.open_weights import Weights
from colorize_jax.io.pipelines.card import Card
from colorize_jax.io.pipelines.joined import JoinedWeights, find_networks
from colorize_jax.io.pipelines.write import Suggestions, check
from colorize_jax.io.runs.run_weights import RunWeights
from colorize_jax.setup.checkpoints import open_checkpoint, open_networks

# Options that a run suggests and the folder takes over, beside sampler and schedule.
SUGGESTED = ("steps", "reference_guidance", "sketch_guidance")


def open_system(
    paths: Sequence[str | Path], *, raw: bool = False
) -> tuple[JoinedWeights, Networks, list[Weights]]:
    """Open the checkpoints of one system, none of which is loaded.

    Args:
        paths: as for `open_networks`.
        raw: of training runs, the parameters themselves and not their running average.

    Returns:
        All networks as one, the same as modules, and what was opened.

    Raises:
        UserError: together they are no system that can be exported.
    """
    opened = [open_checkpoint(path, raw=raw) for path in paths]
    for weights, path in zip(opened, paths, strict=True):
        _check_encoders(weights, path)
    where = find_networks(opened, paths)
    if "unet" not in where:
        raise UserError(
            f"got {', '.join(map(str, paths))} with {', '.join(where) or 'nothing'}, expected a "
            "UNet too; name a colorizer's weights with --checkpoint as well"
        )
    joined = JoinedWeights({name: weights for name, weights in where.items()})
    check(joined)
    return joined, open_networks(paths, raw=raw), opened


def _check_encoders(weights: Weights, path: str | Path) -> None:
    """Raise UserError for a run that was trained on patches in the place of encoders."""
    content = weights.metadata.system
    if content is None:
        return
    encoders = config_from_dict(content).encoders
    own = {"autoencoder": encoders.autoencoder, "reference": encoders.reference}
    patches = [name for name, kind in own.items() if kind == "patch"]
    if patches:
        raise UserError(
            f"got {path}, a run whose {' and '.join(patches)} are patches of pixels, expected one "
            "on SDXL's autoencoder, CLIP and the tagger: diffusers and transformers have no such "
            "encoders; its UNet, sketch encoder and projection export as safetensors"
        )


def describe_system(
    networks: Networks,
    opened: Sequence[Weights],
    *,
    title: str,
    licence: str,
    base_model: str | None,
    picture: str | Path | None,
) -> tuple[Suggestions, Card]:
    """What the folder says of how it is used, and of where it is from.

    Args:
        networks, opened: of `open_system`.
        title, licence, base_model: of the card.
        picture: to show, or None: the newest samples of a run.

    Raises:
        UserError: there is no such picture.
    """
    limits, ours = networks.system.limits, networks.defaults
    plain = InferenceOptions()
    defaults = {
        name: getattr(ours, name)
        for name in SUGGESTED
        if getattr(ours, name) != getattr(plain, name)
    }
    suggestions = Suggestions(
        {
            "default_size": limits.default,
            "minimum_size": limits.minimum,
            "size_multiple": limits.multiple,
            "autofit_multiple": limits.autofit_multiple,
        },
        defaults,
        {"sampler": ours.sampler, "schedule": ours.schedule},
    )
    if picture is not None and not Path(picture).is_file():
        raise UserError(f"got picture {picture}, which does not exist, expected a PNG file")
    run = next((weights for weights in opened if isinstance(weights, RunWeights)), None)
    card = Card(
        title,
        licence,
        base_model,
        _facts(networks, run),
        Path(picture) if picture is not None else _samples(run),
        networks.system.background_encoder is not None,
    )
    return suggestions, card


def _facts(networks: Networks, run: RunWeights | None) -> dict[str, Any]:
    """Name -> value, of what checkpoints say."""
    system = networks.system
    facts: dict[str, Any] = {
        "prediction": {"v": "velocity", "eps": "noise"}[system.prediction_type],
        "pictures": f"{system.limits.default} px",
    }
    if run is None:
        return facts
    config = config_from_dict(run.config)
    averaged = "running average of the parameters" if run.averaged else "the parameters themselves"
    return facts | {
        "training steps": f"{run.step:,}, {averaged}",
        "batch size": config.data.batch_size,
        "learning rate": config.optimizer.learning_rate,
        "weight of the Gram regularization": config.gram.maximum,
        "data": f"{config.data.source}, {config.data.height}x{config.data.width} px",
        "seed": config.seed,
    }


def _samples(run: RunWeights | None) -> Path | None:
    """The newest picture of samples that a run has drawn on this machine."""
    if run is None:
        return None
    found = sorted(Path(run.workdir).glob("samples/*.png"))
    return found[-1] if found else None
