"""Small ONNX models with the inputs and outputs of the published ones, made as they are needed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def save(
    folder: Path,
    name: str,
    nodes: Sequence[Any],
    input_shape: Sequence[int | str],
    output_shape: Sequence[int | str],
    constants: dict[str, np.ndarray],
    **description: Any,
) -> str:
    """Save a model from "x" to "y", and its description; returns the description's path."""
    graph = helper.make_graph(
        [helper.make_node(kind, ins, outs, **attributes) for kind, ins, outs, attributes in nodes],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, folder / f"{name}.onnx")
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"model": f"{name}.onnx", **description}))
    return str(path)


def grey(scale: float, shift: float) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Nodes from RGB "x" to its scaled and shifted luma "grey", and their constants."""
    node = ("Conv", ["x", "weight", "shift"], ["grey"], {})
    weight = (scale * LUMA).reshape(1, 3, 1, 1)
    return [node], {"weight": weight, "shift": np.array([shift], np.float32)}


def in_blocks(multiple: int) -> list[Any]:
    """Nodes from "grey" to "whole", the same, that take sides of a multiple alone."""
    return [
        ("SpaceToDepth", ["grey"], ["deep"], {"blocksize": multiple}),
        ("DepthToSpace", ["deep"], ["whole"], {"blocksize": multiple}),
    ]


ANY = [1, 3, "H", "W"]
LINES = [1, 1, "H", "W"]


def anime2sketch(folder: Path, **description: Any) -> str:
    """RGB in [-1, 1] -> tanh, dark lines; sides of multiples of 256."""
    nodes, constants = grey(4.0, 2.0)
    nodes += [*in_blocks(256), ("Tanh", ["whole"], ["y"], {})]
    return save(folder, "anime2sketch", nodes, ANY, LINES, constants, **description)


def manga(folder: Path, **description: Any) -> str:
    """Grey 0..255 -> the same; sides of multiples of 16."""
    nodes = [("Identity", ["x"], ["grey"], {}), *in_blocks(16), ("Identity", ["whole"], ["y"], {})]
    return save(folder, "manga", nodes, [1, 1, "H", "W"], LINES, {}, **description)


def lineart(folder: Path, **description: Any) -> str:
    """RGB in [0, 1] -> sigmoid, dark lines; sides of multiples of 4."""
    nodes, constants = grey(12.0, -4.0)
    nodes += [*in_blocks(4), ("Sigmoid", ["whole"], ["y"], {})]
    return save(folder, "lineart", nodes, ANY, LINES, constants, **description)


def sketchkeras(folder: Path, **description: Any) -> str:
    """Three pictures of one channel, of 512 px, channels last -> light lines."""
    nodes = [("Neg", ["x"], ["dark"], {}), ("Relu", ["dark"], ["y"], {})]
    shape = ["N", 512, 512, 1]
    return save(folder, "sketchkeras", nodes, shape, shape, {}, **description)


def blur(folder: Path, radius: int, **description: Any) -> str:
    """Mean of luma around each pixel: sees `radius` px and no further."""
    side = 2 * radius + 1
    nodes, constants = grey(1.0, 0.0)
    nodes.append(("Conv", ["grey", "mean"], ["y"], {"pads": [radius] * 4}))
    constants["mean"] = np.full((1, 1, side, side), 1 / side**2, np.float32)
    return save(folder, "blur", nodes, ANY, LINES, constants, **description)


def segmenter(folder: Path, size: int, **description: Any) -> str:
    """Dark pixels of a square are foreground, as logits."""
    nodes, constants = grey(-20.0, 0.0)
    nodes.append(("Identity", ["grey"], ["y"], {}))
    shapes = [1, 3, size, size], [1, 1, size, size]
    return save(folder, "segmenter", nodes, *shapes, constants, **description)


def means(
    folder: Path, name: str, shape: Sequence[int | str], axes: Sequence[int], **description: Any
) -> str:
    """Means over some axes: (1, 3)."""
    nodes = [("ReduceMean", ["x"], ["y"], {"axes": list(axes), "keepdims": 0})]
    return save(folder, name, nodes, shape, [1, 3], {}, **description)


def head(folder: Path, weights: Sequence[float], bias: float, **description: Any) -> str:
    """A linear score of embeddings (1, D)."""
    constants = {
        "weight": np.array(weights, np.float32)[:, None], "bias": np.array([bias], np.float32),
    }  # fmt: skip
    nodes = [("Gemm", ["x", "weight", "bias"], ["y"], {})]
    return save(folder, "head", nodes, [1, len(weights)], [1, 1], constants, **description)
