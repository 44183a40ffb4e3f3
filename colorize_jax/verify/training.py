"""Run the golden cases of training: Gram losses."""

import re

import jax.numpy as jnp
import numpy as np

from colorize_jax.training.losses.gram import gram_loss, gram_matrix, unit_tokens
from colorize_jax.verify.golden import GoldenCase

# e.g. standardized_kl_loss_temperature_0.5, mse_loss_mask_weighted_layer_0, standardized_gram_1
LOSS_NAME = re.compile(
    r"(?P<standardized>standardized_)?(?P<kind>[a-z]+)_loss(?P<rows>_l2_rows)?"
    r"(?:_temperature_(?P<temperature>[\d.]+))?(?P<masked>_mask_weighted)?(?:_layer_(?P<layer>\d+))?"
)
GRAM_NAME = re.compile(r"(?P<standardized>standardized_)?gram_(?P<layer>\d+)")


def run_gram(case: GoldenCase) -> dict[str, np.ndarray]:
    """Compute every loss that the case's outputs name; unknown names are left out."""
    aligned, misaligned = (
        {
            name.removeprefix(side): jnp.asarray(value)
            for name, value in case.inputs.items()
            if name.startswith(side)
        }
        for side in ("aligned_", "misaligned_")
    )
    mask = jnp.moveaxis(jnp.asarray(case.inputs["mask"]), 1, -1)  # NCHW -> NHWC
    options = {
        name: case.config[name]
        for name in ("mask_threshold", "ranking_margin", "ranking_alpha", "bce_alpha")
        if name in case.config
    }
    results = {}
    for name in case.outputs:
        if match := GRAM_NAME.fullmatch(name):
            x = unit_tokens(aligned[match["layer"]], bool(match["standardized"]))
            results[name] = np.asarray(gram_matrix(x))
        elif match := LOSS_NAME.fullmatch(name):
            layers = aligned if match["layer"] is None else [match["layer"]]
            loss, _ = gram_loss(
                {layer: misaligned[layer] for layer in layers},
                {layer: aligned[layer] for layer in layers},
                kind=match["kind"],
                standardize=bool(match["standardized"]),
                row_l2=bool(match["rows"]),
                temperature=float(match["temperature"] or 1),
                mask=mask if match["masked"] else None,
                **options,
            )
            results[name] = np.asarray(loss)
    return results
