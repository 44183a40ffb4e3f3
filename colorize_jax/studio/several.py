"""The references of a request: one, or several by region."""

from collections.abc import Mapping, Sequence
from typing import Any

from colorize_jax.errors import UserError, nearest
from colorize_jax.inference.controls.scenes import RegionReference, Scene
from colorize_jax.inference.inputs import ReferenceLike
from colorize_jax.inference.pictures.arrays import Picture
from colorize_jax.studio.schema import Schema
from colorize_jax.studio.uploads import REFERENCES, REGIONS

FACTORS = ("weight", "strength")


def read_scene(
    pictures: Mapping[str, Picture], factors: Sequence[Any] = ()
) -> ReferenceLike | None:
    """What a picture takes its colours from.

    Args:
        pictures: role of `uploads.ROLES` -> picture.
        factors: of each reference in turn an object with some of `FACTORS`, see `RegionReference`.

    Returns:
        The one reference, all of them as a scene, or None: there is none.

    Raises:
        UserError: regions or factors that belong to no reference, or factors that are none.
    """
    given = [name for name in REFERENCES if name in pictures]
    if len(factors) > len(given):
        raise UserError(
            f"got factors of {len(factors)} references, expected at most {len(given)}, as many as "
            "there are; drop some"
        )
    for reference, region in zip(REFERENCES, REGIONS, strict=True):
        if region in pictures and reference not in pictures:
            raise UserError(f"got {region} without {reference}, expected both; send both")
    if given and given[0] != REFERENCES[0]:
        raise UserError(f"got {given[0]} without reference, expected that first; rename it")
    if given in ([], [REFERENCES[0]]) and REGIONS[0] not in pictures and not factors:
        return pictures.get(REFERENCES[0])
    named = [_checked(one) for one in factors] + [{}] * (len(given) - len(factors))
    return Scene(
        tuple(
            RegionReference(pictures[name], pictures.get(_region(name)), **own)
            for name, own in zip(given, named, strict=True)
        )
    )


def _region(reference: str) -> str:
    return REGIONS[REFERENCES.index(reference)]


def _checked(factors: Any) -> dict[str, float]:
    if not isinstance(factors, Mapping):
        raise UserError(
            f"got factors {str(factors)[:60]} of a reference, expected an object with some of "
            f"{', '.join(FACTORS)}; correct it"
        )
    for name in factors:
        if name not in FACTORS:
            raise UserError(
                f'got factor "{str(name)[:60]}" of a reference, expected e.g. '
                f'"{nearest(str(name), FACTORS)}" (the nearest); rename it'
            )
    return dict(factors)


def factors_schema() -> Schema:
    """Of the request's field."""
    factor = {"type": "number", "minimum": 0, "maximum": 100, "default": 1}
    one = {
        "type": "object",
        "properties": dict.fromkeys(FACTORS, factor),
        "additionalProperties": False,
    }
    return {"type": "array", "items": one, "maxItems": len(REFERENCES)}
