"""What weights were trained for travels with them, in and out of every format."""

import json

import numpy as np
import pytest
import small_models
import small_run
from small_models import save, system

from colorize_jax.commands import cli
from colorize_jax.diffusion.schedule import make_schedule
from colorize_jax.io.open_weights import open_weights
from colorize_jax.setup.checkpoints import open_networks

ZERO = {"beta_start": 0.00085, "beta_end": 0.012, "num_timesteps": 1000, "zero_terminal_snr": True}
OTHER = {"beta_start": 0.001, "beta_end": 0.02, "num_timesteps": 500, "zero_terminal_snr": False}


@pytest.fixture
def run(capsys):
    def run(*arguments):
        status = cli.main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    return small_models.save_configs(tmp_path_factory.mktemp("configs") / "config.json")


def constants(schedule, dtype=np.float32):
    return make_schedule(**schedule).alphas_cumprod.astype(dtype)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, None),
        ({"v_pred": np.zeros(0, np.float32), "ztsnr": np.zeros(0, np.float32)}, ZERO),
        ({"alphas_cumprod": constants(ZERO), "v_pred": np.zeros(0, np.float32)}, ZERO),
        ({"alphas_cumprod": constants(ZERO, np.float16)}, ZERO),
        ({"denoiser.alphas_cumprod": constants(OTHER)}, OTHER),
        ({"betas": make_schedule(**OTHER).betas.astype(np.float32)}, OTHER),
    ],
)
def test_a_files_schedule_is_read_and_goes_on(run, tmp_path, configs, extra, expected):
    file = save(tmp_path / "model.safetensors", system() | extra)
    weights = tmp_path / "weights"
    said = ("--prediction-type", "v")
    assert run("import", "--input", file, "--output", weights, "--config", configs, *said)[0] == 0
    assert open_weights(weights).metadata.schedule == expected
    # To safetensors, to shards, and back.
    for rest in ((), ("--max-shard-size", "500KB")):
        out = tmp_path / f"out{len(rest)}{'' if rest else '.safetensors'}"
        again = tmp_path / f"again{len(rest)}"
        assert run("export", "--checkpoint", weights, "--output", out, *rest)[0] == 0
        assert run("import", "--input", out, "--output", again)[0] == 0
        assert open_weights(again).metadata.schedule == expected
    zero = expected and expected["zero_terminal_snr"]
    assert ("zero terminal SNR" in run("inspect", again)[1]) == bool(zero)
    # To a diffusers folder and back, which always says one.
    folder, back = tmp_path / "diffusers", tmp_path / "back"
    run("export", "--checkpoint", weights, "--output", folder, "--format", "diffusers")
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["rescale_betas_zero_snr"] == bool(zero)
    assert run("import", "--input", folder, "--output", back)[0] == 0
    published = ZERO | {"zero_terminal_snr": False}
    assert open_weights(back).metadata.schedule == (expected or published)


def test_schedules_that_cannot_be_said_are_refused(run, tmp_path, configs):
    linear = np.cumprod(1 - np.linspace(0.0001, 0.02, 1000)).astype(np.float32)
    file = save(tmp_path / "linear.safetensors", system() | {"alphas_cumprod": linear})
    status, _, error = run("import", "--input", file, "--output", tmp_path / "w")
    assert status == 2 and "noise schedule that is not scaled linear" in error
    markers = {"ztsnr": np.zeros(0, np.float32)}
    file = save(tmp_path / "eps.safetensors", system() | markers, {"prediction_type": "eps"})
    status, _, error = run("import", "--input", file, "--output", tmp_path / "w")
    assert status == 2 and "predicts eps with zero terminal SNR" in error
    folder = tmp_path / "folder"
    weights = tmp_path / "weights"
    plain = save(tmp_path / "plain.safetensors", system(), {"prediction_type": "v"})
    run("import", "--input", plain, "--output", weights, "--config", configs)
    run("export", "--checkpoint", weights, "--output", folder, "--format", "diffusers")
    scheduler = folder / "scheduler" / "scheduler_config.json"
    for change, reason in (
        ({"beta_schedule": "linear"}, "beta_schedule 'linear'"),
        ({"beta_start": -1}, "beta_start -1"),
        ({"trained_betas": [0.1] * 1000}, "not scaled linear"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "match flows"),
    ):
        before = scheduler.read_text()
        scheduler.write_text(json.dumps(json.loads(before) | change))
        status, _, error = run("import", "--input", folder, "--output", tmp_path / "w")
        assert status == 2 and reason in error and error.count("\n") == 1
        scheduler.write_text(before)


def test_a_run_of_another_schedule_samples_by_it_wherever_its_weights_went(run, tmp_path):
    options = [f"--config.diffusion.{name}={value}" for name, value in OTHER.items()]
    workdir = small_run.make(tmp_path / "run", options)
    file, folder = tmp_path / "model.safetensors", tmp_path / "weights"
    diffusers, back = tmp_path / "diffusers", tmp_path / "back"
    assert run("export", "--checkpoint", workdir, "--output", file)[0] == 0
    assert run("import", "--input", file, "--output", folder)[0] == 0
    as_folder = ("--output", diffusers, "--format", "diffusers")
    assert run("export", "--checkpoint", workdir, *as_folder)[0] == 0
    assert run("import", "--input", diffusers, "--output", back)[0] == 0
    for path in (workdir, file, folder, diffusers, back):
        if path not in (file, diffusers):
            metadata = open_weights(path).metadata
            assert metadata.schedule == OTHER and metadata.size == [32, 32]
            assert metadata.scaling_factor == 1.0 and metadata.prediction_type == "v"
        assert "32 x 32 px" in run("inspect", path)[1]
    networks = open_networks([workdir])
    assert networks.system.schedule.num_timesteps == 500


@pytest.mark.parametrize(
    ("said", "size"),
    [(128, [1024, 1024]), ([96, 128], [768, 1024]), (None, None), ("128", "refused")],
)
def test_a_diffusers_folder_says_its_size_in_latents(run, tmp_path, configs, said, size):
    file, weights = save(tmp_path / "m.safetensors", system(), {"prediction_type": "v"}), "weights"
    run("import", "--input", file, "--output", tmp_path / weights, "--config", configs)
    folder, back = tmp_path / "folder", tmp_path / "back"
    as_folder = ("--output", folder, "--format", "diffusers")
    assert run("export", "--checkpoint", tmp_path / weights, *as_folder)[0] == 0
    config = folder / "unet" / "config.json"
    content = json.loads(config.read_text())
    assert "sample_size" not in content  # nobody knows it
    config.write_text(json.dumps(content | {"sample_size": said}))
    status, _, error = run("import", "--input", folder, "--output", back)
    if size == "refused":
        assert status == 2 and "the size ['128', '128']" in error and error.count("\n") == 1
        return
    assert status == 0, error
    # The small autoencoder divides sides by two, the published one by eight.
    assert open_weights(back).metadata.size == (size and [side // 4 for side in size])
    again = tmp_path / "again"
    assert run("export", "--checkpoint", back, *("--output", again, *as_folder[2:]))[0] == 0
    assert json.loads((again / "unet" / "config.json").read_text()).get("sample_size") == said


def trainer_file(path, prefix="", extra=()):
    """As a trainer writes it: parameters under a wrapper's prefix, and their averages."""
    arrays = system()
    content = {prefix + name: value for name, value in arrays.items()}
    for name, value in arrays.items():
        if name.startswith("model."):
            bare = name.removeprefix("model.").replace(".", "")
            content[f"model_ema.{bare}"] = (value * 2).astype(value.dtype)
    return save(path, content | dict(extra), {"prediction_type": "v"}), arrays


@pytest.mark.parametrize("averages", [False, True])
def test_running_averages_are_a_choice_that_is_named(run, tmp_path, configs, averages):
    file, arrays = trainer_file(tmp_path / "model.safetensors")
    flags = ("--ema",) if averages else ()
    command = ("import", "--input", file, "--config", configs, "--output", tmp_path / "w", *flags)
    status, out, _ = run(*command)
    assert status == 0
    assert f"took the {'running average' if averages else 'parameters'} of the UNet" in out
    name = "model.diffusion_model.input_blocks.0.0.bias"
    out_file = tmp_path / "out.safetensors"
    assert run("export", "--checkpoint", tmp_path / "w", "--output", out_file)[0] == 0
    import safetensors.numpy

    found = safetensors.numpy.load_file(out_file)[name]
    np.testing.assert_array_equal(found, arrays[name] * (2 if averages else 1))


def test_averages_that_are_not_there_are_missed(run, tmp_path):
    file = save(tmp_path / "model.safetensors", system(), {"prediction_type": "v"})
    status, _, error = run("import", "--input", file, "--output", tmp_path / "w", "--ema")
    assert status == 2 and "holds no running averages" in error


@pytest.mark.parametrize("wrap", ["compiled", "replicated", "both"])
def test_wrappers_names_are_read(run, tmp_path, configs, wrap):
    arrays = system()

    def name(own):
        own = own.replace("model.diffusion_model.", "model.diffusion_model._orig_mod.", 1)
        return "module." + own if wrap == "both" else own

    renamed = {
        "module." + own if wrap == "replicated" else name(own): value
        for own, value in arrays.items()
    }
    file = save(tmp_path / "model.safetensors", renamed, {"prediction_type": "v"})
    command = ("import", "--input", file, "--config", configs, "--output", tmp_path / "w")
    status, _, error = run(*command)
    assert status == 0, error
    assert run("inspect", file, "--config", configs)[0] == 0
