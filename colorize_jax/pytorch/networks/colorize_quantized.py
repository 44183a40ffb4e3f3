"""Linear layers whose weights are stored in 8 bits, with a scale for each output channel."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DTYPES = {"int8": torch.int8, "float8_e4m3fn": torch.float8_e4m3fn}


class QuantizedLinear(nn.Module):
    """A linear layer y = (W * scale) x + b with W in 8 bits; products are in the dtype of x.

    Moving the module to another float dtype leaves W in 8 bits.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = torch.zeros(self.out_features, self.in_features, dtype=dtype)
        # No parameters: these tell a model's dtype, and are what trainers train.
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", torch.ones(self.out_features, 1))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        weight = self.weight.to(x.dtype) * self.weight_scale.to(x.dtype)
        return F.linear(x, weight, self.bias)

    def _apply(self, fn, recurse: bool = True):
        stored = self.weight.dtype
        super()._apply(fn, recurse)
        if self.weight.dtype != stored:
            # Other float dtypes hold every value of 8 bits exactly, so that nothing is lost.
            self.weight = self.weight.to(stored)
        return self


def quantize_linears(
    module: nn.Module, quantization: Mapping[str, Any] | None, prefix: str = ""
) -> None:
    """Let a model's linear layers hold 8 bits.

    Args:
        module: a model that has no weights yet: they are read afterwards.
        quantization: None: nothing; or "dtype", a key of `DTYPES`, and "skipped", words of the
            names of layers that stay as they are.
        prefix: of the names of the module's children.
    """
    if quantization is None:
        return
    for name, child in list(module.named_children()):
        own = f"{prefix}{name}"
        if any(word in own for word in quantization["skipped"]):
            continue
        if type(child) is nn.Linear:
            setattr(module, name, QuantizedLinear(child, DTYPES[quantization["dtype"]]))
        else:
            quantize_linears(child, quantization, f"{own}.")
