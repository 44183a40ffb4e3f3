"""Write a pack of nodes for ComfyUI: our PyTorch code, a pipeline folder, and example workflows.

    __init__.py, colorize_nodes.py, ...    the nodes and the modules they stand on
    model/                                 a pipeline folder
    workflows/NAME.json, NAME.png          graphs to load; NAME.api.json for its HTTP interface

Copied into `custom_nodes`, the pack runs as it is.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, PngImagePlugin

from colorize_jax.io.formats.atomic import NOTHING, Reads, atomic_output
from colorize_jax.io.open_weights import Weights
from colorize_jax.io.pipelines import card
from colorize_jax.io.pipelines.write import (
    Suggestions,
    all_tensors,
    check,
    copy_code,
    total_bytes,
    write_into,
)

KIND = "a pack of ComfyUI nodes"
MODEL = "model"  # name of the pipeline folder
INIT = """\"\"\"Nodes that colour sketches by references.\"\"\"

from .colorize_nodes import comfy_entrypoint
"""
REQUIREMENTS = "diffusers>=0.42\ntransformers>=5.0\nsafetensors\n"
README = """# Nodes that colour sketches by references

Copy this folder into ComfyUI's `custom_nodes`, install `requirements.txt`, and load a workflow of
`workflows/`: it wants `sketch.png` and `reference.png` in ComfyUI's `input`{masks}.
*Colorize Loader* offers the model in `model/` and every pipeline folder in ComfyUI's
`models/colorize`; *Colorize Condition* takes sketch, reference and masks (white where the figure
is). The sampler's `cfg` is the guidance by the reference.

The code is under Apache-2.0 (see `LICENSE`); of the model, see `model/README.md`.
"""

# Outputs of the nodes that workflows use, in order.
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "LoadImage": ("IMAGE", "MASK"),
    "LoadImageMask": ("MASK",),
    "ColorizeLoader": ("MODEL", "COLORIZE_ENCODERS", "VAE"),
    "ColorizeCondition": ("CONDITIONING", "CONDITIONING", "LATENT", "CONDITIONING"),
    "ColorizeGuider": ("GUIDER",),
    "RandomNoise": ("NOISE",),
    "KSamplerSelect": ("SAMPLER",),
    "BasicScheduler": ("SIGMAS",),
    "SamplerCustomAdvanced": ("LATENT", "LATENT"),
    "KSampler": ("LATENT",),
    "VAEDecode": ("IMAGE",),
    "SaveImage": (),
}
# Widgets of ComfyUI's own page that are no inputs: node -> (after which input, value).
EXTRA_WIDGETS = {
    "LoadImage": ("image", "image"),
    "KSampler": ("seed", "fixed"),
    "RandomNoise": ("noise_seed", "fixed"),
}
# Node -> its column on the page, and its height there, px.
PLACES: Mapping[str, tuple[int, int]] = {
    "LoadImageMask": (0, 320),
    "ColorizeLoader": (1, 130),
    "LoadImage": (1, 320),
    "ColorizeCondition": (2, 430),
    "KSampler": (3, 270),
    "ColorizeGuider": (3, 160),
    "RandomNoise": (3, 90),
    "KSamplerSelect": (3, 60),
    "BasicScheduler": (3, 110),
    "SamplerCustomAdvanced": (4, 120),
    "VAEDecode": (4, 80),
    "SaveImage": (5, 320),
}
COLUMN, GAP, WIDTH = 360, 50, 300  # px of a graph's page

Prompt = dict[str, dict[str, Any]]


def write_comfyui(
    weights: Weights,
    output: str | Path,
    suggestions: Suggestions,
    about: card.Card,
    *,
    dtype: str | None = None,
    max_shard_bytes: int | None = None,
    overwrite: bool = False,
    reads: Reads = NOTHING,
) -> dict[str, int]:
    """Write the pack; arguments, result and errors are those of `write.write_pipeline`."""
    check(weights)
    tensors = all_tensors(weights, dtype)
    place = {"kind": KIND, "overwrite": overwrite, "reads": reads}
    with atomic_output(output, nbytes=total_bytes(tensors), **place) as folder:
        (folder / MODEL).mkdir()
        sizes = write_into(
            folder / MODEL, weights, tensors, suggestions, about, dtype, max_shard_bytes
        )
        (folder / "__init__.py").write_text(INIT)
        copy_code("colorize_nodes", folder)
        (folder / "requirements.txt").write_text(REQUIREMENTS)
        masks = ", and their masks for the plugin's" if about.has_plugin else ""
        (folder / "README.md").write_text(README.format(masks=masks))
        (folder / "LICENSE").write_bytes((card.CODE / "LICENSE").read_bytes())
        (folder / "workflows").mkdir()
        for name, prompt in workflows(suggestions, about.has_plugin).items():
            _write_workflow(folder / "workflows", name, prompt)
    return sizes


def workflows(suggestions: Suggestions, has_plugin: bool) -> dict[str, Prompt]:
    """Name -> a workflow in the form of ComfyUI's HTTP interface."""
    found = {"colorize": _prompt(suggestions, {})}
    found["both_guides"] = _with_guider(found["colorize"])
    if has_plugin:
        masks = {"sketch_mask": "sketch_mask.png", "reference_mask": "reference_mask.png"}
        found["background"] = _prompt(suggestions, masks)
    return found


def _prompt(suggestions: Suggestions, masks: Mapping[str, str]) -> Prompt:
    steps = suggestions.defaults.get("steps", 20)
    guidance = suggestions.defaults.get("reference_guidance", 4.0)
    prompt: Prompt = {
        "1": _node("ColorizeLoader", model_name=MODEL, dtype="bfloat16"),
        "2": _node("LoadImage", image="sketch.png"),
        "3": _node("LoadImage", image="reference.png"),
        "4": _node(
            "ColorizeCondition",
            encoders=["1", 1],
            sketch=["2", 0],
            reference=["3", 0],
            width=0,
            height=0,
            preprocessor="invert",
            reference_strength=1.0,
            sketch_strength=1.0,
            split_attention=False,
            background_plugin=bool(masks),
            foreground_strength=1.0,
            background_strength=1.0,
            merge=0.0,
            aesthetic_score=7.0,
        ),
        "5": _node(
            "KSampler",
            model=["1", 0],
            seed=0,
            steps=steps,
            cfg=guidance,
            sampler_name="dpmpp_2m",
            scheduler="karras",
            positive=["4", 0],
            negative=["4", 1],
            latent_image=["4", 2],
            denoise=1.0,
        ),
        "6": _node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "7": _node("SaveImage", images=["6", 0], filename_prefix="colorize"),
    }
    for number, (name, file) in enumerate(masks.items(), 8):
        prompt[str(number)] = _node("LoadImageMask", image=file, channel="red")
        prompt["4"]["inputs"][name] = [str(number), 0]
    return prompt


def _with_guider(prompt: Prompt) -> Prompt:
    """The same picture by a guider: guidance by the reference and by the sketch."""
    sampler, model = prompt["5"]["inputs"], ["1", 0]
    parts = {
        "8": _node(
            "ColorizeGuider",
            model=model,
            positive=["4", 0],
            negative=["4", 1],
            without_sketch=["4", 3],
            reference_guidance=sampler["cfg"],
            sketch_guidance=1.5,
        ),
        "9": _node("RandomNoise", noise_seed=sampler["seed"]),
        "10": _node("KSamplerSelect", sampler_name=sampler["sampler_name"]),
        "11": _node(
            "BasicScheduler",
            model=model,
            scheduler=sampler["scheduler"],
            steps=sampler["steps"],
            denoise=1.0,
        ),
        "5": _node(
            "SamplerCustomAdvanced",
            noise=["9", 0],
            guider=["8", 0],
            sampler=["10", 0],
            sigmas=["11", 0],
            latent_image=["4", 2],
        ),
    }
    kept = ("1", "2", "3", "4")
    return {
        **{number: prompt[number] for number in kept},
        **parts,
        **{number: prompt[number] for number in ("6", "7")},
    }


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def graph(prompt: Prompt) -> dict[str, Any]:
    """A workflow in the form of ComfyUI's page: nodes with places, and links."""
    links: list[list[Any]] = []
    nodes, bottoms = [], dict.fromkeys(range(6), 40)
    for order, (number, node) in enumerate(prompt.items()):
        kind = node["class_type"]
        inputs, widgets = [], []
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                source, slot = value
                link_type = OUTPUTS[prompt[source]["class_type"]][slot]
                link = len(links) + 1
                links.append([link, int(source), slot, int(number), len(inputs), link_type])
                inputs.append({"name": name, "type": link_type, "link": link})
                continue
            widgets.append(value)
            after, extra = EXTRA_WIDGETS.get(kind, (None, None))
            if name == after:
                widgets.append(extra)
        column, height = PLACES[kind]
        place = [40 + column * COLUMN, bottoms[column]]
        bottoms[column] += height + GAP
        nodes.append(
            {
                "id": int(number),
                "type": kind,
                "pos": place,
                "size": [WIDTH, height],
                "flags": {},
                "order": order,
                "mode": 0,
                "inputs": inputs,
                "outputs": [
                    {"name": name, "type": name, "slot_index": i, "links": []}
                    for i, name in enumerate(OUTPUTS[kind])
                ],
                "properties": {"Node name for S&R": kind},
                "widgets_values": widgets,
            }
        )
    by_number = {node["id"]: node for node in nodes}
    for link, source, slot, *_ in links:
        by_number[source]["outputs"][slot]["links"].append(link)
    return {
        "last_node_id": max(by_number),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _write_workflow(folder: Path, name: str, prompt: Prompt) -> None:
    page = graph(prompt)
    (folder / f"{name}.json").write_text(json.dumps(page, indent=2) + "\n")
    (folder / f"{name}.api.json").write_text(json.dumps(prompt, indent=2) + "\n")
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("workflow", json.dumps(page))
    chunks.add_text("prompt", json.dumps(prompt))
    draw_graph(page).save(folder / f"{name}.png", pnginfo=chunks)


def draw_graph(page: Mapping[str, Any], scale: float = 0.5) -> Image.Image:
    """A sketch of a graph: boxes with their names and inputs, and links between them."""
    nodes = {node["id"]: node for node in page["nodes"]}
    right = max(node["pos"][0] + node["size"][0] for node in nodes.values()) + 40
    bottom = max(node["pos"][1] + node["size"][1] for node in nodes.values()) + 40
    picture = Image.new("RGB", (int(right * scale), int(bottom * scale)), (34, 34, 34))
    pen = ImageDraw.Draw(picture)

    def port(node: Mapping[str, Any], slot: int, side: int) -> tuple[float, float]:
        x, y = node["pos"]
        return scale * (x + side * node["size"][0]), scale * (y + 44 + 20 * slot)

    for _, source, slot, target, place, _ in page["links"]:
        start, end = port(nodes[source], slot, 1), port(nodes[target], place, 0)
        middle = (start[0] + end[0]) / 2
        pen.line([start, (middle, start[1]), (middle, end[1]), end], (150, 160, 190), 2)
    for node in nodes.values():
        (x, y), (width, height) = node["pos"], node["size"]
        box = [scale * x, scale * y, scale * (x + width), scale * (y + height)]
        pen.rounded_rectangle(box, 5, (58, 58, 62), (110, 110, 115))
        pen.text((box[0] + 8, box[1] + 4), node["type"], (235, 235, 235))
        for i, one in enumerate(node["inputs"]):
            px, py = port(node, i, 0)
            pen.text((px + 8, py - 5), one["name"], (180, 180, 180))
        for i, one in enumerate(node["outputs"]):
            px, py = port(node, i, 1)
            pen.text((px - 8, py - 5), one["name"].lower()[:14], (150, 190, 150), anchor="ra")
    return picture
