"""Inception and LPIPS: shapes, names, preprocessing, and the published networks' numbers.

The published weights are nobody's here to give: random ones go through the files' own formats.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_models
from PIL import Image
from torchvision_stand_in import import_reference

from colorize_jax.errors import UserError
from colorize_jax.io.formats.weights_folder import load_weights
from colorize_jax.io.open_weights import open_weights
from colorize_jax.io.published import torch_names
from colorize_jax.io.published.checkpoint import open_published
from colorize_jax.io.published.importing import import_weights
from colorize_jax.models import architectures
from colorize_jax.models.frozen.inception import SIZE, preprocess_clean_fid, preprocess_fid


def picture(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def apply(network, folder, *inputs):
    """A network of a folder of weights on inputs."""
    config = open_weights(folder).metadata.configs[network]
    params = load_weights(folder, [network])[network]
    module = architectures.build(network, config)
    return np.asarray(jax.jit(module.apply)({"params": params}, *inputs))


@pytest.mark.parametrize("height, width", [(64, 96), (299, 299), (400, 310)])
def test_clean_fid_resizes_as_pillow(height, width):
    levels = picture(height, width)
    channels = [
        Image.fromarray(levels[..., i].astype(np.float32)).resize((SIZE, SIZE), Image.BICUBIC)
        for i in range(3)
    ]
    expected = (np.clip(np.stack(channels, -1), 0, 255) - 128) / 128
    found = preprocess_clean_fid(jnp.asarray(levels)[None])[0]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_fid_resizes_from_the_corner():
    """An enlarged ramp stands still behind its last pixel, and nowhere is it smoothed."""
    levels = np.zeros((1, 2, 598, 3), np.uint8)
    levels[0, :, :, :] = (np.arange(598) % 250)[:, None]
    found = np.asarray(preprocess_fid(jnp.asarray(levels)))[0]
    np.testing.assert_array_equal(found[0, :, 0] * 128 + 128, (2 * np.arange(299)) % 250)
    levels = np.array([0, 100], np.uint8).reshape(1, 2, 1, 1) * np.ones((1, 1, 3, 3), np.uint8)
    rows = np.asarray(preprocess_fid(jnp.asarray(levels)))[0, :, 0, 0] * 128 + 128
    np.testing.assert_allclose(rows, np.minimum(np.arange(299) * 2 / 299, 1) * 100, atol=1e-4)


@pytest.mark.parametrize("preprocess", [preprocess_fid, preprocess_clean_fid])
def test_floats_are_rounded_to_the_levels_of_files(preprocess):
    levels = jnp.asarray(picture(1, 40, 40))
    floats = levels.astype(jnp.float32) / 127.5 - 1 + 0.002
    np.testing.assert_array_equal(preprocess(floats), preprocess(levels))


def test_a_small_inception_has_features_in_proportion():
    module = architectures.build("inception", {"width": 2, "num_classes": 5})
    images = jnp.zeros((2, 75, 80, 3))
    features = jax.eval_shape(module.init_with_output, jax.random.key(0), images)[0]
    assert features.shape == (2, 128)
    assert features.dtype == jnp.float32


@pytest.mark.parametrize("vgg", [False, True])
def test_lpips_is_a_distance(vgg):
    """Of equal pictures none, of each pair its own, the same in both orders."""
    module = architectures.build("lpips", {"vgg": vgg, "channels": [4, 6, 8, 6, 4]})
    a, b = (picture(3, 40, 48, seed=seed) / 127.5 - 1 for seed in range(2))
    b[0] = a[0]
    params = jax.jit(module.init)(jax.random.key(0), a, b)
    # The published heads have no negative weight.
    params = jax.tree.map(jnp.abs, params)
    distance = jax.jit(module.apply)
    there, back = distance(params, a, b), distance(params, b, a)
    assert there[0] == 0
    assert (there[1:] > 1e-4).all()
    np.testing.assert_allclose(there, back, rtol=1e-6)
    alone = distance(params, a[2:], b[2:])
    np.testing.assert_allclose(there[2:], alone, rtol=1e-5)
    with pytest.raises(UserError, match="at least 32 px"):
        module.apply(params, a[:, :31], b[:, :31])


def test_published_names():
    config = architectures.published_config("inception")
    names = {s.name: s.shape for s in slots("inception", config)}
    assert names["Mixed_5c.branch5x5_2.conv.weight"] == (64, 48, 5, 5)
    assert names["Mixed_6b.branch7x7dbl_4.conv.weight"] == (128, 128, 7, 1)
    assert names["Mixed_7c.branch3x3dbl_3b.bn.running_var"] == (384,)
    assert names["fc.weight"] == (1008, 2048)
    assert len(names) == 94 * 5 + 2
    names = {s.name for s in slots("lpips", {"vgg": True})}
    assert {"features.28.bias", "lin4.model.1.weight"} < names


def slots(network, config):
    return torch_names.slots(network, architectures.abstract_params(network, config))


def test_lpips_of_two_files_and_of_one(tmp_path):
    """Trunk and heads apart, with the trunk's classifier; and all in LPIPS's own state dict."""
    tensors = small_models.tensors("lpips", prefix="", dtype=np.float32)
    heads = {name: array for name, array in tensors.items() if name.startswith("lin")}
    trunk = {name: array for name, array in tensors.items() if name not in heads}
    trunk["classifier.1.weight"] = np.zeros((2, 2), np.float32)
    files = [
        small_models.save(tmp_path / f"{name}.safetensors", arrays)
        for name, arrays in (("trunk", trunk), ("heads", heads))
    ]
    apart = open_published(files[0], beside=files[1:])
    assert (apart.kind, apart.configs) == ("lpips", {"lpips": small_models.full_config("lpips")})
    import_weights(apart, tmp_path / "apart")

    slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
    whole = dict(heads)
    for name, array in tensors.items():
        if name.startswith("features."):
            _, number, leaf = name.split(".")
            whole[f"net.slice{slices[int(number)]}.{number}.{leaf}"] = array
    whole |= {f"lins.{i}.model.1.weight": heads[f"lin{i}.model.1.weight"] for i in range(5)}
    whole["scaling_layer.shift"] = np.zeros((1, 3, 1, 1), np.float32)
    import_weights(
        open_published(small_models.save(tmp_path / "whole.safetensors", whole)),
        tmp_path / "whole",
    )
    a, b = load_weights(tmp_path / "apart"), load_weights(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, a, b)
    with pytest.raises(UserError, match="without its heads"):
        open_published(files[0])


@pytest.mark.interop
@pytest.mark.parametrize("size", [(64, 90), (320, 240)])
def test_equal_to_torch_fidelity(tmp_path, size):
    """Features of the whole published network, from a file of its own format."""
    extractor = import_reference("torch_fidelity.feature_extractor_inceptionv3")
    import torch

    names = slots("inception", {})
    random, state = np.random.default_rng(0), {}
    for slot in names:
        fan_in = np.prod(slot.shape[1:]) if len(slot.shape) > 1 else 1
        array = random.standard_normal(slot.shape) * np.sqrt(2 / fan_in)
        if len(slot.shape) == 1:
            array = 0.1 * array + ("bias" not in slot.name and "mean" not in slot.name)
        state[slot.name] = torch.from_numpy(np.float32(array))
    for name in [name for name in state if name.endswith("running_var")]:
        state[name] = state[name].abs()
        counter = name.replace("running_var", "num_batches_tracked")
        state[counter] = torch.zeros((), dtype=torch.int64)
    path = tmp_path / "pt_inception.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    theirs = extractor.FeatureExtractorInceptionV3(
        "inception", ["2048"], feature_extractor_weights_path=str(path)
    )
    levels = picture(2, *size)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(levels).permute(0, 3, 1, 2))[0].numpy()
    import_weights(open_published(path), tmp_path / "inception")
    inputs = preprocess_fid(jnp.asarray(levels))
    found = apply("inception", tmp_path / "inception", inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).mean())


@pytest.mark.interop
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_equal_to_lpips(tmp_path, net):
    """With lpips's own heads, which its package brings, on random trunks."""
    lpips = import_reference("lpips")
    import torch

    torch.manual_seed(0)
    theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    path = tmp_path / "lpips.pth"
    torch.save(theirs.state_dict(), path)
    import_weights(open_published(path), tmp_path / "lpips")
    a, b = (np.float32(picture(2, 65, 90, seed=seed) / 127.5 - 1) for seed in range(2))
    with torch.no_grad():
        tensors = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in (a, b))
        expected = theirs(*tensors).numpy().reshape(-1)
    np.testing.assert_allclose(apply("lpips", tmp_path / "lpips", a, b), expected, rtol=1e-4)
