"""The model card: what the folder is, how it was trained, and three lines that run it."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CODE = Path(__file__).parents[2] / "pytorch"
PICTURE = "example.png"

TEMPLATE = """---
{header}---

# {title}

It colours a sketch by a reference: geometry from the sketch alone, colour and style from the
reference alone. An implementation of *Towards High-resolution and Disentangled Reference-based
Sketch Colorization* (CVPR 2026, [arXiv 2603.05971](https://arxiv.org/abs/2603.05971)), trained or
converted by colorize-jax.
{picture}
## Use

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)
pipe("sketch.png", "reference.png", seed=0).images[0].save("colored.png")
```

`FOLDER` is the path of this folder, or its name on the Hub. It needs torch, diffusers, transformers
and safetensors; `torch_dtype=torch.bfloat16`, `.to("cuda")` and `.to("mps")` as usual. The code
beside the weights is small and can be read before it is trusted. Sketches are black lines on white
(`preprocessor="none"`: white on black). Options, such as `reference_guidance=4.0`,
`sketch_guidance`, `reference_strength`, `split_attention`, `sampler` and `steps`, stand with their
meaning in `colorize_options.py`.
{plugin}
## What is in it

| component | stored as | size |
| --- | --- | --- |
{sizes}
## How it was made

{facts}
## Licence

The code in this folder is under Apache-2.0 (see `LICENSE`). Weights that were trained from others
are also under those others' terms{terms}.
"""

PLUGIN = """
With the plugin, the reference's background, or another picture's, is put behind the figure:

```python
pipe(sketch, reference, sketch_mask=mask, reference_mask=reference_mask, background_plugin=True)
```
"""


@dataclass(frozen=True)
class Card:
    """What the card says.

    Attributes:
        title: of the page.
        licence: the Hub's identifier of the weights' licence, or "other".
        base_model: name of the model on the Hub that it was trained from, or None.
        facts: name -> value, of the training run and of the weights.
        picture: an example to show, or None.
        has_plugin: whether the folder has the background plugin.
    """

    title: str = "colorizer"
    licence: str = "other"
    base_model: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    picture: Path | None = None
    has_plugin: bool = False


def write(folder: Path, card: Card, sizes: Mapping[str, int], dtype: str | None) -> None:
    """Write README.md, LICENSE and the picture.

    Args:
        folder: being made.
        card: what is said.
        sizes: network -> bytes of its weights.
        dtype: that was asked for.
    """
    shown = ""
    if card.picture is not None:
        shutil.copyfile(card.picture, folder / PICTURE)
        shown = f"\n![Sketches, references and results]({PICTURE})\n"
    header = {
        "license": card.licence,
        "library_name": "diffusers",
        "pipeline_tag": "image-to-image",
        "tags": ["sketch-colorization", "line-art", "jax"],
    }
    if card.base_model:
        header["base_model"] = card.base_model
    rows = "".join(
        f"| {name} | {dtype or 'as trained'} | {nbytes / 1e6:,.1f} MB |\n"
        for name, nbytes in sizes.items()
    )
    facts = "".join(f"- {name}: {value}\n" for name, value in card.facts.items())
    text = TEMPLATE.format(
        header="".join(f"{name}: {json.dumps(value)}\n" for name, value in header.items()),
        title=card.title,
        picture=shown,
        plugin=PLUGIN if card.has_plugin else "",
        sizes=rows,
        facts=facts or "- nothing is known of its training\n",
        terms=f", those of {card.base_model} among them" if card.base_model else "",
    )
    (folder / "README.md").write_text(text)
    shutil.copyfile(CODE / "LICENSE", folder / "LICENSE")
