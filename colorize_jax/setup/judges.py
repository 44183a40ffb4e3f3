"""The networks that look at the pictures of an evaluation."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from colorize_jax.errors import UserError
from colorize_jax.evaluation.protocols.features import Judge, Judges
from colorize_jax.inference.pipeline import ColorizePipeline
from colorize_jax.models.architectures import build
from colorize_jax.models.frozen.clip_vision import ClipVision
from colorize_jax.models.frozen.tagger import Tagger
from colorize_jax.setup.checkpoints import open_checkpoint

OWN = ("inception", "lpips")


def open_judges(pipeline: ColorizePipeline, paths: Sequence[str | Path]) -> Judges:
    """Take CLIP and the tagger from a pipeline, and further networks from imported weights.

    Args:
        pipeline: patch encoders in the place of CLIP and tagger judge nothing.
        paths: folders of weights of `OWN`.

    Raises:
        UserError: a path holds none of them.
    """
    encoders, networks = pipeline.system.encoders, pipeline.networks
    judges = {}
    for name, module, kind in (
        ("clip_vision", encoders.clip, ClipVision),
        ("tagger", encoders.tagger, Tagger),
    ):
        if isinstance(module, kind):
            judges[name] = Judge(module, networks.params(name)[name])
    for path in paths:
        weights = open_checkpoint(path)
        found = [name for name in OWN if name in weights.abstract]
        if not found:
            raise UserError(
                f"got {path} with {', '.join(weights.abstract) or 'nothing'}, expected weights of "
                f"{' or '.join(OWN)}; import the file with --as and name that folder"
            )
        for name in found:
            module = build(name, weights.metadata.configs[name])
            params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), weights.read(name))
            judges[name] = Judge(module, params)
    return Judges(judges)
