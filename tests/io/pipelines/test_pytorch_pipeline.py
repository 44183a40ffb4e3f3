"""Exported folders in PyTorch: the same numbers as ours, and back after training there."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import small_pipeline
from PIL import Image

from colorize_jax.io.formats.weights_folder import load_weights
from colorize_jax.io.pipelines.read import read_pipeline
from colorize_jax.io.published import torch_names
from colorize_jax.io.published.importing import import_weights
from colorize_jax.verify import golden
from colorize_jax.verify.against import RUNS, load_pipeline, verify_against

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

TOLERANCE = 2e-4
SIZE = 128  # px; smaller, a GroupNorm of the smallest level has next to nothing to average


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The folder of the golden system."""
    path = tmp_path_factory.mktemp("plain")
    return small_pipeline.export(small_pipeline.make_weights(path), path / "folder")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The same with a plugin."""
    path = tmp_path_factory.mktemp("plugin")
    return small_pipeline.export(small_pipeline.make_weights(path, plugin=True), path / "folder")


@pytest.fixture(scope="module")
def pipe(plain):
    return load_pipeline(plain)


def code(pipe, name):
    """A module of the pipeline's own code."""
    return sys.modules[f"{type(pipe).__module__.rpartition('.')[0]}.{name}"]


def _golden_conditions(pipe, case, options):
    """What the published code was given, behind the reading of pictures."""
    pictures = code(pipe, "colorize_pictures")
    arrays = {name: torch.tensor(array) for name, array in case.inputs.items()}
    sketch, reference = arrays["sketch"][0], arrays["reference"][0]
    mask = arrays["reference_mask"][0, 0]
    behind = pictures.paint_out(reference, mask, options.reference_mask_threshold, "foreground")
    whole = pictures.Box(0, 0, *sketch.shape[1:])
    masks = [arrays["sketch_mask"][0, 0]] * 2 if options.needs_sketch_mask else []
    return pipe._encode(
        [pictures.Sketch(sketch, whole, whole)] * 2,
        masks,
        [pictures.Reference(reference, mask, (behind, mask))],
        options,
    )


def test_it_computes_the_published_numbers(pipe):
    case = golden.load_case(small_pipeline.GOLDEN / "pipeline")
    renamed = {"diffuser_ddim": "DDIM", "Automatic": "automatic"}
    noise = torch.tensor(case.inputs["initial_noise"])
    for name, run in case.config["runs"].items():
        run = {k: renamed.get(v, v) if isinstance(v, str) else v for k, v in run.items()}
        run["split_attention"] = run.pop("split")
        options = code(pipe, "colorize_options").read_options(run)
        with torch.no_grad():
            conditions = _golden_conditions(pipe, case, options)
            latents = pipe.denoise(conditions, options, lambda stream, number: noise)
        expected = case.outputs["context_split" if options.split_attention else "context"]
        assert golden.relative_error(conditions.context, expected) < 1e-5
        assert golden.relative_error(latents, case.outputs[f"latents.{name}"]) < TOLERANCE, name
        image = case.outputs.get(f"image.{name}")
        if image is not None:
            with torch.no_grad():
                assert golden.relative_error(pipe.decode(latents), image) < 1e-3


@pytest.mark.slow
def test_every_control_gives_our_latents(plugin):
    _check(plugin, RUNS)


def test_its_latents_are_ours(plugin):
    """One run of each kind: samplers, guidance, strengths, regions, the plugin's parts."""
    names = ("as the model suggests", "Heun", "guidance by both", "split attention, merged")
    names += ("background copied", "plugin, another background", "plugin, foreground and strengths")
    _check(plugin, {name: RUNS[name] for name in names})


def _check(folder, runs):
    found = list(verify_against(folder, size=SIZE, runs=runs))
    assert len(found) == len(runs)
    assert found[0].levels is not None
    wrong = [one for one in found if not one.passed]
    assert not wrong


OPTIONS = {"height": SIZE, "width": SIZE, "steps": 3, "seed": 1}


def test_a_picture_by_the_lines_of_its_card(pipe, tmp_path):
    """Its own size, cut to the sketch's aspect; the same seed makes the same picture."""
    pictures = small_pipeline.make_pictures(tmp_path)
    sketch, reference = str(pictures["sketch"]), str(pictures["reference"])
    picture = pipe(sketch, reference, seed=0, steps=2).images[0]
    assert isinstance(picture, Image.Image) and picture.size == (48, 64)
    again = pipe(sketch, Image.open(reference), seed=0, steps=2, output_type="pil").images[0]
    assert np.array_equal(np.asarray(picture), np.asarray(again))
    other = pipe(sketch, np.asarray(Image.open(reference)), seed=3, steps=2).images[0]
    assert not np.array_equal(np.asarray(picture), np.asarray(other))


ALONE = """
import importlib.util, sys
names = ("jax", "flax", "timm", "colorize_jax")
print("beside it:", [name for name in names if importlib.util.find_spec(name)])
"""


def test_the_cards_lines_in_an_environment_without_us(plain, tmp_path):
    """COLORIZE_ALONE may name a Python with torch, diffusers, transformers, safetensors alone."""
    python = os.environ.get("COLORIZE_ALONE")
    small_pipeline.make_pictures(tmp_path)
    (block,) = re.findall(
        r"```python\n(from diffusers.*?)```", (plain / "README.md").read_text(), re.S
    )
    script = f"{ALONE}\nFOLDER = {str(plain)!r}\n{block}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        [python or sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert python is None or "beside it: []" in result.stdout
    with Image.open(tmp_path / "colored.png") as picture:
        assert picture.size == (48, 64) and np.asarray(picture).std() > 1


def test_a_batch_is_its_pictures(pipe, tmp_path):
    one, two = (small_pipeline.make_pictures(tmp_path, seed) for seed in (0, 1))
    noise = torch.randn(2, 4, SIZE // 8, SIZE // 8, generator=torch.manual_seed(0))
    options = {**OPTIONS, "sampler": "Euler", "output_type": "latent"}
    names = ("sketch", "reference")
    many = pipe(*([one[n], two[n]] for n in names), latents=noise, **options).images
    for row, own in enumerate((one, two)):
        alone = pipe(*(own[n] for n in names), latents=noise[row : row + 1], **options).images
        assert golden.relative_error(many[row : row + 1], alone) < 1e-4


def test_schedulers_of_diffusers(pipe, tmp_path):
    """DDIM of theirs is ours; others run, and refuse what only our scheduler knows."""
    pictures = small_pipeline.make_pictures(tmp_path)
    inputs = (pictures["sketch"], pictures["reference"])
    noise = torch.randn(1, 4, SIZE // 8, SIZE // 8, generator=torch.manual_seed(0))
    options = {**OPTIONS, "latents": noise, "output_type": "latent"}
    ours = pipe(*inputs, sampler="DDIM", **options).images
    kept = pipe.scheduler
    try:
        settings = {"set_alpha_to_one": True, "clip_sample": False}
        pipe.scheduler = diffusers.DDIMScheduler.from_config(kept.config, **settings)
        assert golden.relative_error(pipe(*inputs, **options).images, ours) < TOLERANCE
        pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(kept.config)
        one, again, other = (pipe(*inputs, **options | {"seed": seed}).images for seed in (1, 1, 2))
        assert torch.isfinite(one).all() and torch.equal(one, again)
        assert not torch.equal(one, other)  # its noise is the seed's
        with pytest.raises(ValueError, match="with this folder's own scheduler"):
            pipe(*inputs, sampler="Euler", **options)
    finally:
        pipe.scheduler = kept


def test_what_users_of_diffusers_expect(pipe, tmp_path):
    pictures = small_pipeline.make_pictures(tmp_path)
    inputs = (pictures["sketch"], pictures["reference"])
    options = {**OPTIONS, "output_type": "latent"}
    whole = pipe(*inputs, **options).images
    assert isinstance(pipe.unet, diffusers.UNet2DConditionModel)
    seen = []

    def callback(pipeline, step, timestep, kwargs):
        seen.append(step)
        return {"latents": kwargs["latents"]}

    assert torch.equal(pipe(*inputs, callback_on_step_end=callback, **options).images, whole)
    assert seen == [0, 1, 2]
    plain = pipe.unet
    pipe.unet = torch.compile(plain, backend="eager")
    try:
        assert golden.relative_error(pipe(*inputs, **options).images, whole) < 1e-4
    finally:
        pipe.unet = plain
    pipe.enable_vae_tiling()
    assert pipe(*inputs, **OPTIONS).images[0].size == (96, 128)
    pipe.disable_vae_tiling()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"step": 3}, "got the option 'step', expected one such as 'steps'"),
        ({"reference": None}, "got no reference"),
        ({"background_plugin": True}, "expected a folder of the plugin model"),
        ({"split_attention": True}, "got no mask of the reference"),
        ({"sampler": "DPM fast"}, 'got sampler "DPM fast"'),
        ({"height": 100}, "got height 100 px, expected a multiple of 8"),
        ({"lora_scales": {"other": 1}}, "got lora_scales"),
        ({"background": "x.png"}, "got a background, expected background_plugin"),
        ({"merge": 2}, "got merge 2, expected 0 to 1"),
        ({"latents": torch.zeros(1, 4, 2, 2)}, "got latents"),
    ],
)
def test_bad_input(pipe, tmp_path, given, message):
    pictures = small_pipeline.make_pictures(tmp_path)
    inputs = {"sketch": pictures["sketch"], "reference": pictures["reference"], **given}
    with pytest.raises(ValueError, match=message):
        pipe(**inputs)


def test_a_folder_of_another_version(plain, tmp_path):
    import shutil

    folder = shutil.copytree(plain, tmp_path / "folder")
    index = json.loads((folder / "model_index.json").read_text())
    del index["folder_format"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="got a folder of format 0, expected 1"):
        load_pipeline(folder)


def test_trained_in_pytorch_and_back(plugin, tmp_path):
    """One step on some of the UNet's weights; all others come back bit for bit."""
    pipe = load_pipeline(plugin)
    before = {name: np.asarray(t) for name, t in read_pipeline(plugin).tensors.items()}
    own = {
        name: parameter
        for name, parameter in pipe.unet.named_parameters()
        if ".attn2.to_v." in name or ".loras." in name or name.startswith("conv_fg")
    }
    pipe.unet.requires_grad_(False)
    for parameter in own.values():
        parameter.requires_grad_(True)
    sketch = torch.randn(1, 3, SIZE, SIZE, generator=torch.manual_seed(0))
    latents = torch.randn(1, 4, SIZE // 8, SIZE // 8)
    prediction = pipe.unet(
        latents,
        torch.tensor([500]),
        torch.randn(1, 49, 48),
        hints=pipe.sketch_encoder(sketch),
        foreground=latents,
        added_cond_kwargs={
            "time_ids": torch.tensor([[128.0, 7.0]]),
            "text_embeds": torch.zeros(1, 0),
        },
    ).sample
    optimizer = torch.optim.SGD(own.values(), lr=0.1)
    prediction.square().mean().backward()
    optimizer.step()
    pipe.save_pretrained(tmp_path / "trained")

    again = load_pipeline(tmp_path / "trained")
    for name, parameter in pipe.unet.named_parameters():
        assert torch.equal(again.unet.get_parameter(name), parameter)
    source = read_pipeline(tmp_path / "trained")
    import_weights(source, tmp_path / "weights")
    trees = load_weights(tmp_path / "weights")
    changed = 0
    for component, tree in trees.items():
        prefix = torch_names.PREFIXES[component]
        for name, array in torch_names.to_torch(component, tree, prefix=prefix):
            words = name.split(".")
            trains = "attn2" in words and ("to_v" in words or words[-2].startswith("lora_"))
            if component == "unet" and (trains or "conv_fg" in words):
                changed += not np.array_equal(array, before[name])
            else:
                assert array.tobytes() == np.ascontiguousarray(before[name]).tobytes(), name
    assert changed >= len(own) // 2
    assert source.metadata().configs == read_pipeline(plugin).metadata().configs


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "int8"])
def test_precisions(plain, tmp_path, dtype):
    """They load in bfloat16 with 8 bits kept, and colour."""
    folder = small_pipeline.export(plain, tmp_path / "folder", "--dtype", dtype)
    options = {} if dtype == "float16" else {"dtype": torch.bfloat16}
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        str(folder), custom_pipeline=str(folder), trust_remote_code=True, **options
    )
    linear = pipe.unet.mid_block.attentions[0].transformer_blocks[0].ff.net[2]
    stored = {"float16": torch.float32, "bfloat16": torch.bfloat16}
    eight = {"float8_e4m3fn": torch.float8_e4m3fn, "int8": torch.int8}
    assert linear.weight.dtype == (stored | eight)[dtype]
    pictures = small_pipeline.make_pictures(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    latents = pipe(
        pictures["sketch"], pictures["reference"], **OPTIONS, output_type="latent"
    ).images
    assert torch.isfinite(latents).all()
