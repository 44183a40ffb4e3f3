"""Every published name and shape of the networks around the UNet, by abstract evaluation."""

import gzip
import json
from pathlib import Path

import jax
import pytest

from colorize_jax.io.published import torch_names
from colorize_jax.models.frozen.clip_vision import ClipVision
from colorize_jax.models.frozen.tagger import Tagger
from colorize_jax.models.frozen.vae import Vae
from colorize_jax.models.reference_projection import ReferenceProjection
from colorize_jax.models.sketch_encoder import SketchEncoder

MANIFESTS = Path(__file__).parents[1] / "io" / "manifests"
# Component -> manifest, prefix in it, module, shapes of its inputs.
NETWORKS = {
    "sketch_encoder": ("colorizer_xl", "control_encoder.", SketchEncoder(), [(256, 256, 3)]),
    "reference_projection": (
        "colorizer_xl",
        "proj.",
        ReferenceProjection(),
        [(257, 1280), (196, 1024)],
    ),
    "vae": ("colorizer_xl", "first_stage_model.", Vae(), [(64, 64, 3)]),
    "clip_vision": ("clip_vit_bigg_14", "", ClipVision(), [(224, 224, 3)]),
    "tagger": ("wd_v1_4_swinv2_tagger_v2", "", Tagger(), [(448, 448, 3)]),
}


@pytest.mark.parametrize("component", NETWORKS)
def test_names_and_shapes(component: str) -> None:
    name, prefix, module, shapes = NETWORKS[component]
    content = json.loads(gzip.decompress((MANIFESTS / f"{name}.json.gz").read_bytes()))
    expected = {
        tensor: tuple(shape)
        for tensor, shape in content["tensors"].items()
        if tensor.startswith(prefix)
    }
    inputs = [jax.ShapeDtypeStruct((1, *shape), "float32") for shape in shapes]
    params = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    slots = list(torch_names.slots(component, params, prefix=prefix))
    assert len(slots) == len(expected)
    assert {slot.name: slot.shape for slot in slots} == expected
