"""Encoders without weights, behind the interfaces of the VAE, CLIP and the tagger.

With them the whole system can be trained from scratch on small pictures without pretrained weights:
latents are the pixels themselves, and a reference's tokens are its patches.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from colorize_jax.errors import UserError
from colorize_jax.nn.layers import sinusoid
from colorize_jax.nn.resize import resize_antialiased
from colorize_jax.types import Array

# Log variance of a deterministic posterior: a deviation of 3e-7, the least that the VAE can have.
POINT_LOGVAR = -30.0
# Longest period of the position embedding: suits a grid of a few dozen patches.
MAX_POSITION_PERIOD = 100.0
FEATURES = ("pixels", "mean", "std", "opponent", "region")
# Red, green and blue are strongly correlated in pictures: less than a twentieth of their variance
# separates purple from green. On these axes (lightness, red-blue, green-magenta) the colours of
# illustrations have deviations of 1 to 2, so that an untrained network is sensitive to all three.
OPPONENT_AXES = ((1.0, 4.0, -6.0), (1.0, 0.0, 12.0), (1.0, -4.0, -6.0))
# Distance of colours in [-1, 1] at which two patches are half in one region: larger than between
# shades of one surface, smaller than between most neighbouring surfaces.
REGION_BANDWIDTH = 0.2
REGION_CHANNELS = 6


class PatchAutoencoder(nn.Module):
    """Space to depth: a latent is a patch of pixels, and decoding is exact.

    Values are only reordered, so that noise on latents is noise on pixels.

    Attributes:
        patch_size: side p of a patch in pixels; latents have 3 p^2 channels.
    """

    patch_size: int = 4

    @property
    def pixels_per_latent(self) -> int:
        """Side of the square of pixels that one latent stands for."""
        return self.patch_size

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        return 3 * self.patch_size**2

    def encode(self, images: Array) -> tuple[Array, Array]:
        """Encode images (B, H, W, 3); mean and log variance (B, H/p, W/p, 3 p^2), float32."""
        mean = to_patches(images.astype(jnp.float32), self.patch_size)
        return mean, jnp.full_like(mean, POINT_LOGVAR)

    def decode(self, latents: Array) -> Array:
        """Decode latents (B, h, w, 3 p^2) to images (B, h p, w p, 3), float32."""
        batch, height, width, channels = latents.shape
        p = self.patch_size
        if channels != self.latent_channels:
            raise UserError(
                f"got latents of {channels} channels, expected {self.latent_channels}, which "
                f"patches of {p} px have; change patch_size"
            )
        pixels = latents.astype(jnp.float32).reshape(batch, height, width, p, p, 3)
        return jnp.einsum("bhwpqc->bhpwqc", pixels).reshape(batch, height * p, width * p, 3)

    def __call__(self, images: Array) -> Array:
        """Encode to the mean and decode again."""
        return self.decode(self.encode(images)[0])


class PatchReferenceEncoder(nn.Module):
    """Tokens of a reference are its patches: their pixels, statistics and positions.

    Tokens of pretrained encoders carry which object a patch belongs to. Here the feature "region"
    replaces that: it describes where else in the picture the patch's colour occurs, which separates
    background, hair and scarf without learned weights.

    Attributes:
        image_size: side in pixels to which references are resized; the aspect is not kept.
        patch_size: side of a patch in pixels.
        features: of `FEATURES`: a patch's pixels, each colour's mean and deviation in it, the mean
            on opponent axes, and the region of the picture that shares the mean colour
            (`describe_regions`).
        positions: whether tokens contain sinusoids of their patch's row and column.
        position_channels: width of those, a multiple of 4.
        class_token: whether a token for the whole image precedes the patches, as CLIP has one.
        channels: C of the tokens, padded with zeros; 0: as many as the features need.
        dtype: of the tokens.
    """

    image_size: int = 64
    patch_size: int = 8
    features: Sequence[str] = ("pixels", "mean", "std")
    positions: bool = True
    position_channels: int = 32
    class_token: bool = False
    channels: int = 0
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown or not self.features:
            raise UserError(
                f"got features {tuple(self.features)}, expected some of {FEATURES}; correct them"
            )
        if self.image_size % self.patch_size:
            raise UserError(
                f"got patches of {self.patch_size} px in an image of {self.image_size} px, "
                "expected a divisor; change patch_size"
            )
        if self.position_channels % 4:
            raise UserError(
                f"got position_channels {self.position_channels}, expected a multiple of 4; "
                "round it"
            )
        if 0 < self.channels < self.feature_channels:
            raise UserError(
                f"got tokens of {self.channels} channels, expected at least the "
                f"{self.feature_channels} that the features need; raise channels"
            )
        super().__post_init__()

    @property
    def num_tokens(self) -> int:
        """S, with the class token where there is one."""
        return (self.image_size // self.patch_size) ** 2 + int(self.class_token)

    @property
    def feature_channels(self) -> int:
        """Channels that features and positions need."""
        pixels = 3 * self.patch_size**2
        widths = {"pixels": pixels, "mean": 3, "std": 3, "opponent": 3, "region": REGION_CHANNELS}
        positions = self.position_channels if self.positions else 0
        return sum(widths[name] for name in self.features) + positions

    def __call__(self, images: Array) -> Array:
        """Encode resized images (B, image_size, image_size, 3) in [-1, 1].

        Returns:
            (B, num_tokens, C), patches row-major, the class token first.
        """
        grid = self.image_size // self.patch_size
        patches = to_patches(images.astype(jnp.float32), self.patch_size)
        patches = patches.reshape(len(images), grid * grid, self.patch_size**2, 3)
        regions = describe_regions(jnp.mean(patches, axis=2), grid)
        tokens = self._describe(patches, patches, regions)
        if self.positions:
            rows, columns = jnp.divmod(jnp.arange(grid * grid), grid)
            half = self.position_channels // 2
            places = [sinusoid(axis, half, MAX_POSITION_PERIOD) for axis in (rows, columns)]
            places = jnp.concatenate(places, axis=-1)
            places = jnp.broadcast_to(places, (*tokens.shape[:2], self.position_channels))
            tokens = jnp.concatenate([tokens, places], axis=-1)
        if self.class_token:
            # The image's mean patch, its overall statistics, no region and no position.
            pixels = patches.reshape(len(patches), 1, -1, 3)
            regions = jnp.zeros((len(patches), 1, REGION_CHANNELS))
            whole = self._describe(jnp.mean(patches, axis=1, keepdims=True), pixels, regions)
            whole = jnp.pad(whole, ((0, 0), (0, 0), (0, tokens.shape[-1] - whole.shape[-1])))
            tokens = jnp.concatenate([whole, tokens], axis=1)
        missing = max(0, self.channels - self.feature_channels)
        return jnp.pad(tokens, ((0, 0), (0, 0), (0, missing))).astype(self.dtype)

    def tokens(self, images: Array) -> Array:
        """Tokens of images (B, H, W, 3) in [-1, 1] of any size."""
        size = self.image_size
        return self(resize_antialiased(images.astype(jnp.float32), size, size))

    def _describe(self, patches: Array, counted: Array, regions: Array) -> Array:
        """Features of patches (B, S, p^2, 3): statistics over `counted` (B, S, N, 3), regions."""
        mean = jnp.mean(counted, axis=2)
        parts = {
            "pixels": patches.reshape(*patches.shape[:2], -1),
            "mean": mean,
            "std": jnp.std(counted, axis=2),
            "opponent": mean @ jnp.asarray(OPPONENT_AXES),
            "region": regions,
        }
        return jnp.concatenate([parts[name] for name in self.features], axis=-1)


def describe_regions(colors: Array, grid: int) -> Array:
    """Describe where in the picture colours like each patch's occur.

    For each patch, all patches are weighted by a Gaussian of the distance of their colours. The
    features describe these weights as a mask: size, centre, spread and share of the border.

    Args:
        colors: (B, S, 3) mean colours of patches in [-1, 1], row-major.
        grid: patches a side, S = grid^2.

    Returns:
        (B, S, 6): [size, row, column, row's spread, column's spread, border], each about 0..2 or,
        the centre, in [-1, 1].
    """
    distances = jnp.sum(jnp.square(colors[:, :, None] - colors[:, None]), axis=-1)
    weights = jnp.exp(-distances / (2 * REGION_BANDWIDTH**2))  # (B, S, S)
    rows, columns = jnp.divmod(jnp.arange(grid * grid), grid)
    places = (2 * jnp.stack([rows, columns], axis=-1) + 1) / grid - 1  # (S, 2)
    border = jnp.max(jnp.abs(places), axis=-1, keepdims=True) > 1 - 1.5 / grid
    size = jnp.sum(weights, axis=-1, keepdims=True)
    center = weights @ places / size
    variance = weights @ jnp.square(places) / size - jnp.square(center)
    spread = jnp.sqrt(jnp.maximum(variance, 0.0))
    covered = weights @ border.astype(jnp.float32) / jnp.sum(border)
    return jnp.concatenate([2 * jnp.sqrt(size) / grid, center, 2 * spread, 2 * covered], axis=-1)


def to_patches(images: Array, patch_size: int) -> Array:
    """Move patches into channels, row-major: (B, H, W, 3) -> (B, H/p, W/p, 3 p^2)."""
    batch, height, width, channels = images.shape
    p = patch_size
    if height % p or width % p:
        raise UserError(
            f"got images of {height}x{width} px, expected sides that are multiples of {p}; pad or "
            "crop them"
        )
    pixels = images.reshape(batch, height // p, p, width // p, p, channels)
    return jnp.einsum("bhpwqc->bhwpqc", pixels).reshape(
        batch, height // p, width // p, p * p * channels
    )
