"""A client of `python -m colorize_jax studio`; it needs neither JAX nor anything but Python.

client = Client("http://127.0.0.1:7860")
png = client.colorize("sketch.png", "reference.jpg", {"steps": 30, "seed": 1})

job = client.submit("sketch.png", "reference.jpg")
for told in client.events(job["id"]):
    print(told["status"], told["steps_done"], told["steps"])
png = client.picture(job["id"])
"""

import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# A file, or its content.
PictureFile = str | Path | bytes


class ServerError(Exception):
    """The server refused, or could not be reached.

    Attributes:
        status: of HTTP; 0 where there was no answer.
    """

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status


class Client:
    """Asks one server."""

    def __init__(
        self, url: str = "http://127.0.0.1:7860", key: str | None = None, timeout: float = 600.0
    ):
        """Remember where the server is.

        Args:
            url: as the server prints it.
            key: where the server wants one.
            timeout: for an answer, seconds.
        """
        self._url, self._key, self._timeout = url.rstrip("/"), key, timeout

    def colorize(
        self,
        sketch: PictureFile,
        reference: PictureFile | None = None,
        options: Mapping[str, Any] | None = None,
        factors: Sequence[Mapping[str, float]] = (),
        **others: PictureFile,
    ) -> bytes:
        """Colour a sketch and wait for the picture.

        Args:
            sketch: what to colour.
            reference: what to take the colours from.
            options: names and values; `options_schema` says which there are.
            factors: of several references, "weight" against each other and "strength" of each.
            others: sketch_mask, reference_mask, background; color_hints, transparent but for them;
                reference_2 to reference_4 and, white where in the sketch a reference counts, region
                and region_2 to region_4.

        Returns:
            A PNG that carries its options.

        Raises:
            ServerError: the server says why not.
            OSError: a file cannot be read.
        """
        return self._send(sketch, reference, options, factors, others, wait=True)

    def submit(
        self,
        sketch: PictureFile,
        reference: PictureFile | None = None,
        options: Mapping[str, Any] | None = None,
        factors: Sequence[Mapping[str, float]] = (),
        **others: PictureFile,
    ) -> dict[str, Any]:
        """Queue a picture; arguments as for `colorize`. Returns the job, with its "id"."""
        return json.loads(self._send(sketch, reference, options, factors, others, wait=False))

    def job(self, job_id: str) -> dict[str, Any]:
        """What becomes of a job."""
        return json.loads(self._ask("GET", f"/v1/jobs/{job_id}"))

    def events(self, job_id: str) -> Iterator[dict[str, Any]]:
        """Yield a job whenever something about it has changed, until it is finished."""
        with self._open("GET", f"/v1/jobs/{job_id}/events") as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))

    def picture(self, job_id: str) -> bytes:
        """The PNG of a job that is done."""
        return self._ask("GET", f"/v1/jobs/{job_id}/picture")

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job: at once where it waits, else after the step that runs."""
        return json.loads(self._ask("DELETE", f"/v1/jobs/{job_id}"))

    def options_schema(self) -> dict[str, Any]:
        """Every option with its range, its default and its meaning, as JSON Schema."""
        return json.loads(self._ask("GET", "/v1/options"))

    def models(self) -> list[dict[str, Any]]:
        """What the server has loaded."""
        return json.loads(self._ask("GET", "/v1/models"))["models"]

    def _send(
        self,
        sketch: PictureFile,
        reference: PictureFile | None,
        options: Mapping[str, Any] | None,
        factors: Sequence[Mapping[str, float]],
        others: Mapping[str, PictureFile],
        wait: bool,
    ) -> bytes:
        files = {"sketch": sketch, "reference": reference, **others}
        contents = {role: _content(file) for role, file in files.items() if file is not None}
        fields = {"options": json.dumps(dict(options or {})), "wait": json.dumps(wait)}
        fields |= {"factors": json.dumps([dict(one) for one in factors])} if factors else {}
        body, kind = _form(fields, contents)
        return self._ask("POST", "/v1/colorize", body, {"Content-Type": kind})

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        with self._open(method, path, body, headers) as answer:
            return answer.read()

    def _open(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        own = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        request = urllib.request.Request(
            self._url + path, body, {**own, **(headers or {})}, method=method
        )
        try:
            return urllib.request.urlopen(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            raise ServerError(_reason(error), error.code) from error
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise ServerError(f"got no answer from {self._url} ({reason})") from error


def _content(file: PictureFile) -> bytes:
    return file if isinstance(file, bytes) else Path(file).read_bytes()


def _reason(error: urllib.error.HTTPError) -> str:
    """The sentence in a refusal."""
    try:
        return str(json.loads(error.read())["error"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"got status {error.code} ({error.reason})"


def _form(fields: Mapping[str, str], files: Mapping[str, bytes]) -> tuple[bytes, str]:
    """Encode a form: its body and its content type."""
    boundary = secrets.token_hex(16)
    parts = []
    for name, text in fields.items():
        parts.append((f'name="{name}"', text.encode()))
    for name, content in files.items():
        parts.append((f'name="{name}"; filename="{name}"', content))
    lines = []
    for head, content in parts:
        lines.append(f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode())
        lines.append(content + b"\r\n")
    lines.append(f"--{boundary}--\r\n".encode())
    return b"".join(lines), f"multipart/form-data; boundary={boundary}"
