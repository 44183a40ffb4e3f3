"""Every config describes networks that fit together."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from colorize_jax.config.load import load_config
from colorize_jax.models.architectures import abstract_params
from colorize_jax.models.colorizer import TRAINED_NETWORKS
from colorize_jax.setup.networks import (
    build_colorizer,
    build_encoders,
    network_configs,
    weights_metadata,
)

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_parts_fit_together(name):
    config = load_config(CONFIGS / f"{name}.py")
    encoders, colorizer = build_encoders(config), build_colorizer(config)
    side = config.encoders.reference_image_size
    reference = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    clip, tagger = jax.eval_shape(lambda x: encoders.encode_reference({}, x), reference)
    params = jax.eval_shape(colorizer.init, jax.random.key(0), clip, tagger)
    configs = network_configs(config)
    assert set(params) == set(configs)
    for component, tree in params.items():
        expected = abstract_params(component, configs[component])
        assert jax.tree.map(lambda x: x.shape, tree) == jax.tree.map(lambda x: x.shape, expected)
    # Gram blocks exist.
    for block in config.gram.blocks:
        colorizer.unet.locate(block)


def test_base_is_the_published_system():
    metadata = weights_metadata(load_config(CONFIGS / "base.py"))
    assert metadata.prediction_type == "v"
    sizes = {
        component: sum(leaf.size for leaf in jax.tree.leaves(abstract_params(component, config)))
        for component, config in metadata.configs.items()
        if component in TRAINED_NETWORKS
    }
    assert sizes == {
        "unet": 2_564_514_564,
        "sketch_encoder": 25_984_720,
        "reference_projection": 15_478_528,
    }
