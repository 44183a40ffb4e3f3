"""Steps compiled for machines that are not there, and steps in files."""

import hashlib
import importlib.util
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train
from colorize_jax import sharding
from colorize_jax.analysis import shapes
from colorize_jax.analysis.hardware.cards import CARDS, target_config
from colorize_jax.analysis.hardware.chips import CHIPS, min_links
from colorize_jax.analysis.hardware.topology import describe
from colorize_jax.analysis.stored_step import for_arguments, load_step, recorded_hashes, save_step
from colorize_jax.config.load import load_config
from colorize_jax.config.options import MeshConfig
from colorize_jax.errors import UserError
from colorize_jax.setup.networks import build_train_system
from colorize_jax.training.monitoring.run_writer import read_metrics
from colorize_jax.training.monitoring.throughput import peak_flops
from colorize_jax.training.step import jit_step

CONFIG = "tests/configs/smallest.py"
COMPILER = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the package libtpu"
)
GPU_COMPILER = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs jax[cuda13]: 4 GB"
)


def compile_only(folder, *arguments):
    return train.main([f"--config={CONFIG}", "--compile_only", f"--workdir={folder}", *arguments])


# ----------------------------------------------------------------------------------- slices


@pytest.mark.parametrize(
    "topology",
    ["v5e:3", "v9:2x2", "v5e", "v5e:2xx2", "h100", "h100:9", "h100:0", "h100:2x4", "gtx:1"],
)
def test_unknown_topologies_are_answered_with_a_list(tmp_path, capsys, topology):
    assert compile_only(tmp_path, f"--topology={topology}") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: got topology '{topology}', expected a chip and the shape")
    assert "v5e: 1x1, 2x2, 2x4, 4x4" in error and "v5p: 2x2x1" in error and "v6e: 1x1" in error
    assert "a100:N, h100:N, h200:N, b200:N, N from 1 to 8" in error
    assert error.count("\n") == 1


def test_without_the_compiler_its_package_is_named(monkeypatch):
    def missing(**_):
        raise RuntimeError("JAX TPU support not installed; cannot generate TPU topology.")

    monkeypatch.setattr(
        "colorize_jax.analysis.hardware.chips.topologies.get_topology_desc", missing
    )
    with pytest.raises(UserError, match=r'expected the package libtpu; install "jax\[tpu\]"'):
        describe("v5e:8x8")


def test_without_the_cuda_plugin_its_extra_is_named(monkeypatch):
    def missing(**_):
        raise RuntimeError("Unknown backend cuda")

    monkeypatch.setattr(
        "colorize_jax.analysis.hardware.cards.topologies.get_topology_desc", missing
    )
    with pytest.raises(UserError, match=r'CUDA plugin; install "jax\[cuda13\]" \(the extra gpu\)'):
        describe("h100:8")


@pytest.mark.parametrize("name", CARDS)
def test_cards_are_described_to_the_compiler(name):
    text, card = target_config(CARDS[name]), CARDS[name]
    assert f"core_count: {card.cores}\n" in text and f'"{card.description}"' in text
    assert f"memory_bandwidth: {card.memory_bandwidth:.0f}\n" in text
    assert card.memory == 0.9 * card.total_memory
    # Peaks are those that runs are measured against.
    assert peak_flops(card.description) == card.peak_flops


@GPU_COMPILER
def test_nodes():
    node = describe("h200:8", num_slices=2)
    assert (len(node.devices), node.shape, node.count) == (16, (8,), 2)
    # The data axis runs over the nodes.
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=8, num_slices=2), node.devices)
    for row, devices in enumerate(mesh.devices):
        assert {device.process_index for device in devices.flat} == {row}
    assert node.devices[0].device_kind == "NVIDIA H200"


@COMPILER
def test_a_shape_that_the_compiler_does_not_know_is_answered_with_a_list():
    with pytest.raises(UserError, match=r"got topology 'v5e:7x9'.*choose one of them"):
        describe("v5e:7x9")


@COMPILER
def test_slices():
    slices = describe("v5p:2x2x2")
    assert (len(slices.devices), slices.shape) == (8, (2, 2, 2))
    assert slices.inner_bandwidth == 3 * CHIPS["v5p"].link_bandwidth
    assert len(describe("v5e:2x2", num_slices=2).devices) == 8


def test_no_topology(tmp_path, capsys):
    assert compile_only(tmp_path) == 2
    assert "got no --topology to compile for" in capsys.readouterr().err


@COMPILER
def test_batch_and_mesh_have_to_go_with_the_slice(tmp_path, capsys):
    assert compile_only(tmp_path, "--topology=v5e:2x4") == 2
    assert "data.batch_size = 4 for 8 parts" in capsys.readouterr().err
    assert compile_only(tmp_path, "--topology=v5e:2x2", "--config.mesh.data=3") == 2
    assert "expected sizes whose product is 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chip", "shape", "expected"),
    [("v5e", (8, 8), 2), ("v5e", (16, 16), 4), ("v5p", (4, 4, 4), 6), ("v5p", (2, 2, 1), 2)],
)
def test_links(chip, shape, expected):
    assert min_links(CHIPS[chip], shape) == expected


# ------------------------------------------------------------------------------------ reports


@pytest.fixture
def settings():
    """What compiling ahead sets for the process it has for itself."""
    before = jax.config.jax_platforms
    yield
    jax.config.update("jax_platforms", before)


@COMPILER
@pytest.mark.slow
def test_the_report_of_a_step_that_fits(tmp_path, capsys, settings):
    arguments = ("--topology=v5e:2x2", "--config.mesh.data=1", "--config.mesh.fsdp=-1")
    step = tmp_path / "step.bin"
    assert compile_only(tmp_path, *arguments, f"--save_step={step}") == 0
    printed = capsys.readouterr().out
    assert "fits: " in printed and "MFU up to" in printed
    report = json.loads((tmp_path / "aot-v5e-2x2.json").read_text())
    memory = report["memory"]
    assert report["fits"] and report["chips"] == 4 and report["images_per_chip"] == 1
    assert memory["total"] == sum(
        memory[name] for name in ("arguments", "temporaries", "results", "program")
    )
    state = sum(memory[name] for name in ("parameters", "optimizer", "ema", "frozen"))
    assert state <= memory["arguments"]
    assert report["stack_gathers"] == []
    assert report["flops"]["executed"] >= report["flops"]["model"] > 0
    assert step.stat().st_size > 10_000
    # It is not for the devices that are here.
    with pytest.raises(UserError, match="a step that cannot be loaded here"):
        load_step(step, load_config(CONFIG, list(arguments[1:])), recorded_hashes(tmp_path))


@COMPILER
@pytest.mark.slow
def test_a_step_that_does_not_fit_is_status_1_with_remedies(
    tmp_path, capsys, settings, monkeypatch
):
    small = CHIPS["v5e"].__class__(**{**vars(CHIPS["v5e"]), "memory": 2**20})
    monkeypatch.setitem(CHIPS, "v5e", small)
    assert compile_only(tmp_path, "--topology=v5e:2x2") == 1
    printed = capsys.readouterr().out
    assert "does not fit:" in printed and "what helps:" in printed
    assert "--config.model.remat=block" in printed
    assert "--config.mesh.data=1 --config.mesh.fsdp=-1" in printed
    report = json.loads((tmp_path / "aot-v5e-2x2.json").read_text())
    assert not report["fits"] and report["largest"][0]["bytes"] > 0


# ------------------------------------------------------------------------------- steps in files


def compiled_sum(batch=3):
    def step(state, record, key):
        return state + record["x"].sum(), {"loss": state}

    arguments = (jnp.zeros(()), {"x": jnp.ones(batch)}, jax.random.key(0))
    return jax.jit(step).lower(*arguments).compile(), arguments


def test_a_stored_step_runs_where_its_arguments_are_given(tmp_path):
    config = load_config(CONFIG, [])
    compiled, (state, record, key) = compiled_sum()
    known = {save_step(compiled, config, tmp_path / "step.bin")}
    program = load_step(tmp_path / "step.bin", config, known)
    assert for_arguments(program, (state, record, key)) is program
    assert program(state, record, key)[0] == 3
    assert for_arguments(program, (state, {"x": jnp.ones(4)}, key)) is None


def test_a_stored_step_of_another_config_is_refused(tmp_path):
    compiled, _ = compiled_sum()
    path = tmp_path / "step.bin"
    known = {save_step(compiled, load_config(CONFIG, []), path)}
    load_step(path, load_config(CONFIG, ["--config.logging.every_steps=7"]), known)
    with pytest.raises(UserError, match=r"optimizer.learning_rate is 0.001 there and 0.1 here"):
        load_step(path, load_config(CONFIG, ["--config.optimizer.learning_rate=0.1"]), known)


@pytest.mark.parametrize("content", [None, b"", b"not a pickle", b"\x80\x04N."])
def test_files_that_hold_no_step(tmp_path, content):
    path = tmp_path / "step.bin"
    if content is not None:
        path.write_bytes(content)
    known = {hashlib.sha256(content or b"").hexdigest()}
    message = "cannot be read" if content is None else "a step that cannot be loaded here"
    with pytest.raises(UserError, match=message):
        load_step(path, load_config(CONFIG, []), known)


def test_a_step_that_nobody_knows_is_not_looked_at(tmp_path, capsys):
    path, trace = tmp_path / "step.bin", tmp_path / "executed"
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(trace).encode() + b"'\ntR.")
    flags = [f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", f"--load_step={path}"]
    for rest in ([], ["--step_hash=" + 64 * "0"]):
        assert train.main([*flags, *rest]) == 2
        error = capsys.readouterr().err
        assert "nothing in it was run: pass --step_hash" in error and not trace.exists()
    (tmp_path / "run").mkdir(exist_ok=True)
    digest = hashlib.sha256(b"other").hexdigest()
    (tmp_path / "run" / "aot-v5e-2x2.json").write_text(f'{{"step_sha256": "{digest}"}}')
    assert recorded_hashes(tmp_path / "run") == {digest}


@pytest.mark.slow
def test_a_run_on_a_stored_step_is_the_same_run(tmp_path):
    config = load_config(CONFIG, [])
    system, mesh = build_train_system(config), sharding.make_mesh(config.mesh)
    state, record, key = shapes.arguments(system, mesh)
    with jax.set_mesh(mesh):
        shardings = sharding.state_shardings(mesh, state)
        lowered = jit_step(system, mesh, shardings, dual=True).lower(state, record, key)
    digest = save_step(lowered.compile(), config, tmp_path / "step.bin")
    losses = []
    for name, flags in (
        ("one", []),
        ("two", [f"--load_step={tmp_path / 'step.bin'}", f"--step_hash={digest}"]),
    ):
        workdir = tmp_path / name
        assert train.main([f"--config={CONFIG}", f"--workdir={workdir}", *flags]) == 0
        losses.append([line["loss"] for line in read_metrics(workdir)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    logging.getLogger("train").setLevel(logging.NOTSET)
