"""Golden cases of the trained networks around the UNet."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.io.published.torch_names import from_torch
from colorize_jax.models.reference_projection import ReferenceProjection
from colorize_jax.models.sketch_encoder import SketchEncoder
from colorize_jax.nn.layers import size_embedding
from colorize_jax.verify import golden
from colorize_jax.verify.golden import GoldenCase


def nhwc(x: np.ndarray) -> jax.Array:
    """(B, C, H, W) -> (B, H, W, C)."""
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def nchw(x: jax.Array) -> np.ndarray:
    """(B, H, W, C) -> (B, C, H, W)."""
    return np.asarray(x).transpose(0, 3, 1, 2)


def load(case: GoldenCase, module: nn.Module, *inputs: Any) -> dict[str, Any]:
    """Variables of `module` with a case's weights, through the name table.

    Raises:
        UserError: the case's tensors are not those of the module.
    """
    abstract = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return {"params": from_torch(case.component, golden.weights(case), abstract)}


def sketch_encoder(config: dict[str, Any]) -> SketchEncoder:
    """Our module for the published constructor's arguments."""
    return SketchEncoder(
        config["model_channels"], tuple(config["ch_mults"]), head_dim=config["dim_head"]
    )


def run_size_embedding(case: GoldenCase) -> dict[str, np.ndarray]:
    """Run one case."""
    size, score = case.inputs["size"], case.inputs["aesthetic_score"]
    embedded = size_embedding(size, score, case.config["embed_dim"])
    return {"size_embedding": np.asarray(embedded)}


def run_sketch_encoder(case: GoldenCase) -> dict[str, np.ndarray]:
    """Run one case."""
    module, sketch = sketch_encoder(case.config), nhwc(case.inputs["sketch"])
    hints = jax.jit(module.apply)(load(case, module, sketch), sketch)
    return {f"hint_{i}": nchw(hint) for i, hint in enumerate(hints)}


def run_reference_projection(case: GoldenCase) -> dict[str, np.ndarray]:
    """Run one case."""
    config = case.config
    module = ReferenceProjection(config["token_length"], config["context_dim"], config["head_dim"])
    tokens = [jnp.asarray(case.inputs[name]) for name in ("clip_tokens", "tagger_tokens")]
    context = jax.jit(module.apply)(load(case, module, *tokens), *tokens)
    return {"context": np.asarray(context)}
