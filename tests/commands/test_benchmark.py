"""`benchmark` on the smallest network: what it measures, what it writes, what it refuses."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from colorize_jax.analysis.hardware.cards import CARDS
from colorize_jax.analysis.hardware.machines import Machines
from colorize_jax.analysis.shapes import abstract_record
from colorize_jax.analysis.step_flops import step_flops
from colorize_jax.benchmark import memory, sample, step, timing
from colorize_jax.commands import cli
from colorize_jax.config.load import load_config
from colorize_jax.config.options import MeshConfig
from colorize_jax.diffusion.samplers import find_sampler
from colorize_jax.errors import UserError
from colorize_jax.setup.initialize import abstract_state
from colorize_jax.setup.networks import build_train_system
from colorize_jax.sharding import make_mesh
from data.errors import INTERRUPTED_STATUS

CONFIG = str(Path(__file__).parents[1] / "configs" / "smallest.py")
# One level of the UNet in the place of three: what is measured here is not its speed.
SHALLOW = [
    "--config.model.channel_mult=(1,)",
    "--config.model.transformer_depth=(1,)",
    "--config.model.hint_blocks=(0,1,0,1)",
    "--config.gram.blocks=(1,3)",
]


def benchmark(what, *options):
    return cli.main(["benchmark", what, "--config", CONFIG, *map(str, options)])


def test_step(tmp_path, capsys):
    out = tmp_path / "step.json"
    options = ("--batch_size", 2, "--steps", 3, "--branches", "single", "--output", out)
    assert benchmark("step", *SHALLOW, *options) == 0
    report = json.loads(out.read_text())
    assert (report["height"], report["batch_size"], report["remat"]) == (32, 2, "none")
    assert (report["platform"], report["num_devices"]) == ("cpu", 1)
    assert report["jax"] == jax.__version__ and report["config"]["gram"]["blocks"] == [1, 3]
    (one,) = report["programs"].values()
    seconds = [one["seconds"][n] for n in ("min", "lower_quartile", "median", "upper_quartile")]
    assert seconds[0] > 0 and seconds == sorted(seconds) and one["calls"] == 3
    assert one["images_per_second"] == pytest.approx(2 / one["sustained_seconds"])
    flops_per_second = one["flops"] / one["sustained_seconds"]
    assert one["tflops_per_device"] == pytest.approx(flops_per_second / 1e12)
    assert one["memory"]["arguments"] > 0 and one["memory"]["temporaries"] > 0
    assert one["mfu"] is None and one["device_peak_bytes"] is None  # nobody knows a CPU's
    counted = step.count_step(load_config(CONFIG, SHALLOW))["programs"]["single"]
    assert one["flops"] == pytest.approx(2 * counted["total"])
    printed = capsys.readouterr().out
    assert printed.startswith("step: 32x32 px, batch 2, float32, remat none, attention blockwise")
    assert "single" in printed and f"written to {out}" in printed


def test_sample(tmp_path, capsys):
    out = tmp_path / "sample.json"
    options = ("--steps", 2, "--output", out)
    assert benchmark("sample", *SHALLOW, "--config.sampling.num_steps=3", *options) == 0
    report = json.loads(out.read_text())
    assert (report["batch_size"], report["sampler"], report["evaluations"]) == (1, "Euler", 3)
    one = report["programs"]["sample"]
    assert one["seconds"]["median"] > 0 and one["flops"] > 0
    assert "Euler, 3 steps, guidance 1.5" in capsys.readouterr().out


@pytest.mark.parametrize("sampler", ["Euler", "Heun"])
def test_flops_of_a_picture_grow_with_its_evaluations(sampler):
    def count(batch_size, num_steps):
        overrides = [*SHALLOW, f"--config.sampling.sampler={sampler}"]
        overrides.append(f"--config.sampling.num_steps={num_steps}")
        config = sample.sampling_config(load_config(CONFIG, overrides), batch_size)
        evaluations = find_sampler(sampler).evaluations(num_steps)
        return sample.sample_flops(build_train_system(config), evaluations)

    counts = [count(1, num_steps) for num_steps in (1, 2, 3)]
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0
    # What does not depend on the picture is made once.
    assert count(2, 3) == pytest.approx(2 * counts[2], rel=1e-3)


def test_parts_of_a_step_are_counted(capsys):
    assert benchmark("step", *SHALLOW, "--count") == 0
    assert "UNet" in capsys.readouterr().out
    config = load_config(CONFIG, [*SHALLOW, "--config.model.remat=block"])
    report = step.count_step(config)
    for name, parts in report["programs"].items():
        system = build_train_system(config)
        arguments = abstract_state(system), abstract_record(config)
        whole = step_flops(system, *arguments, dual=name == "dual")
        # Rematerialization changes nothing of the count.
        assert 4 * parts["total"] == whole
        assert parts["unet"] > 0 and parts["conditions"] > 0
    assert 1 < report["ratios"]["trained"] < report["ratios"]["unet"] < 2


def test_rates_by_hand():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    found = timing.rates([4.0, 1.0, 2.0, 3.0, 100.0], 6, 12 * 10**12, mesh)
    assert found["seconds"] == {
        "median": 3.0,
        "min": 1.0,
        "max": 100.0,
        "lower_quartile": 2.0,
        "upper_quartile": 4.0,
    }
    assert (found["images_per_second"], found["tflops_per_device"]) == (2.0, 4.0)
    unknown = timing.rates([1.0], 6, None, mesh)
    assert unknown["tflops_per_device"] is None and unknown["mfu"] is None


def test_every_call_is_waited_for_and_the_first_ones_do_not_count():
    calls = []
    seconds = timing.repeat(lambda: calls.append(0) or np.zeros(1), 4)
    assert len(seconds) == 4 and len(calls) == 4 + timing.NUM_WARM_UP


def test_memory_by_hand():
    parameters = {
        "clip_vision": 40,
        "tagger": 3,
        "reference_projection": 2,
        "sketch_encoder": 1,
        "vae": 4,
        "unet": 50,
    }
    programs = {"encode_references": 5, "encode_sketches": 7, "denoise": 20, "decode": 30}
    found = memory.peaks(parameters, {name: {"total": n} for name, n in programs.items()})
    assert found["resident"] == 100 + 30
    assert found["low_memory"] == {"encoders": 57, "denoise": 70, "decode": 34, "peak": 70}
    programs |= {"denoise": 60, "denoise_low_memory": 20}  # unrolled, and in a loop
    unrolled = memory.peaks(parameters, {name: {"total": n} for name, n in programs.items()})
    assert unrolled == {"resident": 100 + 60, "low_memory": found["low_memory"]}


@pytest.mark.slow
def test_both_branches(tmp_path, capsys):
    out = tmp_path / "step.json"
    assert benchmark("step", "--config.model.remat=block", "--steps", 2, "--output", out) == 0
    programs = json.loads(out.read_text())["programs"]
    assert programs["dual"]["flops"] > programs["single"]["flops"]
    temporaries = [programs[name]["memory"]["temporaries"] for name in ("dual", "single")]
    assert temporaries[0] <= 1.25 * temporaries[1]
    assert "dual / single: FLOPs" in capsys.readouterr().out


@pytest.mark.slow
def test_programs_are_compiled_and_not_run(tmp_path, capsys):
    out = tmp_path / "step.json"
    assert benchmark("step", *SHALLOW, "--compile_only", "--output", out) == 0
    programs = json.loads(out.read_text())["programs"]
    assert set(programs) == {"single", "dual"}
    assert all(one["memory"]["temporaries"] > 0 for one in programs.values())
    assert "dual / single: temporaries" in capsys.readouterr().out


@pytest.mark.slow
def test_memory(tmp_path, capsys):
    out = tmp_path / "memory.json"
    assert benchmark("memory", "--config.model.dtype=bfloat16", "--output", out) == 0
    report = json.loads(out.read_text())
    unet = abstract_state(build_train_system(load_config(CONFIG))).params["unet"]
    assert report["parameters"]["unet"] == 2 * sum(x.size for x in jax.tree.leaves(unet))
    assert report["low_memory"]["peak"] < report["resident"]
    assert "peak, everything resident" in capsys.readouterr().out


def test_sampling_is_compiled_for_what_is_not_here(monkeypatch, capsys, tmp_path):
    """In the place of a card that only its compiler knows: a CPU under its name."""
    card = Machines("h200:1", "cpu", CARDS["h200"], (1,), 1, tuple(jax.devices()[:1]), 0.0)
    monkeypatch.setattr(sample, "describe", lambda topology, num_slices: card)
    out = tmp_path / "sample.json"
    options = (*SHALLOW, "--config.sampling.num_steps=3", "--config.model.products=int8")
    assert (
        benchmark("sample", "--topology", "h200:1", "--batch_size", 2, *options, "--output", out)
        == 0
    )
    report = json.loads(out.read_text())
    assert (report["topology"], report["products"], report["batch_size"]) == ("h200:1", "int8", 2)
    assert report["fits"] and report["memory"]["temporaries"] > 0
    assert report["evaluations"] == 3 and report["flops"]["model"] > 0
    assert 0 < report["roofline"]["step_seconds"] <= 1.001 * report["in_order"]["step_seconds"]
    assert report["in_order"]["expected_seconds"] > report["in_order"]["step_seconds"]
    text = capsys.readouterr().out
    assert "compiled for h200:1" in text and "expected of this card" in text


def test_every_control_is_in_what_is_compiled(monkeypatch):
    seen = {}

    def lower_alone(calls, params, mesh, compiler_options):
        for name, (program, static, rest) in calls.items():
            own = {network: params[network] for network in memory.NETWORKS[name]}
            seen[name] = (rest, program.lower(*static, own, *rest))
        return {name: {"total": 0} for name in calls}

    monkeypatch.setattr(memory, "_compile_all", lower_alone)
    config = load_config(CONFIG, [*SHALLOW, "--config.model.block_loop=unrolled"])
    memory.picture_memory(config, controls=True)
    assert set(seen) == set(memory.NETWORKS)
    inputs = seen["denoise"][0][0]
    given = {name for name, value in vars(inputs).items() if value is not None}
    assert {"blank_hints", "sketch_mask", "bank", "background", "injected"} <= given
    assert inputs.context.shape[1] == 2 * load_config(CONFIG).model.context_tokens
    assert all(tokens.shape[0] == 1 for tokens in inputs.bank.values()) and inputs.bank


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["step", "--steps", "0"], "got --steps 0, expected at least 1"),
        (["step", "--resolution", "30"], "got data.height = 30, expected a multiple of 16"),
        (["step", "--batch_size", "1"], "got data.batch_size = 1 with the Gram loss"),
        (
            ["step", "--batch_size", "3", "--config.optimizer.accumulation=2"],
            "got data.batch_size = 3 in optimizer.accumulation = 2",
        ),
        (["step", "--config.mesh.data=3"], "got mesh data 3, fsdp 1, tensor 1 for 1 devices"),
        (["sample", "--config.sampling.sampler=Oiler"], "nearest"),
        (["sample", "--config.sampling.steps=3"], "got the unknown key 'sampling.steps'"),
        (["sample", "--count"], "got --count with sample, expected it with step only"),
        (
            ["sample", "--topology", "h100:1", "--config.sampling.sampler=DPM adaptive"],
            "got the sampler DPM adaptive, which chooses its steps as it goes",
        ),
        (["sample", "--topology", "h100:1", "--steps", "3"], "got --steps with --topology"),
        (["memory", "--compile_only"], "got --compile_only with memory"),
        (["step", "--output", CONFIG], "that this command reads, expected another place"),
        (
            ["step", "--branches", "dual", "--config.gram.maximum=0.0"],
            "got --branches dual with gram.maximum = 0",
        ),
        (["step", "stray"], "got argument 'stray', expected --config.section.key=value"),
    ],
)
def test_bad_input_is_one_line(options, message, capsys):
    what, *rest = options
    assert benchmark(what, *rest) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: ") and err.count("\n") == 1


def test_what_does_not_fit_is_told_in_one_line():
    with (
        pytest.raises(UserError, match="got a step that needs more memory") as caught,
        timing.fitting("a step"),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nsomewhere")
    assert "\n" not in str(caught.value)
    with pytest.raises(jax.errors.JaxRuntimeError), timing.fitting("a step"):
        raise jax.errors.JaxRuntimeError("INTERNAL")


def test_interrupted_it_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(step, "filled", interrupt)
    out = tmp_path / "step.json"
    assert benchmark("step", "--output", out) == INTERRUPTED_STATUS
    assert capsys.readouterr().err == "error: interrupted\n"
    assert not list(tmp_path.iterdir())


def test_other_commands_take_no_stray_arguments(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["inspect", "file", "--config.seed=1"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --config.seed=1" in capsys.readouterr().err
