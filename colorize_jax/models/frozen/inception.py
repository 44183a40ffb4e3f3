"""FID's InceptionV3: the graph of 2015-12-05 that all FIDs are measured with, by its PyTorch port.

It differs from Szegedy et al. 2016 in what its average pools count, in the last block's pool, which
takes the maximum, and in 1008 classes.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.nn.layers import Dense
from colorize_jax.nn.resize import resize_as_pillow, resize_bilinear_uncentred
from colorize_jax.types import Array

SIZE = 299  # px, side of a preprocessed picture
MIN_SIZE = 75  # px, side from which there is something left to average
PUBLISHED_WIDTH = 32  # of the first convolution, to which all widths below refer
EPSILON = 1e-3  # of the norms
EXACT = jax.lax.Precision.HIGHEST  # as published figures are: TPUs and GPUs round by default


def preprocess_fid(images: Array) -> Array:
    """Resize and scale pictures as FID does: bilinearly, without antialiasing, off the centre.

    Args:
        images: (B, H, W, 3) RGB, uint8, or float in [-1, 1], which is rounded to 8 bits first.

    Returns:
        (B, 299, 299, 3) float32 in [-1, 1).
    """
    return (resize_bilinear_uncentred(_levels(images), SIZE, SIZE) - 128) / 128


def preprocess_clean_fid(images: Array) -> Array:
    """Resize and scale pictures as clean-FID does: bicubically, with antialiasing, as Pillow does.

    Source: Parmar, Zhang and Zhu 2022. Arguments and result as of `preprocess_fid`.
    """
    resized = resize_as_pillow(_levels(images), SIZE, SIZE)
    return (jnp.clip(resized, 0, 255) - 128) / 128


def _levels(images: Array) -> Array:
    """Pictures as float32 in 0..255, whole numbers."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32)
    return jnp.round(jnp.clip((images.astype(jnp.float32) + 1) * 127.5, 0, 255))


class Inception(nn.Module):
    """FID's features of pictures; names are the published ones.

    Attributes:
        width: C of the first convolution; all others grow with it.
        num_classes: of the head, which no metric here needs.
        dtype: of the products; FID is defined with float32.
    """

    width: int = PUBLISHED_WIDTH
    num_classes: int = 1008
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Encode preprocessed pictures (B, H, W, 3).

        Returns:
            (B, 64 width) float32: 2048 features.
        """

        def unit(name: str, features: int, *kernel: int, **options: Any) -> ConvUnit:
            return _unit(self, name, features, *kernel, **options)

        shared = {"width": self.width, "dtype": self.dtype}
        x = unit("Conv2d_1a_3x3", 32, 3, 3, stride=2)(images)
        x = unit("Conv2d_2a_3x3", 32, 3, 3, padding="VALID")(x)
        x = unit("Conv2d_2b_3x3", 64, 3, 3)(x)
        x = _halve(x)
        x = unit("Conv2d_3b_1x1", 80, 1, 1)(x)
        x = unit("Conv2d_4a_3x3", 192, 3, 3, padding="VALID")(x)
        x = _halve(x)
        for letter, pool_features in zip("bcd", (32, 64, 64), strict=True):
            x = FiveBlock(pool_features=pool_features, name=f"Mixed_5{letter}", **shared)(x)
        x = FirstReduction(name="Mixed_6a", **shared)(x)
        for letter, inner in zip("bcde", (128, 160, 160, 192), strict=True):
            x = SevenBlock(inner=inner, name=f"Mixed_6{letter}", **shared)(x)
        x = SecondReduction(name="Mixed_7a", **shared)(x)
        x = WideBlock(name="Mixed_7b", **shared)(x)
        x = WideBlock(max_pool=True, name="Mixed_7c", **shared)(x)
        features = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        if self.is_initializing():
            Dense(self.num_classes, name="fc")(features)
        return features


class ConvUnit(nn.Module):
    """Convolution, norm with stored statistics, ReLU.

    Attributes:
        kernel: height and width; odd, so that "SAME" padding is as large on both sides.
        stride: of 2, without padding.
    """

    features: int
    kernel: tuple[int, ...]
    stride: int = 1
    padding: str = "SAME"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Conv(
            self.features,
            self.kernel,
            self.stride,
            padding="VALID" if self.stride > 1 else self.padding,
            use_bias=False,
            dtype=self.dtype,
            precision=EXACT,
            name="conv",
        )(x)
        return nn.relu(StoredNorm(name="bn")(x))


class StoredNorm(nn.Module):
    """Batch norm of a frozen network: its running statistics are parameters like others."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def param(name: str, init: Callable) -> Array:
            return self.param(name, init, (x.shape[-1],)).astype(jnp.float32)

        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        scale, bias = param("scale", ones), param("bias", zeros)
        mean, variance = param("running_mean", zeros), param("running_var", ones)
        y = (x.astype(jnp.float32) - mean) * (scale * jax.lax.rsqrt(variance + EPSILON)) + bias
        return y.astype(x.dtype)


class Block(nn.Module):
    """Branches that are joined along channels.

    Attributes:
        width: as of `Inception`.
        dtype: as of `Inception`.
    """

    width: int = PUBLISHED_WIDTH
    dtype: Any = jnp.float32

    def unit(self, name: str, features: int, *kernel: int, **options: Any) -> ConvUnit:
        """A unit whose published width is `features`."""
        return _unit(self, name, features, *kernel, **options)


class FiveBlock(Block):
    """Branches of one 5 x 5, and of two 3 x 3 convolutions."""

    pool_features: int = 64

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one = self.unit("branch1x1", 64, 1, 1)(x)
        five = self.unit("branch5x5_1", 48, 1, 1)(x)
        five = self.unit("branch5x5_2", 64, 5, 5)(five)
        double = self.unit("branch3x3dbl_1", 64, 1, 1)(x)
        double = self.unit("branch3x3dbl_2", 96, 3, 3)(double)
        double = self.unit("branch3x3dbl_3", 96, 3, 3)(double)
        pool = self.unit("branch_pool", self.pool_features, 1, 1)(_average_pool(x))
        return jnp.concatenate([one, five, double, pool], axis=-1)


class FirstReduction(Block):
    """To half the resolution."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = self.unit("branch3x3", 384, 3, 3, stride=2)(x)
        double = self.unit("branch3x3dbl_1", 64, 1, 1)(x)
        double = self.unit("branch3x3dbl_2", 96, 3, 3)(double)
        double = self.unit("branch3x3dbl_3", 96, 3, 3, stride=2)(double)
        return jnp.concatenate([three, double, _halve(x)], axis=-1)


class SevenBlock(Block):
    """Branches of 7 x 7 convolutions, each as a row and a column."""

    inner: int = 192

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one = self.unit("branch1x1", 192, 1, 1)(x)
        seven = self.unit("branch7x7_1", self.inner, 1, 1)(x)
        seven = self.unit("branch7x7_2", self.inner, 1, 7)(seven)
        seven = self.unit("branch7x7_3", 192, 7, 1)(seven)
        double = self.unit("branch7x7dbl_1", self.inner, 1, 1)(x)
        double = self.unit("branch7x7dbl_2", self.inner, 7, 1)(double)
        double = self.unit("branch7x7dbl_3", self.inner, 1, 7)(double)
        double = self.unit("branch7x7dbl_4", self.inner, 7, 1)(double)
        double = self.unit("branch7x7dbl_5", 192, 1, 7)(double)
        pool = self.unit("branch_pool", 192, 1, 1)(_average_pool(x))
        return jnp.concatenate([one, seven, double, pool], axis=-1)


class SecondReduction(Block):
    """To half the resolution once more."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = self.unit("branch3x3_1", 192, 1, 1)(x)
        three = self.unit("branch3x3_2", 320, 3, 3, stride=2)(three)
        seven = self.unit("branch7x7x3_1", 192, 1, 1)(x)
        seven = self.unit("branch7x7x3_2", 192, 1, 7)(seven)
        seven = self.unit("branch7x7x3_3", 192, 7, 1)(seven)
        seven = self.unit("branch7x7x3_4", 192, 3, 3, stride=2)(seven)
        return jnp.concatenate([three, seven, _halve(x)], axis=-1)


class WideBlock(Block):
    """Branches that end in a row and a column side by side."""

    max_pool: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one = self.unit("branch1x1", 320, 1, 1)(x)
        three = self.unit("branch3x3_1", 384, 1, 1)(x)
        three = self.both("branch3x3_2", three)
        double = self.unit("branch3x3dbl_1", 448, 1, 1)(x)
        double = self.unit("branch3x3dbl_2", 384, 3, 3)(double)
        double = self.both("branch3x3dbl_3", double)
        # The published graph takes the maximum in its last block, whatever the paper says.
        pool = nn.max_pool(x, (3, 3), (1, 1), "SAME") if self.max_pool else _average_pool(x)
        pool = self.unit("branch_pool", 192, 1, 1)(pool)
        return jnp.concatenate([one, *three, *double, pool], axis=-1)

    def both(self, name: str, x: Array) -> list[Array]:
        """A row's and a column's convolution."""
        return [self.unit(name + "a", 384, 1, 3)(x), self.unit(name + "b", 384, 3, 1)(x)]


def _unit(
    parent: Any, name: str, features: int, *kernel: int, padding: str = "SAME", stride: int = 1
) -> ConvUnit:
    """A unit of a module of `width` and `dtype`, called from its compact method."""
    features = features * parent.width // PUBLISHED_WIDTH
    return ConvUnit(features, kernel, stride, padding, parent.dtype, name=name)


def _halve(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (2, 2))


def _average_pool(x: Array) -> Array:
    """Mean of the pixels around each that there are: what lies outside does not count."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)
