"""Merge low-rank additions (LoRAs) that PyTorch programs trained into a UNet's weights.

Files have the names of diffusers and PEFT or those of kohya's scripts, and these either of
diffusers' modules or of the published ones:

    unet.down_blocks.1.attentions.0...attn1.to_q.lora_A.weight          (PEFT; lora_A is down)
    unet.down_blocks.1.attentions.0...attn1.processor.to_q_lora.down.weight       (old diffusers)
    lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight          (kohya)

A weight becomes W + scale * alpha / rank * up down; alpha is the rank where a file does not say it.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from colorize_jax.errors import UserError
from colorize_jax.io.formats.readers import open_checkpoint
from colorize_jax.io.formats.tensors import LazyTensor
from colorize_jax.io.published import diffusers_names
from colorize_jax.io.published.checkpoint import PublishedCheckpoint

KOHYA = "lora_unet_"
# Additions to text encoders, which this system does not have.
TEXT = re.compile(r"(lora_te\d?_|text_encoder(_2)?\.).*")
PART = re.compile(
    r"(?P<module>.+?)(?:\.|_)(?:lora_(?P<part>A|B|down|up)(?:\.\w+)?|lora\.(?P<old>down|up))\.weight"
)
DOWN = ("A", "down")
PEFT_METADATA = "lora_adapter_metadata"


@dataclass
class Addition:
    """What a file adds to one weight.

    Attributes:
        down: (rank, I) or (rank, I, k, k).
        up: (O, rank) or (O, rank, 1, 1).
        alpha: its factor, divided by the rank; None: the rank.
    """

    down: LazyTensor | None = None
    up: LazyTensor | None = None
    alpha: float | None = None

    def change(self) -> np.ndarray:
        """alpha / rank * up down, float32, in the weight's number of axes."""
        down, up = (np.asarray(x).astype(np.float32) for x in (self.down, self.up))
        rank = down.shape[0]
        product = up.reshape(up.shape[0], rank) @ down.reshape(rank, -1)
        factor = 1.0 if self.alpha is None else self.alpha / rank
        return factor * product.reshape(up.shape[0], *down.shape[1:])


def parse(text: str) -> tuple[Path, float]:
    """FILE or FILE=SCALE, as the command takes it."""
    path, _, scale = text.rpartition("=")
    try:
        return (Path(path), float(scale)) if path else (Path(text), 1.0)
    except ValueError:
        return Path(text), 1.0


def merge(
    source: PublishedCheckpoint, path: str | Path, scale: float = 1.0
) -> tuple[PublishedCheckpoint, int, int]:
    """Merge one file into a checkpoint's UNet; weights are read and computed when they are used.

    Args:
        source: with a UNet.
        path: of the LoRA.
        scale: of the whole file.

    Returns:
        The checkpoint with changed weights in their own dtypes, the number of weights changed, and
        that of tensors passed over because they are a text encoder's.

    Raises:
        UserError: there is no UNet, or the file is no LoRA of it.
    """
    if "unet" not in source.configs:
        raise UserError(
            f"got a LoRA for {source.path}, which holds no UNet ({source.kind}), expected one that "
            "does; leave the option out"
        )
    additions, skipped = _read(Path(path))
    table = _weights(source)
    unknown = [module for module in additions if module not in table]
    if unknown or not additions:
        shown = ", ".join(unknown[:3]) or "no additions to a UNet"
        raise UserError(
            f"got {path} with {shown}{', ...' if len(unknown) > 3 else ''}, expected a LoRA of "
            f"this UNet (such as {KOHYA}input_blocks_4_1_...); name another file"
        )
    changed = {}
    for module, addition in additions.items():
        name = table[module]
        changed[name] = _changed(changed.get(name, source.tensors[name]), addition, scale, path)
    merged = dataclasses.replace(source, tensors=source.tensors | changed)
    return merged, len(changed), skipped


def _changed(tensor: LazyTensor, addition: Addition, scale: float, path: str | Path) -> LazyTensor:
    if addition.down is None or addition.up is None:
        raise UserError(
            f"got {path} with half an addition to {tensor.name}, expected down and up; get it again"
        )
    if (addition.up.shape[0], *addition.down.shape[1:]) != tensor.shape:
        raise UserError(
            f"got {path} with an addition of {addition.up.shape} by {addition.down.shape} to "
            f"{tensor.name} of {tensor.shape}, expected one that fits; name a LoRA of this UNet"
        )

    def load() -> np.ndarray:
        return (np.asarray(tensor).astype(np.float32) + scale * addition.change()).astype(
            tensor.dtype
        )

    return dataclasses.replace(tensor, load=load)


def _weights(source: PublishedCheckpoint) -> dict[str, str]:
    """Every name that a file can call a weight of the UNet by -> its published name."""
    prefix, config = source.prefixes["unet"], source.configs["unet"]
    names = [name for name in source.expected()["unet"] if name.endswith(".weight")]
    own = [name.removeprefix(prefix) for name in names]
    theirs = diffusers_names.unet_names(own, config["num_res_blocks"])
    table = {}
    for name in own:
        for spelling in (name, theirs.get(name)):
            if spelling is not None:
                module = spelling.removesuffix(".weight")
                table[module] = table[KOHYA + module.replace(".", "_")] = prefix + name
    return table


def _read(path: Path) -> tuple[dict[str, Addition], int]:
    """Module -> its addition, and how many tensors are a text encoder's.

    Raises:
        UserError: other tensors are in the file.
    """
    checkpoint = open_checkpoint(path)
    additions: dict[str, Addition] = {}
    strange, skipped = [], 0
    ratio = _peft_ratio(checkpoint.metadata)
    for name, tensor in checkpoint.tensors.items():
        if TEXT.fullmatch(name):
            skipped += 1
            continue
        match = PART.fullmatch(name)
        module = _module(match["module"] if match else name.removesuffix(".alpha"))
        if match is None and not name.endswith(".alpha"):
            strange.append(name)
            continue
        addition = additions.setdefault(module, Addition())
        if match is None:
            addition.alpha = float(np.asarray(tensor).astype(np.float32))
        elif (match["part"] or match["old"]) in DOWN:
            addition.down = tensor
            if addition.alpha is None and ratio is not None:
                addition.alpha = ratio * tensor.shape[0]
        else:
            addition.up = tensor
    if strange:
        raise UserError(
            f"got {path} with {', '.join(strange[:3])}, expected a LoRA of down and up matrices; "
            "merge other kinds with the program that made them, and import the result"
        )
    return additions, skipped


def _module(name: str) -> str:
    """A module's name without what libraries put around it."""
    name = re.sub(r"^(base_model\.model\.)?(unet\.)?", "", name)
    name = re.sub(r"\.processor(?=\.to_)", "", name)
    return re.sub(r"(?<=\.to_out)$", ".0", name)  # old diffusers leave the number out


def _peft_ratio(metadata: Mapping[str, str]) -> float | None:
    """alpha / rank of a file of PEFT's, which says them for all modules together; or None."""
    try:
        said = json.loads(metadata[PEFT_METADATA])
        known = {name.removeprefix("unet."): value for name, value in said.items()}
        return known["lora_alpha"] / known["r"]
    except (KeyError, ValueError, TypeError, AttributeError, ZeroDivisionError):
        return None


def merge_all(
    source: PublishedCheckpoint, given: Sequence[str]
) -> tuple[PublishedCheckpoint, list[str]]:
    """Merge files in their order; `given` as `parse` takes them. Returns a line about each, too."""
    lines = []
    for text in given:
        path, scale = parse(text)
        source, changed, skipped = merge(source, path, scale)
        passed = f", passed over {skipped} tensors of text encoders" if skipped else ""
        lines.append(f"{path}: changed {changed} weights at scale {scale:g}{passed}")
    return source, lines
