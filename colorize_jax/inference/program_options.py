"""From `InferenceOptions` to the static and the traced options of the sampling loop."""

import jax.numpy as jnp
import numpy as np

from colorize_jax.config.method import PLUGIN_LORA
from colorize_jax.diffusion import samplers
from colorize_jax.errors import UserError
from colorize_jax.inference.denoiser import GuidanceScales
from colorize_jax.inference.options import MAX_STEPS, InferenceOptions, block_levels
from colorize_jax.inference.sampling import StaticOptions, TracedOptions
from colorize_jax.inference.system import System
from colorize_jax.models.frozen.patch import PatchReferenceEncoder

# A window of progress that is never reached.
NEVER = (2.0, 2.0)


def make_static_options(
    system: System, options: InferenceOptions, has_reference: bool = True
) -> StaticOptions:
    """The options that a sampling loop is compiled for; the system before anything is merged."""
    return StaticOptions(
        sampler=options.sampler,
        guide_reference=has_reference and options.reference_guidance > 1,
        guide_sketch=options.sketch_guidance > 1,
        split=options.splits_context,
        blend=bool(system.colorizer.unet.loras),
    )


def make_traced_options(system: System, options: InferenceOptions) -> TracedOptions:
    """The numbers of a loop, padded so that their shapes do not depend on the number of steps.

    Raises:
        UserError: strengths or additions that the model has no blocks for, or too many steps.
    """
    unet, schedule = system.colorizer.unet, system.schedule
    levels = block_levels(unet.transformer_depth, unet.num_res_blocks)
    excluded = options.no_guidance_window or NEVER
    scales = GuidanceScales(
        reference=_number(options.reference_guidance),
        sketch=_number(options.sketch_guidance),
        window=tuple(map(_number, options.guidance_window)),
        excluded=tuple(map(_number, excluded)),
    )
    hints = [options.sketch_strength * strength for strength in options.sketch_strengths]
    return TracedOptions(
        plan=samplers.make_plan(
            samplers.find_sampler(options.sampler),
            schedule,
            options.steps,
            options.schedule,
            max_steps=MAX_STEPS,
        ),
        scales=scales,
        block_strengths=jnp.asarray(options.block_scales(levels), jnp.float32),
        hint_strengths=jnp.asarray(hints, jnp.float32),
        foreground_strength=_number(options.foreground_strength),
        background_strength=_number(options.background_strength),
        merge=_number(options.merge),
        mask_threshold=_number(options.sketch_mask_threshold),
        fidelity=_number(options.injection_fidelity),
        color_hint_strength=_number(options.color_hint_strength),
        color_hint_reach=_number(options.color_hint_reach),
        color_hint_window=tuple(map(_number, options.color_hint_window)),
        lora_scales={name: _number(scale) for name, scale in lora_scales(system, options).items()},
    )


def lora_scales(system: System, options: InferenceOptions) -> dict[str, float]:
    """Scale of every low-rank addition of the model; the plugin's is off while the plugin is.

    Raises:
        UserError: a scale of an addition that the model does not have.
    """
    labels = [label for label, _ in system.colorizer.unet.loras]
    given = dict(options.lora_scales)
    unknown = [label for label in given if label not in labels]
    if unknown:
        raise UserError(
            f"got scales of the low-rank additions {', '.join(unknown)}, expected some of "
            f"{', '.join(labels) or 'none: the checkpoint has no additions'}; correct lora_scales"
        )
    default = {label: 1.0 for label in labels}
    if PLUGIN_LORA in default and not options.background_plugin:
        default[PLUGIN_LORA] = 0.0
    return default | given


def check_parts(system: System, options: InferenceOptions) -> None:
    """Raise UserError where a control needs what the checkpoint does not have."""
    if options.background_plugin and system.background_encoder is None:
        raise UserError(
            "got background_plugin, expected a checkpoint of the plugin model: this one has no "
            "background encoder; import the plugin file or drop the option"
        )
    unet = system.colorizer.unet
    if options.background_plugin and PLUGIN_LORA not in dict(unet.loras):
        raise UserError(
            "got background_plugin with a UNet that has none of the plugin's low-rank additions, "
            "expected the plugin's own UNet; name its checkpoint before the colorizer's"
        )
    if options.foreground_latent and not unet.foreground_channels:
        raise UserError(
            "got foreground_latent, expected a checkpoint of the plugin model: this UNet takes no "
            "foreground; import the plugin file and name it first, or drop the option"
        )
    followers(system, options)
    if options.text:
        _check_text(system)


def followers(system: System, options: InferenceOptions) -> tuple[bool, bool]:
    """Who follows hints of colour: the sketch encoder that takes them, the loop that they lead.

    Raises:
        UserError: the encoder should and takes none, or options are set of a loop that they do not
            lead.
    """
    able, method = system.colorizer.sketch_encoder.color_hints, options.color_hint_method
    if method in ("trained", "both") and not able:
        raise UserError(
            f"got color_hint_method {method} for a model that takes no hints, expected one of a "
            "run with model.hints=true; name its checkpoint, or drop the option"
        )
    encoder = able and method != "led"
    if method != "trained":
        return encoder, True
    names, plain = ("color_hint_reach", "color_hint_window"), InferenceOptions()
    set_ones = [name for name in names if getattr(options, name) != getattr(plain, name)]
    if set_ones:
        raise UserError(
            f"got {', '.join(set_ones)} with color_hint_method trained, which leads nothing; "
            "expected led or both, or no such option; change the method or drop it"
        )
    return True, False


def _check_text(system: System) -> None:
    """Texts and references must be encoded by the two towers of the same CLIP."""
    clip, tower = system.encoders.clip, system.clip_text
    if isinstance(clip, PatchReferenceEncoder):
        raise UserError(
            "got text for a model whose references are encoded without CLIP, expected one that "
            "reads them with CLIP; drop the option"
        )
    if tower is None:
        raise UserError(
            "got text, expected checkpoints with clip_text too; import a CLIP folder that has the "
            "text tower (text_model and text_projection) and name it with --checkpoint as well"
        )
    if tower.projection_dim != clip.projection_dim:
        raise UserError(
            f"got a text tower of {tower.projection_dim} channels and a vision tower of "
            f"{clip.projection_dim}, expected both of one CLIP; name its weights first"
        )


def _number(value: float) -> np.ndarray:
    return np.float32(value)
