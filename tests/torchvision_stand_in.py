"""Imports lpips and torch-fidelity where torchvision is missing.

Both import torchvision, which must fit PyTorch's build, when they are imported. The tests need no
more of it than the layers of two networks without weights, which stand here after their papers:
AlexNet (Krizhevsky 2014) and VGG-16 (Simonyan and Zisserman 2014), numbered as torchvision does.
"""

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest

POOL = 0
VGG16 = (64, 64, POOL, 128, 128, POOL, *3 * (256,), POOL, *3 * (512,), POOL, *3 * (512,), POOL)


def import_reference(name: str) -> ModuleType:
    """Import a module of lpips or torch_fidelity; skip the test where that is not installed."""
    package = name.split(".")[0]
    if find_spec(package) is None:
        pytest.skip(f"needs {package}")
    if find_spec("torchvision") is not None:
        return importlib.import_module(name)
    # Other packages look for torchvision, too: the stand-in is there for this import alone.
    stand_ins = _modules()
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module(name)
    finally:
        for key in stand_ins:
            del sys.modules[key]


def _modules() -> dict[str, ModuleType]:
    """What `import torchvision` and its parts find."""
    names = ("torchvision", "datasets", "models", "transforms", "transforms.functional")
    full = [name if name == "torchvision" else f"torchvision.{name}" for name in names]
    modules = {name: ModuleType(name) for name in full}
    for name in full[1:]:
        parent, _, own = name.rpartition(".")
        setattr(modules[parent], own, modules[name])
    for name in ("CIFAR10", "CIFAR100", "STL10"):
        setattr(modules["torchvision.datasets"], name, object)
    modules["torchvision.models"].alexnet = lambda pretrained: SimpleNamespace(features=_alexnet())
    modules["torchvision.models"].vgg16 = lambda pretrained: SimpleNamespace(features=_vgg16())
    return modules


def _alexnet():
    from torch import nn

    def conv(*args, **kwargs):
        return nn.Conv2d(*args, **kwargs), nn.ReLU()

    return nn.Sequential(
        *conv(3, 64, 11, stride=4, padding=2),
        nn.MaxPool2d(3, 2),
        *conv(64, 192, 5, padding=2),
        nn.MaxPool2d(3, 2),
        *conv(192, 384, 3, padding=1),
        *conv(384, 256, 3, padding=1),
        *conv(256, 256, 3, padding=1),
        nn.MaxPool2d(3, 2),
    )


def _vgg16():
    from torch import nn

    layers, width = [], 3
    for features in VGG16:
        if features == POOL:
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(width, features, 3, padding=1), nn.ReLU()]
            width = features
    return nn.Sequential(*layers)
