"""What networks see in results, truths and references: scores of pairs, features of sets."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.evaluation import agreement
from colorize_jax.evaluation.protocols.pairs import Kind, Pair
from colorize_jax.evaluation.protocols.scoring import Scores
from colorize_jax.inference.inputs import at_side
from colorize_jax.inference.pictures.arrays import to_array
from colorize_jax.inference.system import digest
from colorize_jax.models.frozen import inception, lpips
from colorize_jax.models.frozen.clip_vision import ClipVision
from colorize_jax.models.frozen.tagger import Tagger
from colorize_jax.types import Params
from data.records import resize

TRUTH = "truth"
# Features of Inception -> how pictures are resized for it, which changes the distance.
RESIZED = {
    "inception": jax.jit(inception.preprocess_fid),
    "clean": jax.jit(inception.preprocess_clean_fid),
}
TAG_THRESHOLD = 0.35  # of a tag that a picture has, the taggers' usual one


@dataclass(frozen=True)
class Judge:
    """A network that looks at pictures of one evaluation.

    Attributes:
        module: its Flax module.
        params: of it.
    """

    module: Any
    params: Params = field(repr=False)


class Judges:
    """The networks that are there; measures whose network is not are left out.

    Args:
        judges: "clip_vision", "tagger", "inception", "lpips" -> network.
    """

    def __init__(self, judges: Mapping[str, Judge]):
        self._judges = dict(judges)

    def fingerprint(self) -> dict[str, str]:
        """Tell these networks from others: name -> digest."""
        return {name: digest(judge.params) for name, judge in sorted(self._judges.items())}

    def __call__(
        self, pair: Pair, kinds: Mapping[str, Kind], results: Mapping[str, np.ndarray]
    ) -> tuple[Scores, dict[str, np.ndarray]]:
        """Look at the results (H, W, 3) uint8 of one pair.

        Returns:
            Scores: clip_KIND, cosine between result and reference; tags_KIND, F1 of their tags;
            lpips_KIND, against the truth where it is the answer. Features:
            inception_KIND and clean_KIND (2048,), by either way of resizing, clip_KIND (C,), and
            the same of the truth.
        """
        size = next(iter(results.values())).shape[:2]
        truth = resize(pair.truth, *size)
        scores: Scores = {}
        features: dict[str, np.ndarray] = {}
        if "inception" in self._judges:
            for name, preprocess in RESIZED.items():
                seen = self._inception([*results.values(), truth], preprocess)
                own = zip([*results, TRUTH], seen, strict=True)
                features |= {f"{name}_{kind}": value for kind, value in own}
        used = {name: pair.references[kinds[name].reference] for name in results}
        if "clip_vision" in self._judges:
            seen = self._clip([*results.values(), truth, *used.values()])
            own = dict(zip([*results, TRUTH], seen, strict=False))
            features |= {f"clip_{name}": value for name, value in own.items()}
            for name, other in zip(used, seen[len(own) :], strict=True):
                scores[f"clip_{name}"] = float(agreement.clip_similarity(own[name], other))
        if "tagger" in self._judges:
            seen = self._tags([*results.values(), *used.values()])
            for name, mine, other in zip(results, seen, seen[len(results) :], strict=False):
                f1, _ = agreement.tag_agreement(mine, other, TAG_THRESHOLD)
                scores[f"tags_{name}"] = float(f1)
        if "lpips" in self._judges and min(size) >= lpips.MIN_SIZE:
            answered = [name for name in results if kinds[name].answered]
            for name in answered:
                scores[f"lpips_{name}"] = self._lpips(results[name], truth)
        return scores, features

    def _inception(
        self, pictures: Sequence[np.ndarray], preprocess: Callable[[Any], Any]
    ) -> np.ndarray:
        judge = self._judges["inception"]
        return np.asarray(_apply(judge.module, None, judge.params, preprocess(np.stack(pictures))))

    def _clip(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        judge = self._judges["clip_vision"]
        return self._at_side(judge, pictures, _class_token)

    def _tags(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        judge = self._judges["tagger"]
        return self._at_side(judge, pictures, _probabilities)

    def _lpips(self, result: np.ndarray, truth: np.ndarray) -> float:
        judge = self._judges["lpips"]
        one, other = (jnp.asarray(to_array(picture))[None] for picture in (result, truth))
        return float(_apply(judge.module, None, judge.params, one, other)[0])

    def _at_side(
        self, judge: Judge, pictures: Sequence[np.ndarray], read: Callable[..., Any]
    ) -> np.ndarray:
        images = at_side([to_array(picture) for picture in pictures], judge.module.image_size)
        return np.asarray(_apply(judge.module, read, judge.params, images))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(module: Any, method: Callable[..., Any] | None, params: Params, *inputs: Any) -> Any:
    return module.apply({"params": params}, *inputs, method=method)


def _class_token(clip: ClipVision, images: jax.Array) -> jax.Array:
    """CLIP's embedding (B, C) of pictures of its side."""
    return clip.tokens(images)[:, 0].astype(jnp.float32)


def _probabilities(tagger: Tagger, images: jax.Array) -> jax.Array:
    """Tags' probabilities (B, num_classes) of pictures of the tagger's side."""
    return jax.nn.sigmoid(tagger(images[..., ::-1]).logits.astype(jnp.float32))
