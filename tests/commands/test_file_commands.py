"""`import`, `export` and `inspect` as a user calls them."""

import json

import numpy as np
import pytest
import safetensors.numpy
import small_models
from small_models import COLORIZER, save, system, tensors

from colorize_jax.commands import cli
from colorize_jax.commands.files import parse_size
from colorize_jax.errors import UserError
from data.errors import ERROR_STATUS


def _run(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_there_and_back(tmp_path, capsys):
    arrays = system()
    file = save(tmp_path / "model.safetensors", arrays)
    config = small_models.save_configs(tmp_path / "config.json")
    folder, again = tmp_path / "weights", tmp_path / "again.safetensors"
    options = ("--config", config, "--prediction-type", "v")
    status, out, _ = _run(capsys, "import", "--input", file, "--output", folder, *options)
    assert status == 0
    assert "colorizer (safetensors)" in out and "--prediction-type" not in out
    status, out, _ = _run(capsys, "export", "--checkpoint", folder, "--output", again)
    assert status == 0
    assert f"wrote {len(arrays)} tensors of {', '.join(COLORIZER)}" in out
    assert small_models.same_bits(safetensors.numpy.load_file(again), arrays)

    # The exported file says itself what it is; the folder says the same.
    for path in (again, folder):
        status, out, _ = _run(capsys, "inspect", path, "--scan")
        assert status == 0
        assert "prediction type: v" in out
        assert "scaling factor: 0.13025" in out
        assert "float16" in out
        assert "model_channels 32" in out
        assert "networks not in it: none" in out
        assert "tensors: complete" in out
        assert "NaN or infinity: none" in out
        parameters = sum(a.size for n, a in arrays.items() if n.startswith("model."))
        assert f"{parameters:,} parameters" in out

    shards = tmp_path / "shards"
    status, out, _ = _run(
        capsys, "export", "--checkpoint", folder, "--output", shards,
        "--dtype", "bfloat16", "--max-shard-size", "500KB",
    )  # fmt: skip
    assert status == 0 and (shards / "model.safetensors.index.json").is_file()
    status, out, _ = _run(
        capsys, "export", "--checkpoint", folder, "--output", tmp_path / "d",
        "--format", "diffusers",
    )  # fmt: skip
    assert status == 0 and "without sketch_encoder, reference_projection" in out


def test_networks_that_pictures_are_measured_with(tmp_path, capsys):
    """LPIPS of a trunk's file and the heads', Inception of its one; and back into one file."""
    lpips, inception = (tensors(name, prefix="") for name in ("lpips", "inception"))
    heads = {name: lpips.pop(name) for name in list(lpips) if name.startswith("lin")}
    files = [save(tmp_path / f"{i}.safetensors", part) for i, part in enumerate((lpips, heads))]
    file = save(tmp_path / "inception.safetensors", inception)
    for kind, inputs, arrays in (("lpips", files, lpips | heads), ("inception", [file], inception)):
        folder, again = tmp_path / kind, tmp_path / f"{kind}.again"
        arguments = ("--as", kind, "--input", *inputs, "--output", folder)
        status, out, _ = _run(capsys, "import", *arguments)
        assert status == 0
        assert f"{kind} (safetensors)" in out
        status, _, _ = _run(capsys, "export", "--checkpoint", folder, "--output", again)
        assert status == 0
        assert small_models.same_bits(safetensors.numpy.load_file(again), arrays)
        status, out, _ = _run(capsys, "inspect", again)
        assert status == 0 and f"{kind} (safetensors)" in out
    for arguments, message in (
        (("--as", "lpips", "--input", file), "which is inception, expected lpips"),
        (("--as", "lpip", "--input", file), "(nearest: lpips)"),
        (("--input", files[0]), "a trunk of LPIPS without its heads"),
        (("--input", files[0], files[0]), "that an earlier file holds"),
        (("--input", files[1]), "missing: features.0."),
    ):
        status, _, error = _run(capsys, "import", *arguments, "--output", tmp_path / "none")
        assert status == 2 and message in error
        assert not (tmp_path / "none").exists()


def test_inspect_says_what_is_wrong(tmp_path, capsys):
    arrays = tensors("vae")
    first, second, third = list(arrays)[:3]
    del arrays[first]
    arrays[second] = np.ones(7, np.float16)
    arrays[third][...] = np.nan
    arrays["first_stage_model.new.weight"] = np.ones(3, np.float16)
    arrays["alphas_cumprod"] = np.ones(3, np.float32)
    file = save(tmp_path / "model.safetensors", arrays)
    status, out, _ = _run(capsys, "inspect", file, "--scan")
    assert status == 1
    assert "networks not in it: unet, sketch_encoder, reference_projection" in out
    assert "skipped: 1 tensors" in out
    assert f"1 missing: {first}" in out
    assert "1 unexpected: first_stage_model.new.weight" in out
    assert f"1 misshapen: {second} is (7,)" in out
    assert f"NaN or infinity: {third}" in out


def test_a_model_that_does_not_say_what_it_predicts(tmp_path, capsys):
    file = save(tmp_path / "model.safetensors", tensors("unet"))
    config = small_models.save_configs(tmp_path / "config.json", ("unet",))
    arguments = ("--input", file, "--output", tmp_path / "weights", "--config", config)
    status, out, _ = _run(capsys, "import", *arguments)
    assert status == 0 and "does not say what the UNet predicts" in out
    status, _, error = _run(capsys, "import", *arguments)
    assert status == ERROR_STATUS and "exists" in error and error.count("\n") == 1


def test_bad_input_is_one_line_and_status_2(tmp_path, capsys):
    picture = tmp_path / "picture.safetensors"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    for arguments in (
        ("inspect", picture),
        ("import", "--input", picture, "--output", tmp_path / "out"),
        ("export", "--checkpoint", tmp_path, "--output", tmp_path / "out"),
    ):
        status, _, error = _run(capsys, *arguments)
        assert status == ERROR_STATUS
        assert error.startswith("error: got ") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [picture.name]


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("500 mb", 5 * 10**8), ("1.5GiB", 3 * 2**29), ("7", 7)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "5 parsecs", "1e9"])
def test_wrong_sizes(text):
    with pytest.raises(UserError, match="such as 5GB"):
        parse_size(text)


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"unet": 3})])
def test_wrong_config_files(tmp_path, capsys, content):
    file = save(tmp_path / "model.safetensors", tensors("vae"))
    config = tmp_path / "config.json"
    config.write_text(content)
    status, _, error = _run(capsys, "inspect", file, "--config", config)
    assert status == ERROR_STATUS and "got config" in error
