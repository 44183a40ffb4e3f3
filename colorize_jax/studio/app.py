"""The HTTP API: routes, and how what happens becomes an answer.

Every answer that is no picture is JSON; every refusal is `{"error": "one sentence"}`.
"""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from colorize_jax.errors import UserError
from colorize_jax.studio import journal
from colorize_jax.studio.access import Access, Guard
from colorize_jax.studio.description import ANSWERS, docs_page, job_schema
from colorize_jax.studio.journal import JobRecord
from colorize_jax.studio.requests import body_schema, read_request
from colorize_jax.studio.schema import options_schema
from colorize_jax.studio.service import BusyError, Job, Service
from colorize_jax.studio.uploads import UploadLimits

PNG, EVENTS = "image/png", "text/event-stream"
LOOK_SECONDS = 0.1  # between two looks at a job whose events are sent
GONE_SECONDS = 1.0  # between two looks whether a waiting client is still there
FAILED_STATUS = {journal.INPUT: 400, journal.MEMORY: 503, journal.INTERNAL: 500}


def create_app(
    service: Service,
    access: Access | None = None,
    *,
    num_pixels: int = UploadLimits.num_pixels,
    drain_seconds: float = 30.0,
) -> FastAPI:
    """Make the application of a service, which is closed when the application shuts down.

    Args:
        service: that colours.
        access: who may ask.
        num_pixels: most pixels of a picture that is sent.
        drain_seconds: how long queued pictures are still made at the end.
    """
    access = access or Access()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close, drain_seconds)

    # Its own pages of documentation would load scripts from other machines.
    app = FastAPI(
        title="colorize-jax", version="1", lifespan=lifespan, docs_url=None, redoc_url=None
    )
    _add_errors(app, service)
    _add_jobs(app, service, UploadLimits(access.num_bytes, num_pixels))
    _add_facts(app, service)

    def refused(status: int) -> None:
        service.metrics.refused.labels(str(status)).inc()

    if access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type"],
            expose_headers=["X-Job", "X-Seed"],
        )
    app.add_middleware(Guard, access=access, refused=refused)
    return app


def _add_errors(app: FastAPI, service: Service) -> None:
    """Every refusal is one sentence."""

    def answer(status: int, message: str, headers: Any = None) -> JSONResponse:
        service.metrics.refused.labels(str(status)).inc()
        return JSONResponse({"error": message}, status, headers)

    @app.exception_handler(UserError)
    async def bad_input(request: Request, error: UserError) -> JSONResponse:
        return answer(400, str(error))

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> JSONResponse:
        return answer(503, str(error), {"Retry-After": "1"})

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def misfit(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return answer(400, f"got {place} that does not fit ({first['msg']}); correct it")


def _add_jobs(app: FastAPI, service: Service, limits: UploadLimits) -> None:
    @app.post(
        "/v1/colorize",
        summary="Colour a sketch",
        response_class=Response,
        responses={
            200: {"description": "the picture", "content": {PNG: {}}},
            202: {"description": "the job", "content": {"application/json": job_schema()}},
            **{code: ANSWERS[code] for code in (400, 401, 403, 413, 415, 429, 500, 503)},
        },
        openapi_extra={"requestBody": body_schema()},
    )
    async def colorize(request: Request) -> Response:
        asked = await read_request(request, service.pipeline.defaults, limits)
        job = await run_in_threadpool(
            service.submit, asked.pictures, asked.options, _owner(request), asked.factors
        )
        if not asked.wait:
            headers = {"Location": f"/v1/jobs/{job.record.id}"}
            return JSONResponse(_told(service, job.record), 202, headers)
        record = await _wait(service, job, request)
        if record.status == journal.DONE:
            return _picture(service, record)
        status = FAILED_STATUS.get(record.error_kind or "", 503)
        raise HTTPException(status, record.error or f"the picture was {record.status}")

    def found(job_id: str, request: Request) -> JobRecord:
        record = service.find(job_id, _owner(request))
        if record is None:
            raise HTTPException(404, "got a job that is not known here, expected one of yours")
        return record

    known = {code: ANSWERS[code] for code in (401, 403, 404, 429)}
    told = {200: {"description": "the job", "content": {"application/json": job_schema()}}, **known}

    @app.get("/v1/jobs/{job_id}", summary="What becomes of a job", responses=told)
    async def job(job_id: str, request: Request) -> Response:
        return JSONResponse(_told(service, found(job_id, request)))

    @app.get(
        "/v1/jobs/{job_id}/events",
        summary="Its progress, as server-sent events",
        responses={200: {"description": "events", "content": {EVENTS: {}}}, **known},
    )
    async def events(job_id: str, request: Request) -> Response:
        owner = _owner(request)
        found(job_id, request)
        stream = _events(lambda: service.find(job_id, owner), lambda r: _told(service, r))
        return StreamingResponse(stream, media_type=EVENTS, headers={"Cache-Control": "no-cache"})

    @app.get(
        "/v1/jobs/{job_id}/picture",
        summary="Its picture",
        response_class=Response,
        responses={200: {"description": "the picture", "content": {PNG: {}}}, **known},
    )
    async def picture(job_id: str, request: Request) -> Response:
        record = found(job_id, request)
        if record.status != journal.DONE:
            raise HTTPException(
                404, f"got a job that is {record.status}, expected one that is done"
            )
        return _picture(service, record)

    @app.delete("/v1/jobs/{job_id}", summary="Cancel a job", responses=told)
    async def cancel(job_id: str, request: Request) -> Response:
        found(job_id, request)
        record = await run_in_threadpool(service.cancel, job_id, _owner(request))
        return JSONResponse(_told(service, record or found(job_id, request)))


def _add_facts(app: FastAPI, service: Service) -> None:
    known = {code: ANSWERS[code] for code in (401, 403, 429)}

    @app.get("/v1/options", summary="The options, as JSON Schema", responses=known)
    async def options() -> dict[str, Any]:
        return options_schema()

    @app.get("/v1/models", summary="What is loaded", responses=known)
    async def models() -> dict[str, Any]:
        return {"models": [describe_model(service)]}

    @app.get("/healthz", summary="Whether pictures are taken", responses={503: ANSWERS[503]})
    async def health() -> dict[str, Any]:
        if not service.is_open:
            raise BusyError("the server is closing")
        return {"status": "ok", "waiting": service.waiting}

    @app.get("/metrics", summary="Numbers for Prometheus", response_class=Response, responses=known)
    async def metrics() -> Response:
        text = service.metrics.text(service.waiting)
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi(), options_schema()))


def describe_model(service: Service) -> dict[str, Any]:
    """What the model can, and the options that it suggests."""
    pipeline = service.pipeline
    system = pipeline.system
    return {
        "prediction_type": system.prediction_type,
        "sizes": dataclasses.asdict(system.limits),
        "background_plugin": system.background_encoder is not None,
        "text": system.clip_text is not None,
        "low_rank_additions": [label for label, _ in system.colorizer.unet.loras],
        "defaults": pipeline.defaults.to_dict(),
    }


def _owner(request: Request) -> str:
    return request.scope.get("state", {}).get("owner", "")


def _told(service: Service, record: JobRecord) -> dict[str, Any]:
    """A job as clients see it."""
    told = dataclasses.asdict(record)
    del told["owner"]
    done, preview = record.status == journal.DONE, service.preview(record.id)
    return told | {
        "seed": record.options["seed"],
        "place": service.place(record.id),
        "picture": f"/v1/jobs/{record.id}/picture" if done else None,
        "preview": None if preview is None else preview.url,
    }


def _picture(service: Service, record: JobRecord) -> Response:
    headers = {"X-Job": record.id, "X-Seed": str(record.options["seed"])}
    return FileResponse(service.journal.picture(record.id), media_type=PNG, headers=headers)


async def _wait(service: Service, job: Job, request: Request) -> JobRecord:
    """Wait for a job; a client that is gone wants it no more."""
    finished = asyncio.wrap_future(job.finished)
    while not (await asyncio.wait({finished}, timeout=GONE_SECONDS))[0]:
        if await request.is_disconnected():
            await run_in_threadpool(service.cancel, job.record.id, job.record.owner)
    return finished.result()


async def _events(
    find: Callable[[], JobRecord | None], told: Callable[[JobRecord], dict[str, Any]]
) -> AsyncIterator[str]:
    """Say what changed about a job until it is finished."""
    last = None
    while (record := find()) is not None:
        content = told(record)
        if content != last:
            yield f"event: {record.status}\ndata: {json.dumps(content)}\n\n"
            last = content
        if record.status not in journal.UNFINISHED:
            return
        await asyncio.sleep(LOOK_SECONDS)
