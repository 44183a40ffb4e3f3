"""A whole system, small enough to sample from in tests: random networks on 32 px pictures."""

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.conditioning import FrozenEncoders
from colorize_jax.diffusion.schedule import make_schedule
from colorize_jax.inference.pictures.sizes import SizeLimits
from colorize_jax.inference.system import Networks, System
from colorize_jax.models.colorizer import Colorizer
from colorize_jax.models.frozen.patch import PatchAutoencoder, PatchReferenceEncoder
from colorize_jax.models.reference_projection import ReferenceProjection
from colorize_jax.models.sketch_encoder import SketchEncoder
from colorize_jax.models.unet import UNet, touch

SHAPE = {
    "model_channels": 32,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "transformer_depth": (0, 1),
    "head_dim": 16,
}
SIDE, CELL = 32, 4
LATENTS = 3 * CELL**2


def make_system(plugin=False, hints=False):
    """Pictures of 32 px and latents of 8; with the plugin's networks where asked for."""
    reference = PatchReferenceEncoder(image_size=16, patch_size=4, channels=96)
    unet = UNet(
        **SHAPE,
        context_channels=24,
        vector_channels=32,
        in_channels=LATENTS,
        out_channels=LATENTS,
        hint_blocks=(0, 2, 3),
        loras=(("background", 4),) if plugin else (),
        foreground_channels=LATENTS if plugin else 0,
    )
    background = UNet(
        **SHAPE,
        context_channels=0,
        vector_channels=64,
        in_channels=LATENTS + 2,
        out_channels=LATENTS,
        num_output_blocks=2,
    )
    return System(
        Colorizer(
            unet,
            SketchEncoder(32, (1, 2), head_dim=16, strides=(2, 2, 1), color_hints=hints),
            ReferenceProjection(16, 24, head_dim=24),
        ),
        FrozenEncoders(PatchAutoencoder(CELL), reference, reference, 1.0),
        make_schedule(),
        "v",
        background if plugin else None,
        SizeLimits(SIDE, 16, CELL, 2 * CELL),
    )


def make_networks(plugin=False, mesh=None, hints=False):
    """The system with random parameters, none of which is zero."""
    system = make_system(plugin, hints)

    def init():
        tokens = jnp.zeros((1, 16, 96))
        params = system.colorizer.init(jax.random.key(0), tokens, tokens)
        if plugin:
            encoder = system.background_encoder
            variables = encoder.init(jax.random.key(0), *touch(encoder))
            params["background_encoder"] = variables["params"]
        return params

    random = np.random.default_rng(0)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[-leaf.ndim : -1]) if leaf.ndim > 1 else 25
        return np.asarray(random.standard_normal(leaf.shape) / np.sqrt(fan_in), np.float32)

    params = jax.tree.map(draw, jax.eval_shape(init))
    readers = {name: (lambda tree=tree: tree) for name, tree in params.items()}
    readers |= {name: dict for name in ("vae", "clip_vision", "tagger")}
    return Networks(system, readers, mesh=mesh)


def make_pictures(seed=0, height=48, width=40):
    """A sketch of a few strokes (H, W) and a reference (H, W, 3) with a figure, uint8."""
    random = np.random.default_rng(seed)
    sketch = np.full((height, width), 255, np.uint8)
    for _ in range(4):
        top, left = random.integers(0, height // 2), random.integers(0, width // 2)
        bottom, right = top + height // 3, left + width // 3
        sketch[top:bottom, [left, right]] = 0
        sketch[[top, bottom], left:right] = 0
    reference = np.empty((height, width, 3), np.uint8)
    reference[:] = random.integers(0, 255, 3)
    reference[height // 4 : -height // 4, width // 4 : -width // 4] = random.integers(0, 255, 3)
    return sketch, reference
