"""Folders of weights: whole or not at all, bit for bit."""

import json
import logging
import shutil
import sys

import jax
import ml_dtypes
import numpy as np
import pytest

from colorize_jax.errors import UserError
from colorize_jax.io.formats import atomic
from colorize_jax.io.formats import weights_folder as weights

METADATA = weights.WeightsMetadata(
    "colorizer",
    {"unet": {"model_channels": 32}, "vae": {}},
    {"unet": "model.diffusion_model.", "vae": "first_stage_model."},
    prediction_type="v",
    scaling_factor=0.13025,
    left_out=["sketch_encoder"],
)


def _params():
    random = np.random.default_rng(0)
    return {
        "unet": {
            "a": {"kernel": random.standard_normal((2, 3, 4)).astype(np.float16)},
            "b": {"bias": random.standard_normal(4).astype(ml_dtypes.bfloat16)},
        },
        "vae": {
            "c": {"kernel": random.standard_normal((3, 3))},
            "d": {"scale": np.float32([[1]])},
        },
    }


def test_round_trip_keeps_dtypes_bits_and_metadata(tmp_path):
    params = _params()
    weights.save_weights(tmp_path / "out", params, METADATA)
    reader = weights.WeightsReader(tmp_path / "out")
    assert reader.metadata == METADATA
    restored = weights.load_weights(tmp_path / "out")
    assert jax.tree.structure(restored) == jax.tree.structure(params)
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(params), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_one_module_or_one_network(tmp_path):
    params = _params()
    weights.save_weights(tmp_path / "out", params.items(), METADATA)
    part = weights.WeightsReader(tmp_path / "out").read("unet", "b")
    assert list(part) == ["b"]
    assert part["b"]["bias"].tobytes() == params["unet"]["b"]["bias"].tobytes()
    assert list(weights.load_weights(tmp_path / "out", ["vae"])) == ["vae"]
    with pytest.raises(UserError, match="without sketch_encoder"):
        weights.load_weights(tmp_path / "out", ["sketch_encoder"])


def test_existing_output_is_kept_unless_told_otherwise(tmp_path):
    weights.save_weights(tmp_path / "out", _params(), METADATA)
    with pytest.raises(UserError, match="exists"):
        weights.save_weights(tmp_path / "out", {}, METADATA)
    weights.save_weights(tmp_path / "out", _params(), METADATA, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_save_leaves_nothing(tmp_path):
    def pairs():
        yield "unet", _params()["unet"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights.save_weights(tmp_path / "out", pairs(), METADATA)
    assert list(tmp_path.iterdir()) == []


def test_no_disk_space_is_seen_before_and_while_writing(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="full disk"):
        weights.save_weights(tmp_path / "out", _params(), METADATA, nbytes=2**60)

    def full(*_args, **_kwargs):
        raise ValueError("OUT_OF_RANGE: Error writing file: No space left on device")

    monkeypatch.setattr(weights.ocp.Checkpointer, "save", full)
    with pytest.raises(UserError, match="full disk"):
        weights.save_weights(tmp_path / "out", _params(), METADATA)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("quoted", "reason"),
    [
        ("Failed to open: Read-only file system [os_error_code='30'] [source 'a.cc']", "Read-only"),
        ("Error writing local file: Permission denied", "Permission denied"),
        ("OUT_OF_RANGE: [os_error_code='36']", "File name too long"),
    ],
)
@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
def test_what_tensorstore_could_not_write_is_one_line(tmp_path, monkeypatch, quoted, reason, kind):
    def refuse(*_args, **_kwargs):
        raise kind(quoted)

    monkeypatch.setattr(weights.ocp.Checkpointer, "save", refuse)
    with pytest.raises(UserError, match=rf"out that cannot be written \({reason}"):
        weights.save_weights(tmp_path / "out", _params(), METADATA)
    assert list(tmp_path.iterdir()) == []


def test_orbaxs_threads_print_nothing_of_what_is_told(tmp_path, monkeypatch, capsys, caplog):
    """A file in the place of a network's folder: its threads fail, and log that they do."""
    real = weights.ocp.Checkpointer.save

    def in_the_way(self, path, *rest):
        logging.getLogger("absl").error("[process=0] _SignalingThread.run() raised an exception")
        path.parent.rmdir()
        path.parent.write_text("")
        return real(self, path, *rest)

    monkeypatch.setattr(weights.ocp.Checkpointer, "save", in_the_way)
    before = sys.unraisablehook
    with pytest.raises(UserError, match="cannot be written"):
        weights.save_weights(tmp_path / "out", _params(), METADATA)
    assert "Traceback" not in capsys.readouterr().err and "_Signaling" not in caplog.text
    assert sys.unraisablehook is before and not logging.getLogger("absl").filters


def test_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot be written"),
        atomic.atomic_output(tmp_path / "file" / "out", nbytes=1),
    ):
        pass


# Orbax leaves a task of its own behind where a restore fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["component", "metadata", "fields", "data"])
def test_damaged_folders_are_user_errors(tmp_path, damage):
    out = tmp_path / "out"
    weights.save_weights(out, _params(), METADATA)
    page = out / "metadata.json"
    if damage == "component":
        shutil.rmtree(out / "vae")
    elif damage == "metadata":
        page.write_text("{")
    elif damage == "fields":
        page.write_text(json.dumps(json.loads(page.read_text()) | {"unknown": 1}))
    else:
        for file in out.glob("unet/**/d/*"):
            file.write_bytes(b"")
    with pytest.raises(UserError):
        weights.load_weights(out)
