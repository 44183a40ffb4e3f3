"""Who may ask, how often, and how much they may send: checked before a request is read."""

import hashlib
import hmac
import ipaddress
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from colorize_jax.errors import UserError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

# What needs a key. Others are open (whether the server lives, how it is to be asked), or the page,
# which asks for a name and its key itself.
KEY_PATHS = ("/v1/", "/metrics")
# What is counted: the page asks for many files of its own, and makes pictures through the queue.
RATED_PATHS = (*KEY_PATHS, "/login")
# Browsers show nothing here that comes from another machine, and no other page frames this one.
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)
NAME = re.compile(r"[\w.@-]{1,64}")
MIN_KEY_LENGTH = 16
MAX_CLIENTS = 10_000  # whose rates are remembered


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own, which no other machine reaches."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_keys(path: str | Path) -> dict[bytes, str]:
    """Read a file of keys: digest of each key -> name of its owner.

    Args:
        path: a line "NAME KEY" for each; empty lines and those that begin with # are passed over.

    Raises:
        UserError: it cannot be read, has no key, or a line is not as above.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        detail = getattr(error, "strerror", None) or "not text"
        raise UserError(f"got keys {path} ({detail}), expected a text file; name one") from error
    keys: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not NAME.fullmatch(words[0]) or len(words[1]) < MIN_KEY_LENGTH:
            raise UserError(
                f"got line {number} of keys {path}, expected a name and a key of at least "
                f"{MIN_KEY_LENGTH} characters; correct it"
            )
        keys[_digest(words[1])] = words[0]
    if not keys:
        raise UserError(f'got keys {path} without a key, expected lines "NAME KEY"; add one')
    return keys


@dataclass(frozen=True)
class Access:
    """The rules of a server.

    Attributes:
        keys: see `read_keys`; None: nobody needs one.
        origins: pages of other servers that browsers may ask from, such as "https://example.org".
        hosts: names under which the server may be asked; None: any.
        rate: most requests a minute and client; 0: any number.
        num_bytes: most bytes of a request.
    """

    keys: dict[bytes, str] | None = None
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] | None = ("localhost", "127.0.0.1", "[::1]")
    rate: int = 0
    num_bytes: int = 64 * 2**20

    def owner(self, headers: Headers) -> str | None:
        """Name of the key that a request carries, empty where none is needed; None: a wrong one."""
        if self.keys is None:
            return ""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _digest(given)
        # All are compared, so that the time tells nothing.
        found = [name for known, name in self.keys.items() if hmac.compare_digest(known, digest)]
        return found[0] if found else None

    def knows(self, name: str, key: str) -> bool:
        """Whether a key is the one of this name."""
        return (self.keys or {}).get(_digest(key)) == name


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


@dataclass
class Rates:
    """How many requests each client may still make: a bucket that fills by `rate` a minute."""

    rate: int
    _buckets: "OrderedDict[str, tuple[float, float]]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, client: str) -> float:
        """Count a request; return 0, or the seconds after which the next one is allowed."""
        now = time.monotonic()
        with self._lock:
            left, since = self._buckets.pop(client, (float(self.rate), now))
            left = min(self.rate, left + (now - since) * self.rate / 60)
            allowed = left >= 1
            self._buckets[client] = (left - allowed, now)
            while len(self._buckets) > MAX_CLIENTS:
                self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) * 60 / self.rate


class Guard:
    """ASGI middleware that applies the rules of an `Access`.

    The owner of a request's key is in its scope's state as "owner".
    """

    def __init__(self, app: Any, access: Access, refused: Callable[[int], None]):
        """Guard an application.

        Args:
            app: what to guard.
            access: the rules.
            refused: called with the status of each refusal.
        """
        self._app, self._access, self._refused = app, access, refused
        self._rates = Rates(access.rate) if access.rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            status, message, more = refusal
            self._refused(status)
            await JSONResponse({"error": message}, status, more)(scope, receive, send)
            return
        await self._app(scope, self._bounded(receive), _with_headers(send))

    def _refusal(
        self, scope: Scope, headers: Headers
    ) -> tuple[int, str, dict[str, str] | None] | None:
        access, host = self._access, headers.get("host", "")
        if access.hosts is not None and _name(host) not in access.hosts:
            # A foreign name that leads here: DNS rebinding.
            return 403, f"got host {host[:100]!r}, expected one of {', '.join(access.hosts)}", None
        origin = headers.get("origin")
        if origin is not None and not self._may(origin, host):
            return 403, f"got origin {origin[:100]!r}, which is not allowed here", None
        owner = access.owner(headers)
        locked = scope["path"].startswith(KEY_PATHS) and scope["method"] != "OPTIONS"
        if owner is None and locked:
            more = {"WWW-Authenticate": "Bearer"}
            return 401, "got no key that is known here, expected Authorization: Bearer KEY", more
        scope.setdefault("state", {})["owner"] = owner or ""
        if self._rates is not None and scope["path"].startswith(RATED_PATHS):
            client = owner or (scope.get("client") or ("unknown", 0))[0]
            wait = self._rates.take(client)
            if wait:
                more = {"Retry-After": str(int(wait) + 1)}
                return 429, f"got more than {access.rate} requests a minute, expected fewer", more
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > access.num_bytes:
            return 413, self._too_large, None
        return None

    def _may(self, origin: str, host: str) -> bool:
        """Whether pages of an origin may ask: the server's own, and those that are allowed."""
        return origin in self._access.origins or urlsplit(origin).netloc == host

    @property
    def _too_large(self) -> str:
        return f"got a larger request, expected at most {self._access.num_bytes} bytes"

    def _bounded(self, receive: Receive) -> Receive:
        """Stop reading a request of unknown length once it is too large."""
        seen = 0

        async def bounded() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._access.num_bytes:
                raise HTTPException(413, self._too_large)
            return message

        return bounded


def _with_headers(send: Send) -> Send:
    """Add HEADERS to the answer."""

    async def adding(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
        await send(message)

    return adding


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()
