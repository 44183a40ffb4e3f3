"""A service of the small system, and what clients send to it."""

import contextlib
import io
import json

import numpy as np
import small_system
from fastapi.testclient import TestClient
from PIL import Image

from colorize_jax.inference.pipeline import ColorizePipeline
from colorize_jax.studio.app import create_app
from colorize_jax.studio.journal import Journal
from colorize_jax.studio.service import Service, ServiceLimits

OPTIONS = {"sampler": "Euler", "steps": 2, "seed": 0}


def png(pixels):
    """A picture's file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


SKETCH, REFERENCE = map(png, small_system.make_pictures())
OTHER_SKETCH, OTHER_REFERENCE = map(png, small_system.make_pictures(1))


def make_pipeline():
    return ColorizePipeline(small_system.make_networks())


@contextlib.contextmanager
def serving(pipeline, folder, limits=None, access=None, **options):
    """A client of a service, and the service."""
    service = Service(pipeline, Journal(folder), limits or ServiceLimits())
    app = create_app(service, access, **options)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client, service


def form(options=None, sketch=SKETCH, reference=REFERENCE, **fields):
    """The arguments of a request to colour."""
    files = {"sketch": sketch, "reference": reference}
    data = {"options": json.dumps({**OPTIONS, **(options or {})}), **fields}
    return {"files": {k: (k, v) for k, v in files.items() if v is not None}, "data": data}


def pixels(content):
    """A file's picture."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"), np.int16)


class Slow:
    """A pipeline whose every step waits until the test lets it go on."""

    def __init__(self, pipeline, gate, steps):
        self._pipeline, self._gate, self.steps = pipeline, gate, steps

    def __getattr__(self, name):
        return getattr(self._pipeline, name)

    def color(self, pictures, options, seeds, watch):
        def slowly(done, latents, total):
            self.steps.append(done)
            assert self._gate.wait(60)
            watch(done, latents, total)

        return self._pipeline.color(pictures, options, seeds, slowly)
