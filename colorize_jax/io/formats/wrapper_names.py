"""Names of tensors as trainers and wrappers write them, mapped back to the model's own.

model._orig_mod.x.y     a compiled module (torch.compile)
module.model.x.y        a replicated one (DistributedDataParallel), where all names begin so
model_ema.xy            the running average of model.x.y (latent diffusion's trainer)
net.slice2.5.y          layer 5 of a trunk that LPIPS cuts in slices: features.5.y of torchvision
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

COMPILED = "_orig_mod."
REPLICATED = "module."
AVERAGE = "model_ema."
SLICE = re.compile(r"net\.slice\d+\.(?=\d+\.)")


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Name in the file -> the model's own name."""
    names = list(names)
    own = [name for name in names if not name.startswith(AVERAGE)]
    replicated = bool(own) and all(name.startswith(REPLICATED) for name in own)
    plain = {}
    for name in names:
        bare = name.removeprefix(REPLICATED) if replicated else name
        plain[name] = SLICE.sub("features.", bare.replace(COMPILED, ""))
    return plain


def find_averages(names: Iterable[str]) -> dict[str, str]:
    """Name of a parameter in the file -> name of its running average in it."""
    names = set(names)
    found = {}
    for name in names:
        if not name.startswith(AVERAGE):
            average = AVERAGE + name.removeprefix("model.").replace(".", "")
            if average in names:
                found[name] = average
    return found


def take(tensors: Mapping[str, Any], *, averages: bool) -> dict[str, str]:
    """Choose the tensors of a model: its own name -> name in the file.

    Args:
        tensors: name in the file -> anything.
        averages: take the running average of every parameter that has one.
    """
    average_of = find_averages(tensors) if averages else {}
    return {
        plain: average_of.get(name, name)
        for name, plain in plain_names(tensors).items()
        if not name.startswith(AVERAGE)
    }
