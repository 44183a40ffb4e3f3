"""What the API says about itself: shared parts of its OpenAPI description, and a page of it.

The page is one file without scripts, so that it needs no other machine.
"""

import html
import json
from typing import Any

from colorize_jax.studio.journal import STATUSES

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
_MEANINGS = {
    400: "bad input",
    401: "no key, or a wrong one",
    403: "a host or an origin that is not allowed",
    404: "no such job",
    413: "too many bytes",
    415: "a content type that is not read",
    429: "too many requests",
    500: "the server failed",
    503: "busy, closing, or the picture is too large for the device",
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    code: {"description": meaning, "content": {"application/json": {"schema": _ERROR}}}
    for code, meaning in _MEANINGS.items()
}


def job_schema() -> dict[str, Any]:
    """A job, as `GET /v1/jobs/ID` tells it."""
    text, moment = {"type": ["string", "null"]}, {"type": ["number", "null"]}
    count = {"type": ["integer", "null"]}
    properties = {
        "id": {"type": "string"},
        "status": {"type": "string", "enum": list(STATUSES)},
        "options": {"type": "object"},
        "seed": {"type": "integer"},
        "place": count | {"description": "in the queue, 1 is next"},
        "steps_done": {"type": "integer", "description": "evaluations of the UNet"},
        "steps": count | {"description": "of how many, once it is known"},
        "created": {"type": "number", "description": "seconds since 1970"},
        "started": moment,
        "finished": moment,
        "error": text,
        "error_kind": text,
        "warning": text,
        "picture": text | {"description": "where the picture is, once it is done"},
        "preview": text | {"description": "a small PNG as a data URL, while steps run"},
    }
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"schema": schema}


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>colorize-jax: API</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ text-align: left; vertical-align: top; padding: .3rem .6rem; border-top: 1px solid #ccc }}
code {{ overflow-wrap: anywhere }}
</style>
<h1>colorize-jax: API</h1>
<p>Described for programs in <a href="/openapi.json">openapi.json</a>.</p>
<table><tr><th>request<th>what it does<th>answers</tr>{requests}</table>
<h2>Options</h2>
<table><tr><th>option<th>meaning<th>allowed<th>default</tr>{options}</table>
"""


def docs_page(openapi: dict[str, Any], options: dict[str, Any]) -> str:
    """Lay the description of the API out as a page.

    Args:
        openapi: the application's own description.
        options: `schema.options_schema`.
    """
    requests = []
    for path, methods in openapi["paths"].items():
        for method, one in methods.items():
            answers = ", ".join(
                f"{code} {answer['description']}" for code, answer in one["responses"].items()
            )
            cells = (_code(f"{method.upper()} {path}"), html.escape(one.get("summary", "")))
            requests.append(_row(*cells, html.escape(answers)))
    rows = []
    for name, one in options["properties"].items():
        allowed = {k: v for k, v in one.items() if k not in ("description", "default")}
        meaning = html.escape(one["description"])
        default = _code(json.dumps(one["default"]))
        rows.append(_row(_code(name), meaning, _code(json.dumps(allowed)), default))
    return _PAGE.format(requests="".join(requests), options="".join(rows))


def _code(text: str) -> str:
    return f"<code>{html.escape(text)}</code>"


def _row(*cells: str) -> str:
    return "<tr>" + "".join(f"<td>{cell}" for cell in cells) + "</tr>"
