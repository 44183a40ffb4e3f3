"""Configurations read off shapes."""

import pytest
import small_models

from colorize_jax.errors import UserError
from colorize_jax.io.published.detection import UNSEEN, detect_config
from colorize_jax.models.architectures import PUBLISHED, published_config

# What the shapes of the small models do not tell.
SAID = {component: set(fields) for component, (fields, _) in UNSEEN.items()}


def _shapes(component, **changes):
    found = small_models.tensors(component, prefix="p.", **changes)
    return {name: array.shape for name, array in found.items()} | {"other.weight": (1,)}


def _said(component):
    config = small_models.full_config(component)
    return {field: config[field] for field in SAID.get(component, ())}


@pytest.mark.parametrize("component", PUBLISHED)
def test_small_networks_are_recognized(component):
    found = detect_config(component, _shapes(component), "p.", _said(component))
    assert found == small_models.full_config(component)


@pytest.mark.parametrize(
    "changes",
    [
        small_models.PLUGIN,
        {
            "loras": [["background", 2], ["foreground", 3]],
            "warp_modules": True,
            "in_channels": 9,
            "out_channels": 8,
        },
        {
            "num_res_blocks": 2,
            "channel_mult": [1, 1, 2],
            "transformer_depth": [0, 1, 3],
            "hint_blocks": [0, 3, 6, 8],
        },
    ],
)
def test_variants_of_the_unet_are_recognized(changes):
    found = detect_config("unet", _shapes("unet", **changes), "p.", _said("unet"))
    assert found == small_models.full_config("unet", **changes)


def test_trained_hints_of_colour_are_recognized():
    shapes = _shapes("sketch_encoder", color_hints=True)
    assert "p.color_hints.weight" in shapes
    found = detect_config("sketch_encoder", shapes, "p.", _said("sketch_encoder"))
    assert found == small_models.full_config("sketch_encoder", color_hints=True)


def test_what_shapes_cannot_tell_is_never_guessed():
    for component in UNSEEN:
        field = UNSEEN[component][0][0]
        with pytest.raises(UserError, match=rf"{field}.*pass --config"):
            detect_config(component, _shapes(component), "p.")


def test_one_wrong_or_missing_tensor_does_not_change_the_architecture():
    said, expected = _said("unet"), small_models.full_config("unet")
    for name in ("input_blocks.0.0.weight", "time_embed.0.weight", "out.2.weight"):
        shapes = _shapes("unet")
        shapes[f"p.{name}"] = (320, *shapes[f"p.{name}"][1:])
        assert detect_config("unet", shapes, "p.", said) == expected
    shapes = _shapes("unet")
    del shapes["p.input_blocks.2.0.op.weight"]  # its bias still tells
    assert detect_config("unet", shapes, "p.", said) == expected


def test_nothing_at_all_is_the_published_configuration():
    assert detect_config("vae", {}) == published_config("vae")
