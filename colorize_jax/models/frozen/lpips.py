"""LPIPS 0.1: how different two pictures look, by a trained network (Zhang et al. 2018).

The trunk is AlexNet or VGG-16, trained on ImageNet. At five depths its features are brought to unit
length, and their squared differences weighted by a head that was fitted to people's judgements.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.errors import UserError
from colorize_jax.types import Array

# Subtracted from RGB in [-1, 1], and what the rest is divided by: ImageNet's mean and deviation.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPSILON = 1e-10  # added to the lengths of features
EXACT = jax.lax.Precision.HIGHEST  # as published figures are: TPUs and GPUs round by default
MIN_SIZE = 32  # px, from which every depth has a pixel


class Layer(NamedTuple):
    """A convolution of a trunk, followed by a ReLU.

    Attributes:
        number: in torchvision's list of layers, which its name says.
        kernel, stride, padding: px.
        depth: whose features it makes, 0..4.
        pool: px of the maximum pool of stride 2 before it; 0: there is none.
    """

    number: int
    kernel: int
    stride: int
    padding: int
    depth: int
    pool: int = 0


ALEXNET = (
    Layer(0, 11, 4, 2, depth=0),
    Layer(3, 5, 1, 2, depth=1, pool=3),
    Layer(6, 3, 1, 1, depth=2, pool=3),
    Layer(8, 3, 1, 1, depth=3),
    Layer(10, 3, 1, 1, depth=4),
)
VGG16 = tuple(
    Layer(number, 3, 1, 1, depth, pool=2 if depth and not position else 0)
    for depth, numbers in enumerate(((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)))
    for position, number in enumerate(numbers)
)
VGG_CHANNELS = (64, 128, 256, 512, 512)  # published widths of its depths


class Lpips(nn.Module):
    """The distance of two batches of pictures; names are torchvision's and lpips's.

    Attributes:
        vgg: whether the trunk is VGG-16, not AlexNet.
        channels: C of the five depths; the default is AlexNet's.
        dtype: of the products; LPIPS is defined with float32.
    """

    vgg: bool = False
    channels: Sequence[int] = (64, 192, 384, 256, 256)
    dtype: Any = jnp.float32

    @property
    def trunk(self) -> tuple[Layer, ...]:
        """The convolutions in their order."""
        return VGG16 if self.vgg else ALEXNET

    @nn.compact
    def __call__(self, a: Array, b: Array) -> Array:
        """Compare pictures (B, H, W, 3) RGB in [-1, 1]; the order of both does not matter.

        Returns:
            (B,) float32: 0 for equal ones, about 0.5 for unrelated ones.

        Raises:
            UserError: they are smaller than `MIN_SIZE`.
        """
        if min(a.shape[1:3]) < MIN_SIZE:
            raise UserError(
                f"got pictures of {a.shape[1]} x {a.shape[2]} px for LPIPS, expected sides of at "
                f"least {MIN_SIZE} px; leave LPIPS out"
            )
        distance = jnp.zeros(len(a), jnp.float32)
        for depth, features in enumerate(self._features(jnp.concatenate([a, b]))):
            ours, theirs = jnp.split(_unit(features), 2)
            distance += Head(name=f"lin{depth}")(jnp.square(ours - theirs))
        return distance

    def _features(self, images: Array) -> list[Array]:
        """The trunk's features (B, h, w, C) of pictures in [-1, 1] at each depth."""
        x = (images.astype(jnp.float32) - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
        depths: list[Array] = [x] * len(self.channels)
        for layer in self.trunk:
            if layer.pool:
                x = nn.max_pool(x, (layer.pool, layer.pool), (2, 2))
            x = nn.Conv(
                self.channels[layer.depth],
                (layer.kernel, layer.kernel),
                layer.stride,
                layer.padding,
                dtype=self.dtype,
                precision=EXACT,
                name=f"features_{layer.number}",
            )(x)
            x = depths[layer.depth] = nn.relu(x)  # the last of a depth stays
        return depths


class Head(nn.Module):
    """Weights of channels, and the mean over places: (B, h, w, C) -> (B,)."""

    @nn.compact
    def __call__(self, differences: Array) -> Array:
        head = nn.Conv(1, (1, 1), use_bias=False, precision=EXACT, name="model_1")
        weighted = head(differences)
        return jnp.mean(weighted, axis=(1, 2, 3))


def _unit(x: Array) -> Array:
    x = x.astype(jnp.float32)
    return x / (jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True)) + EPSILON)
