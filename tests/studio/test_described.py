"""Requests made up from the API's own description: none makes the server fail."""

import pytest
import small_service

pytest.importorskip("schemathesis")
pytest.importorskip("fastapi")

import schemathesis
from hypothesis import HealthCheck, settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    pipeline = small_service.make_pipeline()
    with small_service.serving(pipeline, tmp_path_factory.mktemp("outputs")) as (client, _):
        yield schemathesis.openapi.from_asgi("/openapi.json", client.app)


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_makes_the_server_fail(case):
    # Options that are made up may ask for many steps.
    answer = case.call(headers={"host": "127.0.0.1"})
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
