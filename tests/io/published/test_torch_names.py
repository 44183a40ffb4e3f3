"""The name table on hand-made trees."""

import jax
import ml_dtypes
import numpy as np
import pytest

from colorize_jax.errors import UserError
from colorize_jax.io.published import torch_names


def _tree(seed=0, dtype=np.float32):
    """A tree with every kind of leaf and of name."""
    random = np.random.default_rng(seed)

    def leaf(*shape):
        return random.standard_normal(shape).astype(dtype)

    return {
        "input_blocks_4_1": {
            "transformer_blocks": {
                "attn2": {
                    "to_out_0": {"kernel": leaf(3, 4, 6), "bias": leaf(3, 6)},
                    "to_q": {
                        "kernel": leaf(3, 4, 4),
                        "lora_down_background": {"kernel": leaf(3, 4, 2)},
                    },
                },
                "ff": {"net_0": {"proj": {"kernel": leaf(3, 4, 8)}}},
                "norm1": {"scale": leaf(3, 4), "bias": leaf(3, 4)},
            },
        },
        "input_blocks_0_0": {"kernel": leaf(3, 3, 2, 5), "bias": leaf(5)},
        "map_modules_0_0": {"to_out_0": {"bias": leaf(2)}},
        "conv_fg": {"kernel": leaf(1, 1, 2, 5)},
    }


def test_names_and_layouts_follow_the_rule():
    tree = _tree()
    tensors = dict(torch_names.to_torch("unet", tree, prefix="model.diffusion_model."))
    block = tree["input_blocks_4_1"]["transformer_blocks"]
    prefix = "model.diffusion_model.input_blocks.4.1.transformer_blocks"
    np.testing.assert_array_equal(
        tensors[f"{prefix}.2.attn2.to_out.0.weight"], block["attn2"]["to_out_0"]["kernel"][2].T
    )
    np.testing.assert_array_equal(tensors[f"{prefix}.1.norm1.weight"], block["norm1"]["scale"][1])
    conv = tree["input_blocks_0_0"]["kernel"]
    published = tensors["model.diffusion_model.input_blocks.0.0.weight"]
    assert published.shape == (5, 2, 3, 3)
    assert published[4, 1, 2, 0] == conv[2, 0, 1, 4]
    assert f"{prefix}.0.attn2.to_q.lora_down_background.weight" in tensors
    assert f"{prefix}.0.ff.net.0.proj.weight" in tensors
    assert "model.diffusion_model.map_modules.0.0.to_out.0.bias" in tensors
    assert "model.diffusion_model.conv_fg.weight" in tensors


@pytest.mark.parametrize(
    ("component", "path", "shape", "name", "published_shape"),
    [
        ("vae", "encoder/mid/block_1/conv1/kernel", (3, 3, 2, 4),
         "encoder.mid.block_1.conv1.weight", (4, 2, 3, 3)),
        ("vae", "encoder/mid/attn_1/norm/scale", (4,),
         "encoder.mid.attn_1.norm.weight", (4,)),
        ("vae", "decoder/up_0/block_1/conv1/bias", (4,),
         "decoder.up.0.block.1.conv1.bias", (4,)),
        ("clip_vision", "vision_model/embeddings/position_embedding/embedding", (5, 4),
         "vision_model.embeddings.position_embedding.weight", (5, 4)),
        ("clip_vision", "vision_model/embeddings/class_embedding", (4,),
         "vision_model.embeddings.class_embedding", (4,)),
        ("clip_vision", "vision_model/encoder/layers/mlp/fc1/kernel", (1, 4, 8),
         "vision_model.encoder.layers.0.mlp.fc1.weight", (8, 4)),
        ("tagger", "layers_0/blocks_1/attn/logit_scale", (2, 1, 1),
         "layers.0.blocks.1.attn.logit_scale", (2, 1, 1)),
        ("tagger", "layers_1/blocks_0/attn/cpb_mlp_0/kernel", (2, 8),
         "layers.1.blocks.0.attn.cpb_mlp.0.weight", (8, 2)),
        ("sketch_encoder", "downsample_layers_0_1/kernel", (3, 3, 2, 4),
         "downsample_layers.0.1.weight", (4, 2, 3, 3)),
        ("lora", "kernel", (24, 32), "weight", (32, 24)),
    ],
)  # fmt: skip
def test_listed_names(component, path, shape, name, published_shape):
    leaf = np.zeros(shape)
    for key in reversed(path.split("/")):
        leaf = {key: leaf}
    (slot,) = torch_names.slots(component, leaf)
    assert (slot.name, slot.shape) == (name, published_shape)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_round_trip_keeps_dtype_and_bits(dtype):
    tree = _tree(dtype=dtype)
    tensors = {name: np.array(array) for name, array in torch_names.to_torch("unet", tree)}
    restored = torch_names.from_torch("unet", tensors, tree)
    again = dict(torch_names.to_torch("unet", restored))
    assert again.keys() == tensors.keys()
    for name, array in tensors.items():
        assert again[name].dtype == dtype
        assert again[name].tobytes() == array.tobytes(), name


def test_trees_share_their_memory_with_jax():
    tensors = dict(torch_names.to_torch("unet", _tree()))
    restored = torch_names.from_torch("unet", tensors, _tree())
    device = jax.local_devices(backend="cpu")[0]
    for leaf in jax.tree.leaves(restored):
        assert jax.device_put(leaf, device).unsafe_buffer_pointer() == leaf.ctypes.data


def test_blocks_of_mixed_dtype_share_one_that_holds_both():
    tree = _tree(dtype=np.float16)
    tensors = dict(torch_names.to_torch("unet", tree))
    name = "input_blocks.4.1.transformer_blocks.1.norm1.weight"
    tensors[name] = tensors[name].astype(ml_dtypes.bfloat16)
    restored = torch_names.from_torch("unet", tensors, tree)
    scale = restored["input_blocks_4_1"]["transformer_blocks"]["norm1"]["scale"]
    assert scale.dtype == np.float32
    np.testing.assert_array_equal(scale[1], tensors[name].astype(np.float32))


def test_all_misfits_are_listed_once_with_nearest_names():
    tree = _tree()
    tensors = dict(torch_names.to_torch("unet", tree))
    tensors["input_blocks.0.0.wieght"] = tensors.pop("input_blocks.0.0.weight")
    tensors["conv_fg.weight"] = np.zeros((5, 2, 3, 3))
    with pytest.raises(UserError) as caught:
        torch_names.from_torch("unet", tensors, tree)
    message = str(caught.value)
    assert "1 missing: input_blocks.0.0.weight (nearest: input_blocks.0.0.wieght)" in message
    assert "1 unexpected: input_blocks.0.0.wieght (nearest: input_blocks.0.0.weight)" in message
    assert "conv_fg.weight is (5, 2, 3, 3), expected (5, 2, 1, 1)" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "skipped"),
    [
        ("alphas_cumprod", True),
        ("sqrt_recipm1_alphas_cumprod", True),
        ("model_ema.decay", True),
        ("conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight", True),
        ("vision_model.embeddings.position_ids", True),
        ("layers.0.blocks.1.attn.relative_position_index", True),
        ("text_model.encoder.layers.0.mlp.fc1.weight", True),
        ("logit_scale", True),
        ("layers.0.blocks.1.attn.logit_scale", False),
        ("model.diffusion_model.betas.weight", False),
        ("model.diffusion_model.out.2.weight", False),
    ],
)
def test_skipped_tensors_are_a_list_and_not_a_guess(name, skipped):
    assert torch_names.is_skipped(name) is skipped


def test_buffers_are_skipped_on_import():
    tree = _tree()
    tensors = dict(torch_names.to_torch("unet", tree)) | {"betas": np.zeros(1000)}
    torch_names.from_torch("unet", tensors, tree)
