"""Pictures encoded once: by the real command, and the real train.py from what it wrote."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import train
from colorize_jax.analysis.flops import count_flops
from colorize_jax.analysis.shapes import arguments
from colorize_jax.analysis.step_flops import step_flops
from colorize_jax.commands import cli
from colorize_jax.config.load import load_config
from colorize_jax.config.options import MeshConfig
from colorize_jax.errors import UserError
from colorize_jax.io.formats.weights_folder import save_weights
from colorize_jax.setup import datasets, encode, encodings
from colorize_jax.setup.networks import build_train_system, weights_metadata
from colorize_jax.sharding import make_mesh
from colorize_jax.training.augment import to_batch
from colorize_jax.training.encoding import encodings as encodings_of
from colorize_jax.training.monitoring.run_writer import read_metrics
from colorize_jax.training.step import train_step
from data.encoded.source import EncodedSource
from data.errors import INTERRUPTED_STATUS, PictureError
from data.illustrations import render
from data.loader import Place, make_record

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "tests" / "configs" / "smallest.py")
OFF = ("--config.diffusion.inpaint_rate=0",)
RUN = (*OFF, "--config.total_steps=3", "--config.gram.maximum=0")
RUN += ("--config.logging.validation_every=3", "--config.logging.validation_batches=1")


def run(output, *flags, config=CONFIG):
    return cli.main(["encode", f"--config={config}", f"--output={output}", *flags])


def contents(root):
    files = (path for path in root.iterdir() if not path.name.startswith("."))
    return {path.name: path.read_bytes() for path in files}


def encoded(root, *flags):
    return load_config(
        CONFIG, ["--config.data.source=encoded", f"--config.data.path={root}", *OFF, *flags]
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The smallest config's twelve drawings and four held-out ones, in five shards."""
    root = tmp_path_factory.mktemp("encodings") / "set"
    flags = ("--precision=float32", "--shard_size=4", "--batch_size=3")
    assert run(root, *flags, *RUN) == 0
    return root, flags


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Fourteen pictures of two aspects, of which one is damaged, by each other's colours."""
    root = tmp_path_factory.mktemp("pictures")
    for kind in ("color", "sketch"):
        (root / kind).mkdir()
    for i in range(14):
        drawn = render(i, i, *((48, 40), (40, 128))[i % 2])
        Image.fromarray(drawn.image).save(root / f"color/{i}.png")
        Image.fromarray(drawn.sketch[..., 0]).save(root / f"sketch/{i}.png")
    names = [f"{i}.png" for i in range(14)]
    (root / "index.json").write_text(
        json.dumps([{"image_path": name, "reference_list": names} for name in names])
    )
    path = root / "color" / "3.png"
    path.write_bytes(path.read_bytes()[:400])
    return root


def folder(root, *flags):
    own = ("source=folder", f"path={root}", "num_examples=100000", "reference_size=32")
    own += (
        "height=64",
        "width=64",
        "buckets=True",
        "num_buckets=3",
        "same_identity_rate=0.5",
        "batch_size=2",
    )
    return [*OFF, *(f"--config.data.{flag}" for flag in own), *flags]


# ------------------------------------------------------------------------------------ training


@pytest.mark.slow
def test_losses_from_encodings_are_those_from_pictures(whole, tmp_path):
    root, _ = whole
    own = ("--config.data.source=encoded", f"--config.data.path={root}")
    for name, flags in (("pictures", ("--config.logging.samples_every=0",)), ("encodings", own)):
        arguments = [f"--config={CONFIG}", f"--workdir={tmp_path / name}", *RUN, *flags]
        assert train.main(arguments) == 0
    lines = [read_metrics(tmp_path / name) for name in ("pictures", "encodings")]
    for name in ("loss", "gradient_norm", "parameter_norm"):
        ours, theirs = ([line[name] for line in one] for one in lines)
        np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    ours, theirs = (one[-1]["validation_loss"] for one in lines)
    assert ours == pytest.approx(theirs, rel=1e-5)
    told = (tmp_path / "encodings" / "data.txt").read_text()
    assert "encodings of 12 pictures" in told and "no samples are drawn" in told
    assert not (tmp_path / "encodings" / "samples").exists()


def test_the_step_has_no_encoders(whole):
    config = encoded(whole[0], "--config.encoders.weights=nowhere")
    system = build_train_system(config)
    state, record, key = arguments(system, make_mesh(MeshConfig(), jax.devices()[:1]))
    assert not state.frozen and "image" not in record and "reference" not in record
    after, _ = jax.eval_shape(
        lambda *args: train_step(system, *args, dual=False), state, record, key
    )
    assert jax.tree.structure(after) == jax.tree.structure(state)
    loaded = EncodedSource(whole[0], token_dtype=config.encoders.dtype)[0]
    assert {name: (x.shape[1:], x.dtype) for name, x in record.items()} == {
        name: (np.shape(loaded[name]), loaded[name].dtype) for name in record
    }


@pytest.mark.slow
def test_the_step_is_cheaper_by_its_encoders(whole):
    mesh, flops, counted = make_mesh(MeshConfig(), jax.devices()[:1]), [], []
    for config in (load_config(CONFIG, OFF), encoded(whole[0])):
        system = build_train_system(config)
        state, record, _ = arguments(system, mesh)
        flops.append(step_flops(system, state, record, dual=True))

        def encode(record, system=system):
            return encodings_of(system.encoders, {}, to_batch(record))

        counted.append(count_flops(encode, record))
    assert flops[0] - flops[1] == counted[0] - counted[1] > 0


def test_crops_are_the_records_that_training_makes(pictures, tmp_path):
    flags = folder(pictures)
    assert run(tmp_path / "set", "--crops=2", "--precision=float32", *flags) == 0
    config = load_config(CONFIG, flags)
    source = EncodedSource(tmp_path / "set", token_dtype="float32")
    names = [source.name(i) for i in range(len(source))]
    assert len(names) >= 12 and source.manifest["splits"]["train"]["pictures"] == 14
    assert "color/3.png" not in names
    pixels = datasets.make_source(config)
    rows = {pixels.name(i): i for i in range(len(pixels))}
    steps = datasets.picture_transforms(config.data)
    encoders = build_train_system(config).encoders
    compute = jax.jit(lambda record: encodings_of(encoders, {}, to_batch(record)))
    assert {tuple(shape) for shape in source.shapes} == {(64, 64), (32, 96)}
    for index in (0, 5, 11):
        height, width = source.shapes[index]
        for epoch in range(2):
            stored = source.of_epoch(index, epoch)
            row = rows[source.name(index)]
            try:
                record = _record(pixels, steps, config.data.seed, row, epoch, (height, width))
            except PictureError:
                continue  # by the damaged one's colours
            found = compute({n: record[n][None] for n in ("image", "sketch", "reference", "size",
                                                           "aesthetic_score")})  # fmt: skip
            np.testing.assert_array_equal(stored["sketch"], record["sketch"])
            for name, values in found.items():
                np.testing.assert_allclose(stored[name], values[0], atol=1e-5)
    own = encoded(tmp_path / "set", *[f for f in flags if "source" not in f and "path" not in f])
    sampler = datasets.make_bucket_sampler(own.data, datasets.make_source(own))
    batch = next(datasets.make_batches(own, datasets.make_source(own), sampler=sampler))
    height, width = batch["sketch"].shape[1:3]
    assert batch["moments"].shape[1:3] == (height // 4, width // 4)


def _record(source, steps, seed, index, epoch, bucket):
    return make_record(source, steps, seed, Place(epoch, index, tuple(map(int, bucket))))


# ------------------------------------------------------------------------------- interruptions


def test_what_was_interrupted_goes_on_to_the_same_bytes(whole, tmp_path, monkeypatch):
    root, flags = whole
    calls, store = [], encode.pack

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return store(*args)

    monkeypatch.setattr(encode, "pack", interrupted)
    assert run(tmp_path / "set", *flags, *RUN) == INTERRUPTED_STATUS
    there = contents(tmp_path / "set")
    assert sum(name.endswith(".array_record") for name in there) == 1
    monkeypatch.undo()
    assert run(tmp_path / "set", *flags, *RUN) == 0
    assert contents(tmp_path / "set") == contents(root)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}
    assert run(tmp_path / "set", *flags, *RUN) == 0  # nothing is left to do
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes(whole, tmp_path):
    root, flags = whole
    command = [sys.executable, "-m", "colorize_jax", "encode", f"--config={CONFIG}"]
    command += [f"--output={tmp_path / 'set'}", *flags, *RUN]
    environment = os.environ | {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    rng = np.random.default_rng(0)
    for _ in range(5):
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        while process.poll() is None and not (tmp_path / "set" / "manifest.json").exists():
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0
    assert contents(tmp_path / "set") == contents(root)


def test_processes_take_shares_that_make_up_the_whole(whole, tmp_path, monkeypatch):
    root, flags = whole
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for index in (1, 0):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        assert run(tmp_path / "set", *flags, *RUN) == 0
    assert contents(tmp_path / "set") == contents(root)


@pytest.mark.slow
def test_two_processes_make_the_whole(whole, tmp_path):
    root, flags = whole
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{connection.getsockname()[1]}"
    command = [sys.executable, "-m", "colorize_jax", "encode", f"--config={CONFIG}", *flags, *RUN]
    command += [f"--output={tmp_path / 'set'}", f"--coordinator={address}", "--num_processes=2"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    environment["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    processes = [
        subprocess.Popen([*command, f"--process_id={i}"], cwd=ROOT, env=environment)
        for i in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert contents(tmp_path / "set") == contents(root)


# -------------------------------------------------------------------------------------- sizes


def test_the_size_is_said_before_anything_is_encoded(whole, tmp_path, capsys, monkeypatch):
    flags = ("--precision=int8", "--crops=3", *OFF)
    assert run(tmp_path / "set", *flags, "--estimate") == 0
    told = capsys.readouterr().out
    assert "36 records in 3 shards, int8: about" in told and "clip_tokens" in told
    assert not (tmp_path / "set").exists()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(encode.shutil, "disk_usage", lambda path: usage(10, 9, 1000))
    assert run(tmp_path / "set", *flags) == 2
    assert "of free disk for about" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


# ------------------------------------------------------------------------------------- refusals


def test_another_run_is_refused_with_both_values(whole):
    root, _ = whole
    for flag, message in (
        ("encoders.dtype=bfloat16", "encoders.dtype = 'float32', and 'bfloat16' in"),
        ("encoders.reference_patch_size=16", "encoders.reference_patch_size = 8, and 16 in"),
        ("data.height=64", "data.height = 32, and 64 in the config"),
        ("data.seed=3", "data.seed = 0, and 3 in the config"),
        ("diffusion.inpaint_rate=0.1", r"diffusion.inpaint_rate = 0.0, and 0.1 in the config"),
    ):
        with pytest.raises(UserError, match=message):
            datasets.make_source(encoded(root, f"--config.{flag}"))
    with pytest.raises(UserError, match=r"got refine\.enabled with data.source = 'encoded'"):
        encoded(root, "--config.refine.enabled=True", "--config.model.loras=[('background', 4)]")


def test_other_weights_are_refused_with_both_names(whole, tmp_path):
    config = load_config(CONFIG, [])
    for name, value in (("a", 0.0), ("b", 1.0)):
        params = {"vae": {"conv": {"bias": np.full(4, value, np.float32)}}}
        metadata = weights_metadata(config)
        metadata.configs.clear()
        metadata.configs["vae"] = {}
        save_weights(tmp_path / name, params, metadata)
    named = [f"--config.encoders.weights=('{tmp_path / name}',)" for name in ("a", "b")]
    ours, theirs = (encodings.fingerprints(load_config(CONFIG, [flag])) for flag in named)
    assert ours["vae"]["fingerprint"] != theirs["vae"]["fingerprint"]
    set_of_a = tmp_path / "set"
    set_of_a.mkdir()
    for path in whole[0].iterdir():
        (set_of_a / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((set_of_a / "manifest.json").read_text())
    (set_of_a / "manifest.json").write_text(json.dumps(manifest | {"weights": ours}))
    assert len(datasets.make_source(encoded(set_of_a, named[0]))) == 12
    with pytest.raises(UserError) as caught:
        datasets.make_source(encoded(set_of_a, named[1]))
    assert all(f"{tmp_path / name}" in str(caught.value) for name in ("a", "b"))


def test_a_folder_of_something_else_is_left_alone(whole, tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("dear")
    assert run(tmp_path, *OFF) == 2
    assert "a folder with something else in it" in capsys.readouterr().err
    root, flags = whole
    assert run(root, "--precision=int8", *flags[1:], *RUN) == 2
    assert "begun with precision = float32, and int8 now" in capsys.readouterr().err
    assert run(root, *flags, *RUN, "--config.data.source=encoded") == 2
    assert "expected pictures to encode" in capsys.readouterr().err
    assert run(root, "--crops=0") == 2
    assert "got crops 0" in capsys.readouterr().err


def test_masked_losses_need_the_masks(tmp_path):
    assert run(tmp_path / "set", "--without_masks", *OFF) == 0
    assert "sketch_mask" not in EncodedSource(tmp_path / "set")[0]
    assert len(datasets.make_source(encoded(tmp_path / "set"))) == 12
    with pytest.raises(UserError, match="without masks for"):
        datasets.make_source(encoded(tmp_path / "set", "--config.diffusion.masked_loss=True"))


def test_too_many_damaged_pictures_stop_it(pictures, tmp_path, capsys):
    flags = folder(pictures, "--config.data.max_skipped_share=0")
    assert run(tmp_path / "set", *flags) == 2
    assert "pictures that cannot be encoded (got " in capsys.readouterr().err


def test_several_sets_are_one_mixture_and_batches_resume(whole):
    root, _ = whole
    config = encoded(root, f"--config.data.sources=(('{root}', 1.0), ('{root}', 0.5))")
    source = datasets.make_source(config)
    assert len(source) == 18 and source.describe()[0].startswith("18 pictures an epoch from 2")
    batches = datasets.make_batches(config, source)
    seen = [next(batches) for _ in range(6)]
    assert datasets.step_record(seen[0]).keys() == {
        *("moments", "clip_tokens", "tagger_tokens", "sketch", "sketch_mask"),
        *("size", "aesthetic_score"),
    }
    again = datasets.make_batches(config, source)
    again.set_state({"next_batch": 4})
    for expected in seen[4:]:
        found = next(again)
        for name in datasets.step_record(expected):
            np.testing.assert_array_equal(found[name], expected[name])
