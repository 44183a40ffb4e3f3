"""`studio`: colouring over HTTP, and in the browser."""

import argparse
from typing import Any

HELP = "serve a checkpoint: an HTTP API and a page for the browser"
EXTRA = "pip install 'colorize-jax[studio]'"
MEBI = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from colorize_jax.commands.option_flags import add_precision_flags

    parser.add_argument(
        "--checkpoint",
        action="append",
        required=True,
        metavar="PATH",
        help="as of `colorize`; repeat it where networks lie elsewhere",
    )
    parser.add_argument("--tokenizer", metavar="DIR", help="CLIP's tokenizer, for texts")
    add_precision_flags(parser)
    parser.add_argument("--prediction-type", metavar="TYPE", help="v or eps")
    parser.add_argument("--raw", action="store_true", help="of a run, not the running average")
    network = parser.add_argument_group("network")
    network.add_argument("--host", default="127.0.0.1", help="address (default: this machine only)")
    network.add_argument("--port", type=int, default=7860, help="(default: 7860)")
    network.add_argument(
        "--keys", metavar="FILE", help='who may ask: lines "NAME KEY"; needed beyond this machine'
    )
    network.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL", help="whose pages may ask"
    )
    network.add_argument(
        "--rate", type=int, metavar="N", help="requests a minute and client (default beyond: 120)"
    )
    network.add_argument("--no-page", action="store_true", help="the HTTP API alone")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-mib", type=int, default=64, help="MiB of a request (default: 64)")
    limits.add_argument(
        "--max-megapixels", type=int, default=32, help="of a picture that is sent (default: 32)"
    )
    limits.add_argument(
        "--max-result-megapixels", type=int, default=8, help="of a result (default: 8)"
    )
    limits.add_argument("--queue", type=int, default=64, help="pictures that wait (default: 64)")
    limits.add_argument(
        "--batch-size", type=int, default=4, help="most pictures at a time (default: 4)"
    )
    limits.add_argument(
        "--batch-window", type=float, default=5.0, metavar="MS", help="for company (default: 5 ms)"
    )
    limits.add_argument(
        "--drain", type=float, default=30.0, metavar="S", help="seconds for the queue at the end"
    )
    parser.add_argument(
        "--outputs", default="studio-outputs", metavar="DIR", help="for pictures and jobs"
    )
    parser.add_argument("--keep", type=int, default=10_000, help="jobs kept there (default: 10000)")


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    _check_extra(page=not args.no_page)
    from colorize_jax.setup.checkpoints import open_pipeline
    from colorize_jax.setup.machine import platform
    from colorize_jax.studio.app import create_app
    from colorize_jax.studio.journal import Journal
    from colorize_jax.studio.server import serve
    from colorize_jax.studio.service import Service, ServiceLimits

    access = _access(args)
    for line in platform.configure():
        print(line)
    pipeline = open_pipeline(
        *args.checkpoint,
        dtype=args.dtype,
        products=args.products,
        prediction_type=args.prediction_type,
        raw=args.raw,
        tokenizer=args.tokenizer,
    )
    journal = Journal(args.outputs, args.keep)
    limits = ServiceLimits(
        queue=args.queue,
        batch=args.batch_size,
        window=args.batch_window / 1000,
        num_pixels=args.max_result_megapixels * 10**6,
    )
    service = Service(pipeline, journal, limits)
    app = create_app(
        service,
        access,
        num_pixels=args.max_megapixels * 10**6,
        drain_seconds=args.drain,
    )
    if not args.no_page:
        from colorize_jax.studio.page.mounting import mount_page

        app = mount_page(app, service, access)
    serve(app, args.host, args.port, drain_seconds=args.drain)
    return 0


def _check_extra(page: bool) -> None:
    """Raise UserError where the server's libraries are not installed."""
    from importlib.util import find_spec

    from colorize_jax.errors import UserError

    needed = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
    lacking = [name for name in (*needed, *["gradio"] * page) if find_spec(name) is None]
    if lacking:
        raise UserError(f"got no {', '.join(lacking)}, expected the extra studio; {EXTRA}")


def _access(args: argparse.Namespace) -> Any:
    """The rules of access; beyond this machine nobody is let in without a key.

    Raises:
        UserError: a number out of range, keys that cannot be read, or none where they are needed.
    """
    from colorize_jax.errors import UserError
    from colorize_jax.studio.access import Access, is_loopback, read_keys

    counts = ("max_mib", "max_megapixels", "max_result_megapixels", "queue", "batch_size", "keep")
    for name in counts:
        if getattr(args, name) < 1:
            flag = name.replace("_", "-")
            raise UserError(f"got --{flag} {getattr(args, name)}, expected at least 1; change it")
    for name in ("batch_window", "drain"):
        if not 0 <= getattr(args, name) <= 3600:
            flag = name.replace("_", "-")
            raise UserError(f"got --{flag} {getattr(args, name)}, expected 0 to 3600; change it")
    if not 0 <= args.port < 2**16:
        raise UserError(f"got --port {args.port}, expected 0 to 65535; change it")
    local = is_loopback(args.host)
    if not local and not args.keys:
        raise UserError(
            f"got --host {args.host}, which other machines reach, without --keys, expected a file "
            'of lines "NAME KEY"; name one'
        )
    rate = args.rate if args.rate is not None else (0 if local else 120)
    if rate < 0:
        raise UserError(f"got --rate {rate}, expected at least 0; change it")
    return Access(
        keys=read_keys(args.keys) if args.keys else None,
        origins=tuple(args.allow_origin),
        hosts=Access.hosts if local else None,
        rate=rate,
        num_bytes=args.max_mib * MEBI,
    )
