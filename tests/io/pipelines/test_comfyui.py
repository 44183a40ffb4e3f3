"""Packs of nodes for ComfyUI; those in a real one, where COMFYUI names its folder.

COMFYUI=path/of/ComfyUI COMFYUI_PYTHON=its/python pytest -m 'interop and slow' THIS_FILE
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import small_models
import small_pipeline
from PIL import Image

from colorize_jax.commands import cli
from colorize_jax.io.open_weights import open_weights
from colorize_jax.io.pipelines import comfyui, names, write
from colorize_jax.io.pipelines.card import Card
from colorize_jax.io.pipelines.read import is_pipeline
from colorize_jax.io.published.checkpoint import open_published
from colorize_jax.io.published.importing import import_weights

LIMITS = {"default_size": 32, "minimum_size": 16, "size_multiple": 4, "autofit_multiple": 8}
SUGGESTED = write.Suggestions(LIMITS, {"steps": 3, "reference_guidance": 2.5})
SIDE, STEPS, GUIDANCE, SEED = 128, 4, 3.0, 5


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    path = tmp_path_factory.mktemp("pack")
    arrays = small_models.system(tuple(names.FOLDERS))
    file = small_models.save(path / "model.safetensors", arrays, {"prediction_type": "v"})
    own = {name: small_models.CONFIGS[name] for name in names.FOLDERS}
    import_weights(open_published(file, own), path / "weights")
    weights = open_weights(path / "weights")
    comfyui.write_comfyui(weights, path / "pack", SUGGESTED, Card(has_plugin=True))
    return path / "pack"


def test_the_pack_is_whole(pack):
    """Every module that its code imports is there, and the model beside it."""
    assert is_pipeline(pack / "model")
    modules = {path.stem for path in pack.glob("*.py")}
    for path in pack.glob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith("from ."):
                assert line.split()[1].removeprefix(".") in modules, (path, line)
    assert {"LICENSE", "README.md", "requirements.txt"} <= {path.name for path in pack.iterdir()}


@pytest.mark.parametrize("name", ["colorize", "both_guides", "background"])
def test_workflows_hang_together(pack, name):
    """Links of the page are those of the interface, and lie in the picture too."""
    prompt = json.loads((pack / "workflows" / f"{name}.api.json").read_text())
    page = json.loads((pack / "workflows" / f"{name}.json").read_text())
    with Image.open(pack / "workflows" / f"{name}.png") as picture:
        assert json.loads(picture.text["workflow"]) == page
        assert json.loads(picture.text["prompt"]) == prompt
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 10
    nodes = {str(node["id"]): node for node in page["nodes"]}
    assert {n: node["type"] for n, node in nodes.items()} == {
        n: node["class_type"] for n, node in prompt.items()
    }
    links = {link[0]: link for link in page["links"]}
    for number, node in prompt.items():
        said = {k: v for k, v in node["inputs"].items() if isinstance(v, list)}
        drawn = {one["name"]: links[one["link"]] for one in nodes[number]["inputs"]}
        assert {k: [str(link[1]), link[2]] for k, link in drawn.items()} == said
    numbers = {k: v for node in prompt.values() for k, v in node["inputs"].items()}
    assert numbers["steps"] == 3
    assert numbers.get("cfg", numbers.get("reference_guidance")) == 2.5


# ------------------------------------------------------------------------------- in a real ComfyUI


@contextlib.contextmanager
def server(folder, base, log):
    """ComfyUI without a window, on CPU, with its own input, output and nodes in `base`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    words = [python, "main.py", "--cpu", "--port", str(port), "--base-directory", str(base)]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*words, "--disable-auto-launch", "--disable-all-custom-nodes"]
            + ["--whitelist-custom-nodes", "colorize"],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def ask(url, content=None, patience=1):
    """JSON of the server's, which may still be starting."""
    data = None if content is None else json.dumps(content).encode()
    for left in reversed(range(patience)):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()[:2000]) from error
        except OSError:
            if not left:
                raise
            time.sleep(1)


def run_prompt(url, prompt):
    """Queue a workflow and wait; its history."""
    number = ask(f"{url}/prompt", {"prompt": prompt})["prompt_id"]
    for _ in range(900):
        found = ask(f"{url}/history/{number}").get(number)
        if found is not None:
            assert found["status"]["status_str"] == "success", json.dumps(found)[-3000:]
            return found
        time.sleep(1)
    raise AssertionError("the workflow did not end")


def _set(prompt, name, value):
    """Set an input of every node that has it."""
    for node in prompt.values():
        if name in node["inputs"]:
            node["inputs"][name] = value


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.skipif("COMFYUI" not in os.environ, reason="COMFYUI names no ComfyUI")
def test_its_workflows_make_the_pipelines_pictures(tmp_path):
    torch = pytest.importorskip("torch")
    from colorize_jax.verify.against import load_pipeline

    weights = small_pipeline.make_weights(tmp_path, plugin=True)
    base = tmp_path / "base"
    output = base / "custom_nodes" / "colorize"
    words = ["export", "--checkpoint", str(weights), "--format", "comfyui"]
    assert cli.main([*words, "--dtype", "float32", "--output", str(output)]) == 0
    (base / "input").mkdir()
    pictures = small_pipeline.make_pictures(base / "input")
    torch.set_num_threads(1)
    pipe = load_pipeline(output / "model")
    common = {"height": SIDE, "width": SIDE, "steps": STEPS, "seed": SEED}
    common |= {"reference_guidance": GUIDANCE, "crop_to_sketch": False}
    # Workflow -> the sampler and scheduler there, and the options here.
    heun = {"sampler": "Heun", "schedule": "exponential"}
    masks = {name: pictures[name] for name in ("sketch_mask", "reference_mask")}
    runs = {
        "colorize": ("dpmpp_2m", "karras", {"sampler": "DPM++ 2M"}),
        "both_guides": ("heun", "exponential", {**heun, "sketch_guidance": 1.5}),
        "background": ("euler", "normal", {"sampler": "Euler", "background_plugin": True, **masks}),
    }
    folder = Path(os.environ["COMFYUI"])
    with server(folder, base, tmp_path / "log.txt") as url:
        nodes = ask(f"{url}/object_info", patience=240)
        assert {"ColorizeLoader", "ColorizeCondition", "ColorizeGuider"} <= set(nodes)
        for name, (sampler, scheduler, options) in runs.items():
            prompt = json.loads((output / "workflows" / f"{name}.api.json").read_text())
            prompt["1"]["inputs"]["dtype"] = "float32"
            prompt["4"]["inputs"] |= {"width": SIDE, "height": SIDE}
            _set(prompt, "seed", SEED)
            _set(prompt, "noise_seed", SEED)
            _set(prompt, "steps", STEPS)
            _set(prompt, "cfg", GUIDANCE)
            _set(prompt, "reference_guidance", GUIDANCE)
            _set(prompt, "sampler_name", sampler)
            _set(prompt, "scheduler", scheduler)
            history = run_prompt(url, prompt)
            (made,) = history["outputs"]["7"]["images"]
            theirs = np.int16(np.asarray(Image.open(base / "output" / made["filename"])))
            inputs = (pictures["sketch"], pictures["reference"])
            ours = np.int16(np.asarray(pipe(*inputs, **common, **options).images[0]))
            assert theirs.shape == ours.shape and theirs.std() > 1
            # ComfyUI cuts off what is below a level, we round.
            print(name, np.abs(theirs - ours).max())
            assert np.abs(theirs - ours).max() <= 1, name
