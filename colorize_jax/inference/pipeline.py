"""From any sketch and any reference to a picture.

    pipeline = open_pipeline("weights")  # of colorize_jax.setup.checkpoints
    pictures = pipeline("sketch.png", "reference.jpg", InferenceOptions(steps=30, seed=1))

Preprocess, encode, denoise, decode: the host prepares arrays (`inputs`), and the device runs a few
compiled programs (`programs`), which this module calls.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from colorize_jax.diffusion.samplers import find_sampler
from colorize_jax.errors import UserError
from colorize_jax.inference import inputs as host
from colorize_jax.inference import programs
from colorize_jax.inference.controls import hints
from colorize_jax.inference.controls.scenes import latent_weights
from colorize_jax.inference.inputs import (
    BUILT_IN,
    Extractors,
    HintsLike,
    PictureInputs,
    PictureLike,
    ReferenceInputs,
    ReferenceLike,
)
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pictures.preprocess import to_pictures
from colorize_jax.inference.pictures.tiles import decode_tiled
from colorize_jax.inference.program_options import (
    check_parts,
    followers,
    lora_scales,
    make_static_options,
    make_traced_options,
)
from colorize_jax.inference.sampling import SamplingInputs
from colorize_jax.inference.system import Networks, System
from colorize_jax.inference.text.texts import Texts
from colorize_jax.nn.lora import merge_loras
from colorize_jax.types import Array, Params

# (evaluations done, clean latents (B, h, w, C) as expected, gone at the next, how many in all)
Watch = Callable[[int, Array, int | None], None]


class ColorizePipeline:
    """Colours sketches; keeps loaded networks and compiled programs from call to call.

    Attributes:
        networks: their parameters, loaded when they are needed.
        system: the modules.
        defaults: options for calls that name none.
    """

    def __init__(
        self,
        networks: Networks,
        extractors: Extractors = BUILT_IN,
        tokenizer: str | Path | None = None,
    ):
        """Use networks that are opened, extractors, and the folder of CLIP's tokenizer."""
        self.networks, self._extractors = networks, extractors
        self._texts = Texts(tokenizer, networks.system.clip_text, self._embed)
        self._merged: tuple[dict[str, float], Params] | None = None
        self.system, self.defaults = networks.system, networks.defaults

    def __call__(
        self,
        sketch: PictureLike | Sequence[PictureLike],
        reference: ReferenceLike | Sequence[ReferenceLike] | None = None,
        options: InferenceOptions | None = None,
        *,
        sketch_mask: PictureLike | Sequence[PictureLike] | None = None,
        reference_mask: PictureLike | Sequence[PictureLike] | None = None,
        background: PictureLike | Sequence[PictureLike] | None = None,
        color_hints: HintsLike | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Image.Image]:
        """Colour sketches.

        Args:
            sketch: a path, PIL picture or array, or a sequence of them (also one array with a
                leading axis).
            reference: likewise; one serves all sketches, and one sketch serves all references. A
                `Scene` is several references of one picture.
            options: every control; by default what the checkpoint suggests.
            sketch_mask: foreground of the sketch, for each where there are several.
            reference_mask: foreground of the reference, likewise.
            background: in the place of the references' own, one for all or for each.
            color_hints: of all sketches, see `hints.read_hints`.
            seeds: one for each picture; by default the options' seed for all.

        Returns:
            One RGB picture for each sketch or reference.

        Raises:
            UserError: bad input.
        """
        options = (options or self.defaults).with_seed()
        pictures = self._read_all(
            sketch, reference, options, sketch_mask, reference_mask, background, color_hints
        )
        seeds = [options.seed] * len(pictures) if seeds is None else list(seeds)
        host.check_seeds(seeds, len(pictures))
        by_size: dict[tuple[int, ...], list[int]] = {}
        for i, picture in enumerate(pictures):
            by_size.setdefault(picture.sketch.tensor.shape, []).append(i)
        results: dict[int, Image.Image] = {}
        for rows in by_size.values():
            made = self.color([pictures[i] for i in rows], options, [seeds[i] for i in rows])
            results |= zip(rows, made, strict=True)
        return [results[i] for i in range(len(pictures))]

    # ---------------------------------------------------------------------------- preprocessing

    def read_reference(
        self,
        reference: ReferenceLike | None,
        options: InferenceOptions,
        mask: PictureLike | None = None,
        background: PictureLike | None = None,
    ) -> ReferenceInputs | None:
        """Read what pictures take their colours from; None where they are made without.

        Raises:
            UserError: it is unreadable, or missing and not `options.unconditional`.
        """
        host.check_reference(reference, options)
        check_parts(self.system, options)
        self._texts.tokenize(options.text)
        if options.unconditional:
            return None
        return host.read_reference(reference, options, mask, self._extractors, background)

    def check(self, options: InferenceOptions) -> None:
        """Raise UserError for options that no picture of this checkpoint can be made with."""
        check_parts(self.system, options)
        make_traced_options(self.system, options)
        self._texts.tokenize(options.text)

    def read_sketch(
        self,
        sketch: PictureLike,
        reference: ReferenceInputs | None,
        options: InferenceOptions,
        mask: PictureLike | None = None,
        color_hints: HintsLike | None = None,
    ) -> PictureInputs:
        """Read a sketch that will take its colours from a reference that is read.

        Raises:
            UserError: it is unreadable, or its size is out of range.
        """
        return host.read_sketch(
            sketch, reference, self.system, options, mask, self._extractors, color_hints
        )

    def _read_all(
        self,
        sketch: Any,
        reference: Any,
        options: InferenceOptions,
        mask: Any,
        reference_mask: Any,
        background: Any,
        color_hints: HintsLike | None,
    ) -> list[PictureInputs]:
        sketches, masks = host.sequence(sketch), host.paired(mask, sketch, "sketch masks")
        references = host.sequence(reference)
        reference_masks = host.paired(reference_mask, reference, "reference masks")
        backgrounds = host.sequence(background)
        if len(backgrounds) == 1:
            backgrounds *= len(references)
        backgrounds = host.paired(backgrounds, reference, "backgrounds")
        read = [
            self.read_reference(r, options, m, b)
            for r, m, b in zip(references, reference_masks, backgrounds, strict=True)
        ]
        count = max(len(sketches), len(read))
        if not {len(sketches), len(read)} <= {1, count}:
            raise UserError(
                f"got {len(sketches)} sketches and {len(read)} references, expected as many of "
                "both, or one of either"
            )
        if len(sketches) == 1:
            sketches, masks = sketches * count, masks * count
        read = read * count if len(read) == 1 else read
        return [
            self.read_sketch(s, r, options, m, color_hints)
            for s, r, m in zip(sketches, read, masks, strict=True)
        ]

    # -------------------------------------------------------------------------------- colouring

    def color(
        self,
        pictures: Sequence[PictureInputs],
        options: InferenceOptions,
        seeds: Sequence[int],
        watch: Watch | None = None,
    ) -> list[Image.Image]:
        """Colour pictures of one size.

        Args:
            pictures: read with the same options.
            options: the controls.
            seeds: one for each picture, 0..2^32 - 1.
            watch: see `denoise`.
        """
        with self.networks.on_devices():
            inputs = self.condition(pictures, options, seeds)
            if options.low_memory:
                inputs = jax.block_until_ready(inputs)
                self.networks.free_all_but("unet")
            latents = self.denoise(inputs, options, watch)
            if options.low_memory:
                latents = jax.block_until_ready(latents)
                self.networks.free("unet")
                self._merged = None
            images = self.decode(latents, options)
        boxes = [p.sketch.box if options.crop_to_sketch else p.sketch.frame for p in pictures]
        return [
            to_pictures(box.crop(image)[None])[0] for box, image in zip(boxes, images, strict=True)
        ]

    def condition(
        self, pictures: Sequence[PictureInputs], options: InferenceOptions, seeds: Sequence[int]
    ) -> SamplingInputs:
        """Run everything that runs once a picture; arguments as for `color`."""
        system, batch = self.system, len(pictures)
        check_parts(system, options)
        sketches = np.stack([picture.sketch.tensor for picture in pictures])
        frame = pictures[0].sketch.frame
        size = np.full(batch, (frame.height * frame.width) ** 0.5, np.float32)
        params = self.networks.params("sketch_encoder")
        blank = None
        if options.sketch_guidance > 1:
            blank = programs.encode_blank(system, params, *sketches.shape[1:3])
        masks = None
        if pictures[0].mask is not None:
            masks = host.latent_mask(np.stack([p.mask for p in pictures]), system.cell)
        taken, leading = self._color_hints(pictures, options)
        inputs = SamplingInputs(
            keys=jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32)),
            vector=system.colorizer.vector(size, np.full(batch, options.aesthetic_score)),
            hints=programs.encode_sketches(system, params, sketches, taken),
            blank_hints=blank,
            sketch_mask=masks,
            color_hints=leading,
        )
        if pictures[0].reference is None:
            return inputs
        references = host.unique_references(pictures)
        scenes = [None if p.weights is None else (p.weights, p.reference.scene) for p in pictures]
        found = latent_weights(scenes, system.cell)
        if found is not None:
            inputs = inputs.replace(region_weights=found[0], region_strengths=found[1])
        inputs = inputs.replace(context=self._context(references, options, batch))
        return self._with_latents(inputs, references, options, sketches.shape[1:3])

    def _color_hints(
        self, pictures: Sequence[PictureInputs], options: InferenceOptions
    ) -> tuple[np.ndarray | None, hints.Hints | None]:
        """The hints of a batch for the sketch encoder, and those that lead the loop."""
        found, shape = [p.color_hints for p in pictures], pictures[0].sketch.tensor.shape[:2]
        if all(one is None for one in found):
            return None, None
        encoder, loop = followers(self.system, options)
        taken = options.color_hint_strength * hints.stack_hints(found, shape) if encoder else None
        if not loop:
            return taken, None
        return taken, hints.make_hints(found, shape, self.system.cell, self.color_map)

    @cached_property
    def color_map(self) -> hints.ColorMap:
        """The linear map from latents to colours, fitted to the autoencoder."""
        encode = partial(programs.encode_images, self.system, self.networks.params("vae"))
        return hints.fit_color_map(encode, self.system.cell)

    def _context(
        self, references: Sequence[ReferenceInputs], options: InferenceOptions, batch: int
    ) -> Array:
        """(B, S, C) tokens of references, those of a scene one after another, then of backgrounds.

        Where pictures have different numbers of references, the last is repeated: nothing reads it.
        """
        encoders, directions = self.system.encoders, self._texts.directions(options.text)
        params = self.networks.params("clip_vision", "tagger", "reference_projection")

        def encode(images: Sequence[np.ndarray]) -> Array:
            sides = (encoders.clip.image_size, encoders.tagger.image_size)
            resized = (host.at_side(images, side) for side in sides)
            return programs.encode_references(self.system, params, *resized, directions)

        count = max(len(reference.all_images) for reference in references)
        images = [reference.all_images for reference in references]
        context = jnp.concatenate(
            [encode([own[min(k, len(own) - 1)] for own in images]) for k in range(count)], axis=1
        )
        if options.splits_context:
            backgrounds = [reference.background.image for reference in references]
            context = jnp.concatenate([context, encode(backgrounds)], axis=1)
        return jnp.broadcast_to(context, (batch, *context.shape[1:]))

    def _embed(self, ids: list[int]) -> np.ndarray:
        """Embedding (C,) of a text's tokens by CLIP's text tower."""
        params = self.networks.params("clip_text")
        return np.asarray(programs.encode_texts(self.system, params, np.int32([ids]))[0])

    def _with_latents(
        self,
        inputs: SamplingInputs,
        references: Sequence[ReferenceInputs],
        options: InferenceOptions,
        size: tuple[int, int],
    ) -> SamplingInputs:
        """Add what the controls take from the reference's own pixels."""
        batch = inputs.keys.shape[0]

        def latents(images: Sequence[np.ndarray], fit: Any = host.on_canvas) -> Array:
            canvas = np.stack([fit(image, *size) for image in images])
            encoded = programs.encode_images(self.system, self.networks.params("vae"), canvas)
            return jnp.broadcast_to(encoded, (batch, *encoded.shape[1:]))

        images = [reference.image for reference in references]
        if options.attention_injection:
            inputs = inputs.replace(injected=latents(images))
        if options.background_latent_copy:
            inputs = inputs.replace(background=latents(images))
        if options.foreground_latent:
            foregrounds = [host.foreground_of(reference, options) for reference in references]
            inputs = inputs.replace(foreground=latents(foregrounds))
        if not options.background_plugin:
            return inputs
        backgrounds = [reference.background for reference in references]
        masks = np.stack([host.stretch(b.mask[..., None], *size)[..., 0] for b in backgrounds])
        masks = host.latent_mask(masks, self.system.cell)
        bank = programs.encode_background(
            self.system,
            self.networks.params("background_encoder"),
            latents([b.image for b in backgrounds], host.stretch),
            inputs.sketch_mask,
            np.broadcast_to(masks, inputs.sketch_mask.shape),
            host.stack([host.crop_shares(b.image, *size) for b in backgrounds], batch),
        )
        return inputs.replace(bank=bank)

    def denoise(
        self, inputs: SamplingInputs, options: InferenceOptions, watch: Watch | None = None
    ) -> Array:
        """Run the loop: scaled latents (B, h, w, C) of conditioned pictures.

        Args:
            inputs: of the pictures.
            options: the controls.
            watch: called after every evaluation of the UNet; what it raises ends the loop there.
        """
        traced = make_traced_options(self.system, options)
        system, params = self._unet(options)
        if options.merge_loras:
            traced = traced.replace(lora_scales={})
        if options.low_memory:
            system = programs.in_loops(system)
        static = make_static_options(self.system, options, inputs.context is not None)
        arguments = (system, static, params, inputs, traced)
        if watch is None:
            return programs.denoise(*arguments)
        evaluations = find_sampler(options.sampler).evaluations
        total = evaluations and evaluations(int(traced.plan.num_steps))
        return programs.denoise_by_steps(*arguments, lambda *now: watch(*now, total))

    def _unet(self, options: InferenceOptions) -> tuple[System, Params]:
        """The UNet as options want it: with its low-rank additions beside the kernels or inside."""
        if not options.merge_loras:
            self._merged = None
            return self.system, self.networks.params("unet")
        scales = lora_scales(self.system, options)
        if self._merged is None or self._merged[0] != scales:
            self._merged = scales, merge_loras(self.networks.params("unet"), scales)
            # Only one copy of the largest network is kept in memory.
            self.networks.free("unet")
        return programs.without_loras(self.system), self._merged[1]

    def decode(self, latents: Array, options: InferenceOptions) -> np.ndarray:
        """Decode scaled latents (B, h, w, C) to images (B, H, W, 3) in [-1, 1]."""
        params = self.networks.params("vae")

        def decode(part: Array) -> Array:
            return programs.decode(self.system, params, part)

        if options.tiled_decode:
            return decode_tiled(decode, np.asarray(latents), self.system.cell)
        return np.asarray(decode(latents))
