"""The mesh: where arrays lie, and that a step is the same on any number of devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from colorize_jax import sharding
from colorize_jax.config.options import MeshConfig
from colorize_jax.errors import UserError
from colorize_jax.setup import sharding_report

ROOT = Path(__file__).parents[1]
SIZES = {"data": 2, "fsdp": 8, "tensor": 2}
STACK = "unet/input_blocks_8_1/transformer_blocks"


def run_sharded(*meshes):
    """Run `sharded_step.py`: mesh -> what it reports."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)  # code that is fast to compile sums with more rounding
    command = [sys.executable, str(ROOT / "tests" / "sharded_step.py"), *meshes]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


def check(report):
    assert report["metrics"] < 1e-5
    assert report["gradients"] < 1e-5
    assert report["gram_loss"] > 1e-4  # the misaligned branch, whose reference is the neighbour's
    assert report["stack_gathers"] == 0


def test_step_on_data_fsdp_and_tensor_is_that_of_one_device():
    report = run_sharded("2,2,2")["2,2,2"]
    check(report)
    assert report["split"] > 100
    assert "collective-permute" in report["kinds"]  # the roll


@pytest.mark.slow
def test_step_on_data_or_fsdp_is_that_of_one_device():
    reports = run_sharded("8,1,1", "1,8,1")
    for report in reports.values():
        check(report)
    assert reports["8,1,1"]["split"] == 0
    assert "all-gather" not in reports["8,1,1"]["kinds"]
    # Only kernels are gathered, no activations.
    assert reports["1,8,1"]["other_gathers"] == []


@pytest.mark.slow
def test_second_stage_on_every_mesh_is_that_of_one_device():
    reports = run_sharded("--refine", "8,1,1", "1,8,1", "2,2,2")
    for report in reports.values():
        assert report["metrics"] < 1e-6
        assert report["gradients"] < 1e-4
    assert reports["1,8,1"]["stack_gathers"] == 0 and reports["1,8,1"]["other_gathers"] == []


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        # Output channels and heads on the tensor axis, or input channels; never the axis of blocks.
        (f"{STACK}/attn1/to_q/kernel", (10, 1280, 1280), P(None, "fsdp", "tensor")),
        (f"{STACK}/attn1/to_out_0/kernel", (10, 1280, 1280), P(None, "tensor", "fsdp")),
        (f"{STACK}/ff/net_0/proj/kernel", (10, 1280, 10240), P(None, "fsdp", "tensor")),
        (f"{STACK}/ff/net_2/kernel", (16, 5120, 1280), P(None, "tensor", "fsdp")),
        (
            "unet/input_blocks_1_0/in_layers_2/kernel",
            (3, 3, 32, 320),
            P(None, None, "fsdp", "tensor"),
        ),
        # Others are only stored in parts, along the longer axis.
        ("unet/input_blocks_8_1/proj_in/kernel", (1280, 640), P(("fsdp", "tensor"), None)),
        ("unet/out_2/kernel", (3, 3, 640, 1280), P(None, None, None, ("fsdp", "tensor"))),
        # Kernels that a program rounded for itself are exchanged, and whole but for that axis.
        (f"{STACK}/attn1/to_q/rounded_kernel", (10, 1280, 1280), P(None, "tensor", None)),
        (f"{STACK}/ff/net_0/proj/rounded_kernel", (10, 10240, 1280), P(None, "tensor", None)),
        (f"{STACK}/ff/net_0/proj/rounded_kernel", (10,), P()),
        # Small ones, vectors and whatever does not divide are whole.
        (f"{STACK}/norm1/scale", (10, 1280), P()),
        ("unet/input_blocks_0_0/kernel", (3, 3, 4, 320), P()),
        ("vae/encoder/kernel", (3, 3, 1001, 1003), P(None, None, None, None)),
    ],
)
def test_specs(path, shape, spec):
    assert sharding.parameter_spec(path, shape, SIZES) == spec


def test_a_block_lies_as_its_stack_does():
    for name in ("attn1/to_q", "ff/net_0/proj", "ff/net_2", "attn2/to_k"):
        shape = (1280, 5120)
        whole = sharding.parameter_spec(f"{STACK}/{name}/kernel", (10, *shape), SIZES)
        block = sharding.parameter_spec(f"{name}/kernel", shape, SIZES)
        assert whole == P(None, *block)


def test_moments_lie_as_their_parameters():
    params = {"unet": {"proj_in": {"kernel": jax.ShapeDtypeStruct((512, 512), np.float32)}}}
    mesh = sharding.make_mesh(MeshConfig())
    state = {"params": params, "opt_state": ({"mu": params},)}
    paths = [sharding.join(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert all(path.endswith("unet/proj_in/kernel") for path in paths)
    assert "whole" in sharding_report.report(mesh, state, sharding.state_shardings(mesh, state))


@pytest.mark.parametrize(
    ("config", "count", "shape"),
    [
        (MeshConfig(), 8, (8, 1, 1)),
        (MeshConfig(data=1, fsdp=-1), 8, (1, 8, 1)),
        (MeshConfig(data=2, fsdp=-1, tensor=2), 8, (2, 2, 2)),
    ],
)
def test_mesh_shapes(config, count, shape):
    assert sharding.mesh_shape(config, count) == shape


@pytest.mark.parametrize("config", [MeshConfig(data=3), MeshConfig(data=-1, tensor=3)])
def test_sizes_that_do_not_make_up_the_devices(config):
    with pytest.raises(UserError, match="for 8 devices, expected sizes whose product is 8"):
        sharding.mesh_shape(config, 8)


def test_more_slices_than_there_are():
    with pytest.raises(UserError, match=r"got mesh.num_slices = 2 for 1 slices"):
        sharding.make_mesh(MeshConfig(num_slices=2))


def test_batches_that_do_not_divide():
    mesh = jax.sharding.AbstractMesh((2, 4, 1), sharding.AXES)
    sharding.check_batch(mesh, 16)
    with pytest.raises(
        UserError, match=r"expected a multiple of 8; set data.batch_size to 8 or 16"
    ):
        sharding.check_batch(mesh, 12)
    with pytest.raises(UserError, match=r"16 in 4 micro-batches.*multiple of 32.*to 32,"):
        sharding.check_batch(mesh, 16, accumulation=4)


def test_one_process_holds_every_row():
    mesh = sharding.make_mesh(MeshConfig())
    np.testing.assert_array_equal(sharding.local_rows(mesh, 4), np.arange(4))
    batch = sharding.global_batch(mesh, {"x": np.arange(8).reshape(4, 2)})
    np.testing.assert_array_equal(batch["x"], np.arange(8).reshape(4, 2))


def test_without_a_mesh_nothing_is_constrained():
    x = np.ones((4, 2))
    assert sharding.constrain_batch(x) is x
    assert sharding.gather(x, ("to_q",)) is x
