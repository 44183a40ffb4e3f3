"""From a `Config` to its frozen encoders."""

import jax
import jax.numpy as jnp

from colorize_jax.conditioning import FrozenEncoders
from colorize_jax.config.options import Config
from colorize_jax.models.architectures import build, published_config
from colorize_jax.models.frozen.patch import PatchAutoencoder, PatchReferenceEncoder
from colorize_jax.training.encoding import encodings
from colorize_jax.types import Batch


def build_encoders(config: Config) -> FrozenEncoders:
    """Build the frozen encoders; CLIP and tagger are both patch encoders where patches are asked.

    Raises:
        UserError: patches do not divide the picture.
    """
    encoders, dtype = config.encoders, jnp.dtype(config.encoders.dtype)
    # Kernels of other shapes than the trained networks': one that these ask for need not take them.
    named = config.model.attention in ("cudnn", "splash")
    attention = {"implementation": "auto" if named else config.model.attention}
    if encoders.autoencoder == "patch":
        autoencoder = PatchAutoencoder(encoders.patch_size)
    else:
        autoencoder = build("vae", published_config("vae"), dtype=dtype).clone(**attention)
    if encoders.reference == "patch":
        clip = tagger = patch_encoder(config)
    else:
        clip = build("clip_vision", published_config("clip_vision"), dtype=dtype)
        clip = clip.clone(**attention)
        tagger = build("tagger", published_config("tagger"), dtype=dtype)
    return FrozenEncoders(autoencoder, clip, tagger, encoders.scaling_factor)


def abstract_encodings(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of what the encoders make of a batch, as a source of encodings returns it."""
    encoders, data = build_encoders(config), config.data
    size = (data.batch_size, data.height, data.width)
    batch = Batch(
        sketch=jnp.zeros((1,)),
        size=jnp.zeros((1,)),
        aesthetic_score=jnp.zeros((1,)),
        image=jax.ShapeDtypeStruct((*size, 3), jnp.float32),
        reference=jax.ShapeDtypeStruct((data.batch_size, 64, 64, 3), jnp.float32),
    )
    params = jax.eval_shape(lambda: encoders.init(jax.random.key(0)))
    found = jax.eval_shape(lambda p, b: encodings(encoders, p, b), params, batch)
    dtypes = {"moments": jnp.dtype("float32")}
    tokens = jnp.dtype(config.encoders.dtype)
    return {name: x.update(dtype=dtypes.get(name, tokens)) for name, x in found.items()}


def patch_encoder(config: Config) -> PatchReferenceEncoder:
    """Build the patch encoder, its channels padded to a multiple of the projection's head size.

    Raises:
        UserError: patches do not divide the picture.
    """
    encoders, head_dim = config.encoders, config.model.projection_head_dim
    encoder = PatchReferenceEncoder(
        image_size=encoders.reference_image_size,
        patch_size=encoders.reference_patch_size,
        features=encoders.reference_features,
        positions=encoders.positions,
        dtype=jnp.dtype(encoders.dtype),
    )
    return encoder.clone(channels=-(-encoder.feature_channels // head_dim) * head_dim)
