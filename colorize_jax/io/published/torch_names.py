"""The bijection between published PyTorch tensors and our parameter trees.

PyTorch's names and layouts (OIHW convolutions, out x in linears) are known here only. One rule
serves every network: a Flax module has the published name with the '.' before a number replaced by
'_', the blocks of a scanned stack share one tree whose leaves have a leading axis of blocks, and

    weight (O, I, H, W)  <->  kernel (H, W, I, O)        weight (C,)  <->  scale (C,)
    weight (O, I)        <->  kernel (I, O)              bias (C,)    <->  bias (C,)

so `input_blocks.4.1.transformer_blocks.3.attn2.to_out.0.weight` is
`params["input_blocks_4_1"]["transformer_blocks"]["attn2"]["to_out_0"]["kernel"][3]`. The exceptions
are listed below. Values keep their dtype and bits in both directions, and tensors are read one at a
time, so that a file larger than half of the memory can be converted.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from colorize_jax.errors import UserError, nearest_hint
from colorize_jax.types import Params

# What each network's names begin with in a published file of several; none holds CLIP's text tower.
PREFIXES: Mapping[str, str] = {
    "unet": "model.diffusion_model.",
    "sketch_encoder": "control_encoder.",
    "reference_projection": "proj.",
    "vae": "first_stage_model.",
    "background_encoder": "bg_encoder.",
    "foreground_encoder": "fg_encoder.",
    "clip_vision": "cond_stage_model.model.",
    "tagger": "img_embedder.model.",
}

# Modules that nn.scan stacks over depth: their published name has a block number after this word.
STACKS: Mapping[str, str] = {
    "unet": "transformer_blocks",
    "background_encoder": "transformer_blocks",
    "foreground_encoder": "transformer_blocks",
    "clip_vision": "layers",
    "clip_text": "layers",
}

# Published names with an underscore of their own before a number, as (parent, name).
LITERAL_UNDERSCORES = frozenset({("mid", "block_1"), ("mid", "block_2"), ("mid", "attn_1")})
LITERAL_PREFIXES = ("lora_", "branch")  # of whatever parent

# Our leaf name -> published leaf name; raw tensors keep name and layout.
LEAVES: Mapping[str, str] = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "bias": "bias",
    "class_embedding": "class_embedding",
    "logit_scale": "logit_scale",
    "q_bias": "q_bias",
    "v_bias": "v_bias",
    "running_mean": "running_mean",
    "running_var": "running_var",
}

# Kernel layouts by number of axes: axes that take PyTorch's layout to ours, and back.
TO_OURS: Mapping[int, tuple[int, ...]] = {2: (1, 0), 4: (2, 3, 1, 0)}
TO_TORCH: Mapping[int, tuple[int, ...]] = {2: (1, 0), 4: (3, 2, 0, 1)}

# Tensors of published files that are no parameters of ours: the importer skips these alone.
SKIPPED = tuple(
    re.compile(pattern)
    for pattern in (
        # Schedule constants of latent-diffusion trainers.
        r"(denoiser\.)?(betas|sigmas|alphas_cumprod(_prev)?|log_one_minus_alphas_cumprod)",
        # Flags of trainers: the model predicts v, its schedule ends in pure noise.
        r"(v_pred|ztsnr)",
        r"sqrt_(one_minus_|recip_|recipm1_)?alphas_cumprod",
        r"(posterior_(variance|log_variance_clipped|mean_coef[12])|lvlb_weights|logvar|scale_factor)",
        # Averaged copies, text encoders and the losses that trained an autoencoder.
        r"model_ema\..*",
        r"(conditioner|cond_stage_model\.transformer|cond_stage_model\.model\.transformer)\..*",
        r"first_stage_model\.(loss|model_ema)\..*",
        r"loss\..*",
        # CLIP's text tower where it is not imported, and buffers of both towers.
        r"(.*\.)?(text_model\..*|text_projection\.weight|position_ids)",
        r"(cond_stage_model\.model\.)?logit_scale",
        r"(.*\.)?(relative_position_index|relative_coords_table|attn_mask|k_bias)",
        # Counters of norms, classifiers behind LPIPS's trunks, copies and constants of LPIPS.
        r"(.*\.)?num_batches_tracked",
        r"(classifier\.\d+\.(weight|bias)|lins\.\d+\.model\.1\.weight)",
        r"scaling_layer\.(shift|scale)",
    )
)

MAX_LISTED = 5  # names of each sort in one error message
JAX_ALIGNMENT = 64  # bytes


@dataclass(frozen=True)
class Slot:
    """The place of one published tensor in our tree.

    Attributes:
        name: published name, with its component's prefix.
        path: keys into the component's parameter tree.
        index: block number on the leaf's leading axis, or None outside scanned stacks.
        shape: shape in PyTorch layout.
        axes: transposition from our layout to PyTorch's, or None where layouts agree.
    """

    name: str
    path: tuple[str, ...]
    index: int | None
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None


def is_skipped(name: str) -> bool:
    """Whether `name` is a tensor of real files that is listed as none of our parameters."""
    return any(pattern.fullmatch(name) for pattern in SKIPPED)


def slots(component: str, params: Params, *, prefix: str = "") -> Iterator[Slot]:
    """Walk every published tensor of one component's tree.

    Args:
        component: which network; of those that `STACKS` lacks, none has scanned stacks.
        params: tree of arrays or of `jax.ShapeDtypeStruct`, without the outer "params" key.
        prefix: put before every name, e.g. `PREFIXES[component]`.

    Yields:
        One `Slot` a tensor; the blocks of a stacked leaf follow each other.
    """
    stack = STACKS.get(component)
    for path, leaf in _leaves(params):
        depth = leaf.shape[0] if stack in path[:-1] else None
        shape = tuple(leaf.shape if depth is None else leaf.shape[1:])
        axes = None
        if path[-1] == "kernel":
            axes = TO_TORCH[len(shape)]
            shape = tuple(shape[axis] for axis in axes)
        for index in [None] if depth is None else range(depth):
            name = prefix + _published_name(path, stack, index)
            yield Slot(name, path, index, shape, axes)


def to_torch(
    component: str, params: Params, *, prefix: str = ""
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (published name, array in PyTorch layout) of a component, one tensor at a time.

    Arrays are views of the tree where that is possible, in general not contiguous; dtypes are kept.
    """
    for slot in slots(component, params, prefix=prefix):
        yield slot.name, read_slot(slot, params)


def read_slot(slot: Slot, params: Params) -> np.ndarray:
    """Return one tensor in PyTorch layout from a component's tree: a view where possible."""
    leaf = params
    for key in slot.path:
        leaf = leaf[key]
    array = np.asarray(leaf)
    if slot.index is not None:
        array = array[slot.index, ...]
    return array if slot.axes is None else array.transpose(slot.axes)


def from_torch(
    component: str,
    tensors: Mapping[str, Any],
    abstract_params: Params,
    *,
    prefix: str = "",
) -> Params:
    """Build one component's parameters from published tensors.

    Args:
        component: as in `slots`.
        tensors: name -> array or lazily read tensor (`shape`, `dtype` and `__array__`), PyTorch
            layout; names that do not begin with `prefix` are ignored, listed buffers are skipped.
        abstract_params: tree with the shapes we expect, e.g. from `jax.eval_shape(init, ...)`.
        prefix: what precedes every name in `tensors`.

    Returns:
        A tree like `abstract_params` of NumPy arrays with the file's dtypes.

    Raises:
        UserError: tensors are missing, unexpected or misshapen; the first few are listed.
    """
    found = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return from_torch_many(found, {component: abstract_params}, {component: prefix})[component]


def from_torch_many(
    tensors: Mapping[str, Any],
    abstract: Mapping[str, Params],
    prefixes: Mapping[str, str] = PREFIXES,
    *,
    source: str = "the weights",
) -> dict[str, Params]:
    """Build several components from one file, every tensor of which must be used or listed.

    Args:
        tensors: every tensor of the file, as in `from_torch`.
        abstract: component -> tree of expected shapes.
        prefixes: component -> prefix of its names.
        source: what the error message calls the file.

    Raises:
        UserError: tensors are missing, unexpected or misshapen; the first few are listed.
    """
    tables = {
        component: list(slots(component, tree, prefix=prefixes[component]))
        for component, tree in abstract.items()
    }
    expected = {slot.name: slot.shape for table in tables.values() for slot in table}
    check_tensors({name: tuple(t.shape) for name, t in tensors.items()}, expected, source)
    return {
        component: _fill(table, tensors, abstract[component]) for component, table in tables.items()
    }


@dataclass(frozen=True)
class Misfits:
    """How the tensors of a file differ from those of an architecture.

    Attributes:
        missing: expected names that the file lacks.
        unexpected: names of the file that nothing expects and no rule skips.
        misshapen: names whose shape is another.
    """

    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)


def compare_tensors(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> Misfits:
    """Compare names and shapes of a file with the expected ones; see `check_tensors`."""
    return Misfits(
        [name for name in expected if name not in found],
        [name for name in found if name not in expected and not is_skipped(name)],
        [name for name in expected if name in found and found[name] != expected[name]],
    )


def check_tensors(
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    source: str = "the weights",
) -> None:
    """Raise one UserError that lists missing, unexpected and misshapen tensors, if there are any.

    Args:
        found: name -> shape of what the file holds.
        expected: name -> shape of what we need, PyTorch layout.
        source: what the message calls the file.
    """
    misfits = compare_tensors(found, expected)
    if misfits:
        parts = describe_misfits(misfits, found, expected)
        raise UserError(
            f"got {source} with tensors that do not fit ({'; '.join(parts)}), expected exactly the "
            f"{len(expected)} tensors of this architecture; check that file and config belong "
            "together"
        )


def describe_misfits(
    misfits: Misfits,
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
) -> list[str]:
    """One phrase for each sort of misfit: how many, and the first few with their nearest names."""
    parts = []
    missing, unexpected, misshapen = misfits.missing, misfits.unexpected, misfits.misshapen
    if missing:
        hints = [name + _nearest(name, unexpected) for name in missing[:MAX_LISTED]]
        parts.append(f"{len(missing)} missing: {_listing(hints, len(missing))}")
    if unexpected:
        hints = [name + _nearest(name, expected) for name in unexpected[:MAX_LISTED]]
        parts.append(f"{len(unexpected)} unexpected: {_listing(hints, len(unexpected))}")
    if misshapen:
        hints = [
            f"{name} is {found[name]}, expected {expected[name]}" for name in misshapen[:MAX_LISTED]
        ]
        parts.append(f"{len(misshapen)} misshapen: {_listing(hints, len(misshapen))}")
    return parts


def _leaves(tree: Params, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Walk a nested dict in its own order (jax.tree would sort, and lose the reading order)."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _published_name(path: tuple[str, ...], stack: str | None, index: int | None) -> str:
    """Apply the rule: ("a_0_1", "to_q", "kernel") -> "a.0.1.to_q.weight"."""
    words = []
    for parent, module in zip(("", *path), path[:-1], strict=False):
        if module == stack:
            words.append(f"{module}.{index}")
        elif (parent, module) in LITERAL_UNDERSCORES or module.startswith(LITERAL_PREFIXES):
            words.append(module)
        else:
            words.append(re.sub(r"(_\d+)+$", lambda match: match[0].replace("_", "."), module))
    return ".".join([*words, LEAVES[path[-1]]])


def _fill(table: list[Slot], tensors: Mapping[str, Any], abstract: Params) -> Params:
    """Read the tensors of one component, stacking blocks into preallocated leaves."""
    shapes = {path: leaf.shape for path, leaf in _leaves(abstract)}
    dtypes: dict[tuple[str, ...], np.dtype] = {}
    for slot in table:
        dtype = np.dtype(tensors[slot.name].dtype)
        if dtypes.setdefault(slot.path, dtype) != dtype:
            # Blocks of one stack that differ in dtype share one that holds every value exactly.
            wide = np.float64 in (dtype, dtypes[slot.path])
            dtypes[slot.path] = np.dtype(np.float64 if wide else np.float32)
    leaves: dict[tuple[str, ...], np.ndarray] = {}
    for slot in table:
        if slot.path not in leaves:
            leaves[slot.path] = _aligned_empty(shapes[slot.path], dtypes[slot.path])
        array = np.asarray(tensors[slot.name])
        if slot.axes is not None:
            array = array.transpose(TO_OURS[array.ndim])
        leaves[slot.path][... if slot.index is None else slot.index] = array
    return _nested(leaves)


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Like `np.empty`, aligned so that JAX on CPU shares the memory and does not copy it."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(nbytes + JAX_ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % JAX_ALIGNMENT
    return buffer[start : start + nbytes].view(dtype).reshape(shape)


def _nested(leaves: Mapping[tuple[str, ...], np.ndarray]) -> Params:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def _nearest(name: str, candidates: Any) -> str:
    # difflib is quadratic: only names of the same depth and leaf can be misspellings of this one.
    words, leaf = name.count("."), name.rsplit(".", 1)[-1]
    alike = [c for c in candidates if c.count(".") == words and c.endswith(leaf)] or candidates
    return nearest_hint(name, list(alike)[:2000], cutoff=0.75)


def _listing(names: list[str], total: int) -> str:
    return ", ".join(names) + (", ..." if total > len(names) else "")
