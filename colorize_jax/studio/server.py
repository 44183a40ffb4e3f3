"""The process that serves: until SIGTERM or Ctrl-C, then what is queued, then the end."""

import signal
import socket
from types import FrameType
from typing import Any

import uvicorn

from colorize_jax.errors import UserError


def serve(app: Any, host: str, port: int, *, drain_seconds: float = 30.0) -> None:
    """Serve an application until the process is told to stop.

    Args:
        app: of ASGI.
        host: address to listen at.
        port: 0 for any that is free.
        drain_seconds: how long requests that are under way are waited for.

    Raises:
        UserError: the address cannot be had.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=max(1, int(drain_seconds)),
    )
    try:
        listening = config.bind_socket()
    except SystemExit as error:
        raise UserError(
            f"got {host}:{port}, which cannot be listened at, expected a free port; choose another "
            "with --port"
        ) from error
    # uvicorn raises the signal again when it has ended well, which is no failure here.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ended)
    name = f"[{host}]" if ":" in host else host
    _Server(config, f"http://{name}:{listening.getsockname()[1]}").run(sockets=[listening])


class _Server(uvicorn.Server):
    """Says where it serves, once it does."""

    def __init__(self, config: uvicorn.Config, url: str):
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(f"serving at {self._url} (API: /docs; Ctrl-C ends it)", flush=True)


def _ended(number: int, frame: FrameType | None) -> None:
    """Everything is done by then."""
