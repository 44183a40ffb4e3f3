"""What a GPU user runs, compiled for cards that are not there; needs the extra gpu, 4 GB."""

import importlib.util
import json

import pytest

import train
from colorize_jax.analysis import aot
from colorize_jax.analysis.hardware.topology import describe
from colorize_jax.benchmark import memory, sample
from colorize_jax.benchmark.step import compile_steps
from colorize_jax.config.load import load_config
from data.buckets import BUCKETS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs jax[cuda13]: 4 GB"
    ),
]
FSDP = ["--config.mesh.data=1", "--config.mesh.fsdp=-1"]


def kinds(kernels):
    return {(kernel["kind"], kernel["dtype"]) for kernel in kernels}


@pytest.mark.parametrize(("config", "cards"), [("tiny", 1), ("tiny", 8), ("small", 1)])
def test_both_steps(config, cards):
    report = compile_steps(load_config(f"configs/{config}.py"), f"h100:{cards}")
    assert set(report["programs"]) == {"single", "dual"}
    for program in report["programs"].values():
        assert program["fits"] and program["chips"] == cards
        dtype = "f32" if config == "tiny" else "bf16"
        found = kinds(program["kernels"])
        assert ("cuDNN convolution", dtype) in found and ("cuBLASLt product", dtype) in found
        # Half precision alone has cuDNN's attention.
        assert (("cuDNN attention", "bf16") in found) == (config == "small")


def test_small_in_parts_on_a_node(tmp_path, capsys):
    arguments = ["--config=configs/small.py", "--compile_only", "--topology=h100:8"]
    assert train.main([*arguments, f"--workdir={tmp_path}", *FSDP]) == 0
    printed = capsys.readouterr().out
    assert "cuDNN attention bf16" in printed and "roofline" in printed and "fits: " in printed
    report = json.loads((tmp_path / "aot-h100-8.json").read_text())
    sent = {}
    for exchange in report["collectives"]:
        key = (exchange["kind"], exchange["dtype"])
        sent[key] = sent.get(key, 0) + exchange["bytes"]
    # Kernels are cast before they are gathered (embeddings are float32), and their gradients
    # scattered, not summed whole.
    assert sent["all-gather", "bf16"] > 20 * sent.get(("all-gather", "f32"), 0)
    assert sent["reduce-scatter", "bf16"] > 10 * (
        sent.get(("all-reduce", "bf16"), 0) + sent.get(("all-reduce", "f32"), 0)
    )
    assert report["stack_gathers"] == []
    # Neither moments nor averages are transposed.
    moved = {(k["kind"], k["dtype"]): k["bytes"] for k in report["kernels"]}
    assert moved.get(("layout", "f32"), 0) < 0.02 * report["hbm_bytes"]


# A UNet of the published shape with fewer channels and blocks: what differs is how long it takes.
FEWER = [
    "--config.model.model_channels=64",
    "--config.model.transformer_depth=(0,1,2)",
    "--config.gram.blocks=(1,9)",
    "--config.data.batch_size=2",
]


def bucket_config(bucket):
    height, width = bucket
    sizes = [f"--config.data.height={height}", f"--config.data.width={width}"]
    return load_config("configs/base.py", [*FEWER, *sizes])


@pytest.mark.parametrize("bucket", BUCKETS)
def test_every_bucket_lowers(bucket):
    aot.lower_step(bucket_config(bucket), describe("h100:1"))


def test_a_bucket_of_odd_numbers_of_tokens_compiles():
    report = aot.compile_step(bucket_config((1312, 736)), "h100:1").report  # 41 x 23 of level 3
    assert report["fits"] and ("cuDNN attention", "bf16") in kinds(report["kernels"])


def test_every_program_of_a_picture():
    config = load_config("configs/base.py", FEWER)
    report = memory.picture_memory(config, "h100:1", controls=True)
    programs = report["programs"]
    assert set(programs) == {
        "encode_images",
        "encode_references",
        "encode_sketches",
        "denoise",
        "denoise_low_memory",
        "decode",
    }
    for name in ("encode_references", "encode_sketches", "denoise", "denoise_low_memory"):
        assert ("cuDNN attention", "bf16") in kinds(programs[name]["kernels"])
    for name in ("encode_images", "decode"):
        assert ("cuDNN convolution", "bf16") in kinds(programs[name]["kernels"])


def test_products_of_8_bits_are_the_librarys_own():
    """Three of self-attention, one of cross-attention and GEGLU's, a block and evaluation."""
    config = load_config("configs/tiny.py", ["--config.model.products=float8"])
    report = sample.compile_sample(config, "h200:1", 2)
    (found,) = (
        kernel["calls"]
        for kernel in report["kernels"]
        if (kernel["kind"], kernel["dtype"]) == ("cuBLASLt product", "f8e4m3fn")
    )
    blocks = 10  # of the miniature's UNet
    assert found == 5 * blocks * report["evaluations"]
