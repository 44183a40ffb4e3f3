"""Requests made up from the API's own description: none makes the server fail."""

import pytest
import small_service

pytest.importorskip("schemathesis")
pytest.importorskip("fastapi")

import schemathesis
from hypothesis import HealthCheck, given, settings

from colorize_jax.studio.access import Access
from colorize_jax.studio.service import ServiceLimits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    pipeline = small_service.make_pipeline()
    folder = tmp_path_factory.mktemp("outputs")
    # Each size is compiled for.
    limits, access = ServiceLimits(num_pixels=32 * 32), Access(hosts=None)
    with small_service.serving(pipeline, folder, limits, access) as (client, _):
        yield schemathesis.openapi.from_asgi("/openapi.json", client.app)


def test_no_request_makes_the_server_fail(described):
    asked = []
    for found in described.get_all_operations():
        operation = found.ok()
        asked.append(operation.label)

        @given(case=operation.as_strategy())
        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        def ask(case):
            answer = case.call()
            assert answer.status_code < 500, answer.text

        ask()
    assert "POST /v1/colorize" in asked and len(asked) >= 9
