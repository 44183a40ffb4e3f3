"""The second stage's part of the step: backgrounds cut out of the batch, and their controls.

draw            thresholds of the masks; which samples are bleached
cut             target, sketch of the figure alone, reference without its figure
encode          that background -> tokens, latents, masks                frozen
make_controls   bank of the background encoder, regions of the context   trained
"""

import flax.struct
import jax
import jax.numpy as jnp

from colorize_jax.conditioning import FrozenEncoders
from colorize_jax.errors import UserError
from colorize_jax.models.background_encoder import crop_embedding, encode_bank
from colorize_jax.models.unet import UNet
from colorize_jax.models.unet_controls import Controls
from colorize_jax.nn.regions import Bank, Regions
from colorize_jax.nn.resize import resize_bicubic, resize_nearest
from colorize_jax.rng import stream
from colorize_jax.training.encoding import encode_parts
from colorize_jax.types import Array, Batch, Params

THRESHOLDS = (0.01, 0.99)  # of both masks
BLEACHED = (0.95, 1.0)  # greys of a bleached background
PAPER, WHITE = -1.0, 1.0  # of a sketch, of a picture


@flax.struct.dataclass
class CutRandomness:
    """The random numbers of `cut`.

    Attributes:
        sketch_threshold: (B,) above it the sketch's mask is figure.
        reference_threshold: (B,) above it the reference's mask is.
        bleach: (B,) whether the sample learns a white background.
        bleach_value: (B,) grey of its background reference.
    """

    sketch_threshold: Array
    reference_threshold: Array
    bleach: Array
    bleach_value: Array


@flax.struct.dataclass
class Cut:
    """A batch of the second stage.

    Attributes:
        batch: its image is the target, its sketch blank outside the figure.
        background: (B, H', W', 3) reference without its figure.
    """

    batch: Batch
    background: Array


@flax.struct.dataclass
class Background:
    """The frozen encoders' outputs for a background, and the masks that place it.

    Attributes:
        tokens: CLIP's (B, S1, C1) and the tagger's (B, S2, C2).
        latents: (B, h, w, C) stretched to the picture's size.
        sketch_mask: (B, h, w, 1) the encoder's view of the figure.
        reference_mask: (B, h, w, 1) its view of the reference's figure.
        region: (B, h, w, 1) figure, as attention sees it.
        crop: (B, 4) top, left, height, width of the picture, as shares of the reference.
    """

    tokens: tuple[Array, Array]
    latents: Array
    sketch_mask: Array
    reference_mask: Array
    region: Array
    crop: Array


def draw(key: Array, step: Array | int, batch: Batch, bleach_rate: float) -> CutRandomness:
    """Draw the random numbers of `cut` in step `step`, for the global batch."""
    count = batch.sketch.shape[:1]

    def uniform(name: str, low: float, high: float) -> Array:
        return jax.random.uniform(stream(key, step, name), count, minval=low, maxval=high)

    return CutRandomness(
        sketch_threshold=uniform("sketch_threshold", *THRESHOLDS),
        reference_threshold=uniform("reference_threshold", *THRESHOLDS),
        bleach=jax.random.bernoulli(stream(key, step, "bleach"), bleach_rate, count),
        bleach_value=uniform("bleach_value", *BLEACHED),
    )


def cut(batch: Batch, random: CutRandomness) -> Cut:
    """Separate figures from backgrounds.

    Raises:
        UserError: the batch has no masks, or latents and tokens in the place of pictures.
    """
    needed = ("image", "reference", "sketch_mask", "reference_mask")
    missing = [name for name in needed if getattr(batch, name) is None]
    if missing:
        raise UserError(
            f"got pictures without {', '.join(missing)} for the second stage, which parts figures "
            "from backgrounds, expected pictures and the masks of both; add a folder mask/ with "
            "foregrounds in white, or let them be estimated"
        )

    def per_sample(x: Array) -> Array:
        return x[:, None, None, None]

    bleach = per_sample(random.bleach) > 0
    figure = batch.sketch_mask > per_sample(random.sketch_threshold)
    reference_figure = batch.reference_mask > per_sample(random.reference_threshold)
    behind = jnp.where(reference_figure, WHITE, batch.reference)
    return Cut(
        batch.replace(
            image=jnp.where(bleach & ~figure, WHITE, batch.image),
            sketch=jnp.where(figure, batch.sketch, PAPER),
        ),
        jnp.where(bleach, per_sample(random.bleach_value), behind),
    )


def encode(
    encoders: FrozenEncoders, params: Params, parts: Cut, key: Array | None, count: int = 1
) -> Background:
    """Encode backgrounds.

    Args:
        encoders: autoencoder and reference encoders.
        params: of them.
        parts: B samples.
        key: draws from the autoencoder's posterior; None takes its mean.
        count: number of micro-batches, see `encode_parts`.
    """
    batch = parts.batch
    height, width = batch.image.shape[1:3]
    cell = encoders.autoencoder.pixels_per_latent
    stretched = resize_bicubic(parts.background, height, width)
    crop = batch.crop
    if crop is None:  # the picture shows all of its reference
        crop = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0, 1.0]), (batch.image.shape[0], 4))
    pictures = Batch(
        batch.sketch, batch.size, batch.aesthetic_score, stretched, reference=parts.background
    )
    encoded = encode_parts(encoders, params, pictures, key, count)
    return Background(
        tokens=(encoded.clip_tokens, encoded.tagger_tokens),
        latents=encoded.latents,
        **view_masks(batch.sketch_mask, batch.reference_mask, height // cell, width // cell),
        crop=crop,
    )


def view_masks(
    sketch_mask: Array, reference_mask: Array, height: int, width: int
) -> dict[str, Array]:
    """Resize masks (B, H, W, 1) to the latents' size, each as the network that reads it expects."""
    return {
        "sketch_mask": resize_nearest(sketch_mask, height, width),
        "reference_mask": resize_bicubic(reference_mask, height, width),
        "region": resize_bicubic(sketch_mask, height, width),
    }


def make_controls(unet: UNet, encoder: UNet, params: Params, background: Background) -> Controls:
    """Controls of a forward whose context has tokens of the reference and of the background."""
    bank = encode_bank(
        encoder,
        params["background_encoder"],
        background.latents,
        background.sketch_mask,
        background.reference_mask,
        crop_embedding(background.crop, encoder.vector_channels),
    )
    projected = unet.apply({"params": params["unet"]}, bank, method="project_banks")
    return Controls(
        regions=Regions(background.region),
        banks={name: Bank(kv, background.region) for name, kv in projected.items()},
    )
