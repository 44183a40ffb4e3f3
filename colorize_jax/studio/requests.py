"""The body of a request to colour: multipart, or JSON with pictures in base64."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from colorize_jax.errors import UserError, nearest
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pictures.arrays import Picture
from colorize_jax.studio.schema import Schema, options_schema
from colorize_jax.studio.several import factors_schema
from colorize_jax.studio.uploads import ROLES, UploadLimits, read_upload

FIELDS = (*ROLES, "factors", "options", "wait")
MULTIPART, JSON = "multipart/form-data", "application/json"


@dataclass(frozen=True)
class ColorizeRequest:
    """What a client asks for.

    Attributes:
        pictures: role -> picture.
        options: those that the client names, over the model's own.
        factors: of each reference, see `several.read_scene`.
        wait: whether the answer is the picture, or the job at once.
    """

    pictures: dict[str, Picture]
    options: InferenceOptions
    factors: tuple[Any, ...] = ()
    wait: bool = True


async def read_request(
    request: Request, defaults: InferenceOptions, limits: UploadLimits
) -> ColorizeRequest:
    """Read a request's body.

    Args:
        request: of either content type.
        defaults: the model's own options.
        limits: of pictures.

    Raises:
        UserError: bad input.
        HTTPException: another content type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == MULTIPART:
        files, rest = await _read_form(request)
    elif kind == JSON:
        files, rest = _read_json(await request.body())
    else:
        raise HTTPException(415, f"got content type {kind[:60]!r}, expected {MULTIPART} or {JSON}")
    options = InferenceOptions.from_dict({**defaults.to_dict(), **rest.get("options", {})})
    wait = rest.get("wait", True)
    if not isinstance(wait, bool):
        raise UserError(f"got wait {str(wait)[:60]!r}, expected true or false; change it")
    pictures = {
        role: await run_in_threadpool(read_upload, content, role, limits)
        for role, content in files.items()
    }
    factors = rest.get("factors", [])
    if not isinstance(factors, list):
        raise UserError("got factors that are no list, expected one of an object a reference")
    return ColorizeRequest(pictures, options, tuple(factors), wait)


async def _read_form(request: Request) -> tuple[dict[str, bytes], dict[str, Any]]:
    files: dict[str, bytes] = {}
    rest: dict[str, Any] = {}
    try:
        async with request.form(max_files=len(ROLES), max_fields=len(FIELDS)) as form:
            for name, value in form.multi_items():
                _check_name(name)
                if name in files or name in rest:
                    raise UserError(f"got {name} twice, expected it once; drop one")
                if name in ROLES:
                    files[name] = await _file(value, name)
                else:
                    rest[name] = _field(value, name)
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise UserError(f"got a form that cannot be read ({error.detail}), expected one") from error
    return files, rest


async def _file(value: Any, name: str) -> bytes:
    if not isinstance(value, UploadFile):
        raise UserError(f"got {name} as text, expected a file; send it with a filename")
    return await value.read()


def _field(value: Any, name: str) -> Any:
    if isinstance(value, UploadFile):
        raise UserError(f"got {name} as a file, expected text; send it without a filename")
    if name == "options":
        return _object(_parsed(value, name), name)
    if name == "factors":
        return _parsed(value, name)
    return {"true": True, "false": False}.get(value.lower(), value)


def _read_json(body: bytes) -> tuple[dict[str, bytes], dict[str, Any]]:
    content = _object(_parsed(body, "body"), "body")
    files: dict[str, bytes] = {}
    for name, value in content.items():
        _check_name(name)
        if name in ROLES and value is not None:
            files[name] = _decoded(value, name)
    rest = {name: content[name] for name in ("factors", "options", "wait") if name in content}
    if "options" in rest:
        _object(rest["options"], "options")
    return files, rest


def _check_name(name: str) -> None:
    if name not in FIELDS:
        raise UserError(
            f'got unknown field "{name[:60]}", expected e.g. "{nearest(name, FIELDS)}" (the '
            "nearest); rename it"
        )


def _parsed(text: str | bytes, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        detail = " ".join(str(error).split())[:120]
        raise UserError(f"got {name} that is no JSON ({detail}), expected an object") from error


def _object(content: Any, name: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"got {name} that is a {type(content).__name__}, expected an object")
    return content


def _decoded(value: Any, name: str) -> bytes:
    """Read base64, with or without the head of a data URL."""
    if not isinstance(value, str):
        raise UserError(f"got {name} that is a {type(value).__name__}, expected base64; encode it")
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"got {name} that is no base64, expected some; encode it") from error


def body_schema() -> Schema:
    """Both bodies, for the description of the API."""
    options = {name: value for name, value in options_schema().items() if name != "$schema"}
    picture = {"type": "string", "contentEncoding": "base64"}
    file = {"type": "string", "format": "binary"}
    as_text = {"type": "string", "contentMediaType": JSON, "description": "options as JSON"}
    wait = {"type": "boolean", "default": True}
    factors_text = {**as_text, "description": "factors as JSON"}

    def body(one: Schema, options: Schema, factors: Schema) -> Schema:
        own = {"factors": factors, "options": options, "wait": wait}
        properties = {**dict.fromkeys(ROLES, one), **own}
        return {
            "schema": {
                "type": "object",
                "properties": properties,
                "required": ["sketch"],
                "additionalProperties": False,
            }
        }

    as_json = body(picture, options, factors_schema())
    content = {MULTIPART: body(file, as_text, factors_text), JSON: as_json}
    return {"required": True, "content": content}
