"""What we write loads in PyTorch's libraries and gives the same numbers there, and vice versa."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import small_models
from small_models import CONFIGS, save, tensors

from colorize_jax.io.formats.readers import open_checkpoint
from colorize_jax.io.formats.tensors import LazyTensor
from colorize_jax.io.formats.weights_folder import load_weights
from colorize_jax.io.open_weights import open_weights
from colorize_jax.io.published import (
    checkpoint,
    diffusers_folder,
    export,
    importing,
    torch_names,
)
from colorize_jax.models import architectures
from colorize_jax.models.unet_controls import Controls
from colorize_jax.nn.layers import sinusoid
from colorize_jax.verify import golden

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")

TOLERANCE = 2e-5


def _weights(tmp_path, component, **changes):
    """A folder with one small network in float32."""
    arrays = tensors(component, dtype=np.float32, **changes)
    path = save(tmp_path / "model.safetensors", arrays, {"prediction_type": "v"})
    configs = {component: small_models.full_config(component, **changes)}
    importing.import_weights(checkpoint.open_published(path, configs), tmp_path / "weights")
    return tmp_path / "weights"


def _ours(folder, component, *arguments, **keywords):
    module = architectures.build(component, open_weights(folder).metadata.configs[component])
    params = load_weights(folder)[component]
    return module.apply({"params": params}, *arguments, **keywords)


def _random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _close(ours, theirs):
    return golden.relative_error(ours, theirs.detach().numpy()) < TOLERANCE


@pytest.mark.parametrize("options", [{}, {"max_shard_bytes": 500_000}])
def test_unet_in_diffusers(tmp_path, options):
    diffusers = pytest.importorskip("diffusers")
    folder = _weights(tmp_path, "unet", loras=[["background", 2]], vector_channels=32)
    export.export_diffusers(open_weights(folder), tmp_path / "out", **options)
    theirs = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "out", subfolder="unet")
    latents, context = _random(0, 2, 8, 16, 4), _random(1, 2, 5, 24)
    size_and_score = np.float32([[512, 7], [1024, 5.5]])
    vector = sinusoid(size_and_score, 16).reshape(2, 32)
    # LoRAs are extras that the folder lacks: off.
    prediction, _ = _ours(
        folder,
        "unet",
        latents,
        np.float32([7, 900]),
        context,
        None,
        vector,
        controls=Controls(lora_scales={"background": jnp.float32(0)}),
    )
    with torch.no_grad():
        answer = theirs(
            torch.tensor(latents).permute(0, 3, 1, 2),
            torch.tensor([7.0, 900.0]),
            torch.tensor(context),
            added_cond_kwargs={
                "time_ids": torch.tensor(size_and_score),
                "text_embeds": torch.zeros(2, 0),
            },
        ).sample.permute(0, 2, 3, 1)
    assert _close(prediction, answer)


def test_the_published_networks_in_diffusers():
    """Names and shapes at full size, without a byte of weights."""
    diffusers = pytest.importorskip("diffusers")
    unet, vae = (architectures.published_config(name) for name in ("unet", "vae"))
    with torch.device("meta"):
        theirs = {
            "unet": diffusers.UNet2DConditionModel.from_config(diffusers_folder.unet_json(unet)),
            "vae": diffusers.AutoencoderKL.from_config(diffusers_folder.vae_json(vae, 0.13025)),
        }
    for component, config in (("unet", unet), ("vae", vae)):
        abstract = architectures.abstract_params(component, config)
        ours = {
            slot.name: LazyTensor(slot.name, slot.shape, np.dtype(np.float32), lambda: None)
            for slot in torch_names.slots(component, abstract)
        }
        renamed = diffusers_folder.to_diffusers(component, ours, config)
        shapes = {name: tuple(t.shape) for name, t in theirs[component].state_dict().items()}
        assert {tensor.name: tensor.shape for tensor in renamed} == shapes


def test_a_unet_of_diffusers_here(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        cross_attention_dim=24,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32,
        use_linear_projection=True,
    )
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="500KB")
    source = checkpoint.open_published(tmp_path / "theirs")
    importing.import_weights(source, tmp_path / "weights")
    latents, context = _random(0, 1, 8, 8, 4), _random(1, 1, 5, 24)
    text, time_ids = _random(2, 1, 16), np.float32([[512, 7]])
    vector = np.concatenate([text, sinusoid(time_ids, 8).reshape(1, 16)], axis=-1)
    prediction, _ = _ours(
        tmp_path / "weights", "unet", latents, np.float32([7]), context, None, vector
    )
    with torch.no_grad():
        answer = theirs(
            torch.tensor(latents).permute(0, 3, 1, 2),
            torch.tensor([7.0]),
            torch.tensor(context),
            added_cond_kwargs={
                "time_ids": torch.tensor(time_ids),
                "text_embeds": torch.tensor(text),
            },
        ).sample.permute(0, 2, 3, 1)
    assert _close(prediction, answer)


def test_vae_in_diffusers(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    folder = _weights(tmp_path, "vae")
    export.export_diffusers(open_weights(folder), tmp_path / "out")
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path / "out", subfolder="vae")
    assert theirs.config.scaling_factor == pytest.approx(0.13025)
    images, latents = _random(0, 1, 16, 24, 3), _random(1, 1, 8, 12, 4)
    mean, logvar = _ours(folder, "vae", images, method="encode")
    decoded = _ours(folder, "vae", latents, method="decode")
    with torch.no_grad():
        posterior = theirs.encode(torch.tensor(images).permute(0, 3, 1, 2)).latent_dist
        answer = theirs.decode(torch.tensor(latents).permute(0, 3, 1, 2)).sample
    assert _close(mean, posterior.mean.permute(0, 2, 3, 1))
    assert _close(logvar, posterior.logvar.permute(0, 2, 3, 1))
    assert _close(decoded, answer.permute(0, 2, 3, 1))


def _clip_tokens(model, images):
    with torch.no_grad():
        hidden = model.vision_model(torch.tensor(images).permute(0, 3, 1, 2)).last_hidden_state
        return model.visual_projection(model.vision_model.post_layernorm(hidden))


def test_clip_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    arrays = tensors("clip_vision", prefix="", dtype=np.float32)
    path = save(tmp_path / "model.safetensors", arrays)
    configs = {"clip_vision": CONFIGS["clip_vision"]}
    folder = tmp_path / "weights"
    importing.import_weights(checkpoint.open_published(path, configs), folder)
    out = tmp_path / "out"
    export.export_safetensors(open_weights(folder), out, max_shard_bytes=30_000)
    theirs = transformers.CLIPVisionModelWithProjection.from_pretrained(out)
    images = _random(0, 2, 28, 28, 3)
    ours = _ours(folder, "clip_vision", images)
    assert _close(ours, _clip_tokens(theirs, images))


def test_a_clip_of_transformers_here(tmp_path):
    """A whole CLIP model, text half and all, in shards."""
    transformers = pytest.importorskip("transformers")
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
        "hidden_act": "gelu",
    }
    text = vision | {"vocab_size": 50, "max_position_embeddings": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    theirs = transformers.CLIPModel(config)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    source = checkpoint.open_published(tmp_path / "theirs")
    importing.import_weights(source, tmp_path / "weights")
    images = _random(0, 2, 28, 28, 3)
    ours = _ours(tmp_path / "weights", "clip_vision", images)
    assert _close(ours, _clip_tokens(theirs, images))
    ids = np.int32([[48, 7, 3, 49, 49], [48, 9, 4, 4, 49]])
    ours = _ours(tmp_path / "weights", "clip_text", ids)
    theirs.config.text_config.eos_token_id = theirs.text_model.eos_token_id = 49
    features = theirs.get_text_features(torch.tensor(ids.astype(np.int64)))
    assert _close(ours, getattr(features, "pooler_output", features))


def test_text_tower_in_transformers(tmp_path):
    """Exported alone and beside the vision tower."""
    transformers = pytest.importorskip("transformers")
    arrays = {
        name: tensors(name, prefix="", dtype=np.float32) for name in ("clip_vision", "clip_text")
    }
    ids = np.random.default_rng(0).integers(0, 578, (3, 12)).astype(np.int32)
    ids[:, 0], ids[[0, 1, 2], [5, 11, 1]] = 578, 579
    cases = {
        "alone": (arrays["clip_text"], ("clip_text",)),
        "both": (arrays["clip_vision"] | arrays["clip_text"], ("clip_vision", "clip_text")),
    }
    for case, (content, names) in cases.items():
        path, folder, out = (tmp_path / f"{case}{end}" for end in (".safetensors", "", "-out"))
        source = checkpoint.open_published(save(path, content), {n: CONFIGS[n] for n in names})
        importing.import_weights(source, folder)
        export.export_safetensors(open_weights(folder), out, max_shard_bytes=30_000)
        theirs = transformers.CLIPTextModelWithProjection.from_pretrained(out)
        ours = _ours(folder, "clip_text", ids)
        assert _close(ours, theirs(torch.tensor(ids.astype(np.int64))).text_embeds), case
        again = checkpoint.open_published(out)
        assert (again.kind, again.configs) == (source.kind, source.configs)
    vision = transformers.CLIPVisionModelWithProjection.from_pretrained(tmp_path / "both-out")
    images = _random(0, 2, 28, 28, 3)
    ours = _ours(tmp_path / "both", "clip_vision", images)
    assert _close(ours, _clip_tokens(vision, images))


def test_a_text_tower_of_transformers_here(tmp_path):
    """As SDXL's second text encoder lies in its diffusers folder."""
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=50,
        max_position_embeddings=9,
        hidden_act="gelu",
        projection_dim=20,
        eos_token_id=49,
    )
    theirs = transformers.CLIPTextModelWithProjection(config)
    with torch.no_grad():
        theirs.text_model.embeddings.token_embedding.weight.mul_(50)
    theirs.save_pretrained(tmp_path / "text_encoder_2")
    source = checkpoint.open_published(tmp_path / "text_encoder_2")
    assert source.kind == "clip_text" and source.configs["clip_text"]["context_length"] == 9
    importing.import_weights(source, tmp_path / "weights")
    ids = np.int32([[48, 7, 3, 49, 49, 49], [48, 49, 1, 2, 3, 49]])
    ours = _ours(tmp_path / "weights", "clip_text", ids)
    assert _close(ours, theirs(torch.tensor(ids.astype(np.int64))).text_embeds)


def test_shards_of_torch_save(tmp_path):
    arrays = tensors("clip_vision", prefix="", dtype=np.float32)
    names = list(arrays)
    weight_map = {}
    for number in (1, 2):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        half = {name: torch.tensor(arrays[name]) for name in names[number - 1 :: 2]}
        torch.save(half, tmp_path / file)
        weight_map |= dict.fromkeys(half, file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    source = checkpoint.open_published(tmp_path, {"clip_vision": CONFIGS["clip_vision"]})
    assert source.form == "folder with pytorch_model.bin.index.json"
    found = {name: np.asarray(tensor) for name, tensor in source.tensors.items()}
    assert small_models.same_bits(found, arrays)


@pytest.mark.parametrize("wrapped", [False, True])
def test_files_of_torch_save(tmp_path, wrapped):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    content = {
        "plain": base,
        "view": base[1:3, ::2].t(),
        "half": base.half(),
        "brain": base.bfloat16(),
        "long": torch.arange(3),
        "parameter": torch.nn.Parameter(base.clone()),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }
    path = tmp_path / "model.ckpt"
    state = {"state_dict": content, "epoch": 3, "global_step": 70} if wrapped else content
    torch.save(state, path)
    loaded = torch.load(path, weights_only=True)
    loaded = loaded["state_dict"] if wrapped else loaded
    found = open_checkpoint(path).tensors
    assert found.keys() == loaded.keys()
    for name, theirs in loaded.items():
        ours = np.asarray(found[name])
        assert ours.shape == tuple(theirs.shape)
        assert str(theirs.dtype) == f"torch.{ours.dtype.name}"
        np.testing.assert_array_equal(
            ours.astype(np.float64), theirs.detach().to(torch.float64).numpy()
        )


def test_a_model_of_torch_save_is_imported(tmp_path):
    arrays = tensors("vae", dtype=np.float32)
    path = tmp_path / "vae.pt"
    torch.save({name: torch.tensor(array) for name, array in arrays.items()}, path)
    importing.import_weights(checkpoint.open_published(path), tmp_path / "weights")
    tree = load_weights(tmp_path / "weights")["vae"]
    found = torch_names.to_torch("vae", tree, prefix=torch_names.PREFIXES["vae"])
    for name, array in found:
        np.testing.assert_array_equal(array, arrays[name])
