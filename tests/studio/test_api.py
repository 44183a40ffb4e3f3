"""The HTTP API: what is asked, what is answered, and what is refused."""

import base64
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

import small_service
import small_system
from PIL import Image
from small_service import OPTIONS, OTHER_REFERENCE, OTHER_SKETCH, REFERENCE, SKETCH, form, pixels

from colorize_jax.errors import UserError
from colorize_jax.inference.controls.scenes import RegionReference, Scene
from colorize_jax.inference.metadata import read_metadata
from colorize_jax.inference.options import InferenceOptions
from colorize_jax.inference.pictures.arrays import read_picture
from colorize_jax.studio import journal
from colorize_jax.studio.access import Access
from colorize_jax.studio.service import ServiceLimits


@pytest.fixture(scope="module")
def pipeline():
    return small_service.make_pipeline()


@pytest.fixture(scope="module")
def served(pipeline, tmp_path_factory):
    with small_service.serving(pipeline, tmp_path_factory.mktemp("outputs")) as both:
        yield both


@pytest.fixture
def client(served):
    return served[0]


def finished(client, job_id):
    """Wait until a job is no longer on its way."""
    for _ in range(3000):
        told = client.get(f"/v1/jobs/{job_id}").json()
        if told["status"] not in journal.UNFINISHED:
            return told
        time.sleep(0.02)
    raise AssertionError(told)


def test_a_picture_comes_back_and_carries_its_options(client, pipeline):
    answer = client.post("/v1/colorize", **form())
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png" and answer.headers["x-seed"] == "0"
    (expected,) = pipeline(*small_system.make_pictures(), InferenceOptions(**OPTIONS))
    np.testing.assert_array_equal(pixels(answer.content), np.asarray(expected, np.int16))
    assert read_metadata(io.BytesIO(answer.content)).options == InferenceOptions(**OPTIONS)
    # The same again in the other way of asking.
    coded = {"sketch": base64.b64encode(SKETCH).decode(), "options": OPTIONS}
    coded["reference"] = "data:image/png;base64," + base64.b64encode(REFERENCE).decode()
    again = client.post("/v1/colorize", json=coded)
    assert again.content == answer.content


def test_a_job_is_followed_to_its_end(client):
    answer = client.post("/v1/colorize", **form({"seed": None}, wait="false"))
    assert answer.status_code == 202
    told = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{told['id']}"
    with client.stream("GET", f"/v1/jobs/{told['id']}/events") as stream:
        events = [json.loads(line[6:]) for line in stream.iter_lines() if line[:5] == "data:"]
    assert events[-1]["status"] == "done" and events[-1]["steps_done"] == 2
    assert finished(client, told["id"]) == events[-1]
    made = client.get(events[-1]["picture"])
    assert read_metadata(io.BytesIO(made.content)).options.seed == told["seed"]
    # A finished job cannot be cancelled any more.
    assert client.delete(f"/v1/jobs/{told['id']}").json()["status"] == "done"


def test_a_running_job_shows_what_it_will_be(client):
    asked = form({"steps": 400}, wait="false")
    job = client.post("/v1/colorize", **asked).json()
    assert job["preview"] is None
    told = {}

    def seen():
        told.update(client.get(f"/v1/jobs/{job['id']}").json())
        return told["preview"]

    wait_for(seen)
    head, _, content = told["preview"].partition(",")
    assert head == "data:image/png;base64"
    assert pixels(base64.b64decode(content)).shape == (8, 8, 3)  # a pixel of each latent
    assert client.delete(f"/v1/jobs/{job['id']}").json()["preview"] is None


def test_several_references_and_colour_hints_are_those_of_the_pipeline(client, pipeline):
    sketch, reference = small_system.make_pictures()
    _, other = small_system.make_pictures(1)
    region = np.zeros(sketch.shape[:2], np.uint8)
    region[:, : region.shape[1] // 2] = 255
    hints = np.zeros((*sketch.shape[:2], 4), np.uint8)
    hints[4:8, 4:8] = (200, 30, 60, 255)
    files = {
        "reference_2": OTHER_REFERENCE,
        "region_2": small_service.png(region),
        "color_hints": small_service.png(hints),
    }
    asked = form(factors=json.dumps([{"strength": 0.5}, {"weight": 2}]))
    asked["files"] |= {name: (name, content) for name, content in files.items()}
    answer = client.post("/v1/colorize", **asked)
    assert answer.status_code == 200, answer.text
    scene = Scene(
        (RegionReference(reference, strength=0.5), RegionReference(other, region, weight=2))
    )
    (expected,) = pipeline(
        sketch, scene, InferenceOptions(**OPTIONS), color_hints=Image.fromarray(hints)
    )
    np.testing.assert_array_equal(pixels(answer.content), np.asarray(expected, np.int16))
    plain = client.post("/v1/colorize", **form())
    assert (pixels(plain.content) != pixels(answer.content)).any()


def test_32_clients_get_each_their_own(client, pipeline):
    """Pictures made in company are those made alone, and nobody gets another's."""
    pairs = [(SKETCH, REFERENCE), (OTHER_SKETCH, OTHER_REFERENCE), (OTHER_SKETCH, REFERENCE)]
    arrays = [small_system.make_pictures(seed) for seed in (0, 1)]
    arrays.append((arrays[1][0], arrays[0][1]))
    cases = [(pair, seed) for seed in range(11) for pair in range(3)][:32]

    def ask(case):
        pair, seed = case
        sketch, reference = pairs[pair]
        return client.post("/v1/colorize", **form({"seed": seed}, sketch, reference))

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, cases))
    alone = pipeline(
        [arrays[pair][0] for pair, _ in cases[:6]],
        [arrays[pair][1] for pair, _ in cases[:6]],
        InferenceOptions(**OPTIONS),
        seeds=[seed for _, seed in cases[:6]],
    )
    for answer, image in zip(answers, alone, strict=False):
        assert np.abs(pixels(answer.content) - np.asarray(image, np.int16)).max() <= 1
    for (_, seed), answer in zip(cases, answers, strict=True):
        assert answer.status_code == 200 and answer.headers["x-seed"] == str(seed)
    assert len({answer.content for answer in answers}) == 32
    text = client.get("/metrics").text
    assert 'colorize_batch_pictures_bucket{le="1.0"}' in text
    batches = float(text.split("colorize_batch_pictures_count ")[1].split()[0])
    pictures = float(text.split("colorize_batch_pictures_sum ")[1].split()[0])
    assert pictures / batches > 1.5


def slow_service(pipeline, folder, **limits):
    gate, steps = threading.Event(), []
    slow = small_service.Slow(pipeline, gate, steps)
    return gate, steps, small_service.serving(slow, folder, ServiceLimits(**limits))


def wait_for(condition):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def test_a_cancelled_job_frees_the_device_within_a_step(pipeline, tmp_path):
    gate, steps, serving = slow_service(pipeline, tmp_path, batch=1)
    with serving as (client, _):
        first = client.post("/v1/colorize", **form({"steps": 50}, wait="false")).json()
        second = client.post("/v1/colorize", **form(wait="false")).json()
        third = client.post("/v1/colorize", **form({"seed": 1}, wait="false")).json()
        wait_for(lambda: steps)
        assert client.get(f"/v1/jobs/{third['id']}").json()["place"] == 2
        # One that runs, and one that waits.
        for job in (first, second):
            assert client.delete(f"/v1/jobs/{job['id']}").json()["status"] == "cancelled"
        gate.set()
        assert finished(client, third["id"])["status"] == "done"
        assert steps == [1, 1, 2]
        for job in (first, second):
            assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "cancelled"
            assert client.get(f"/v1/jobs/{job['id']}/picture").status_code == 404


def test_other_work_runs_on_the_device_between_pictures(served):
    client, service = served
    assert service.run(lambda _: threading.current_thread().name).result(60) == "device"

    def fail(_):
        raise UserError("got nothing")

    with pytest.raises(UserError, match="got nothing"):
        service.run(fail).result(60)
    assert client.post("/v1/colorize", **form()).status_code == 200


def test_what_the_networks_look_at_is_drawn_for_the_page(served):
    from colorize_jax.studio.page.looking import look

    _, service = served
    names = ("sketch", "reference")
    arrays = dict(zip(names, small_system.make_pictures(), strict=True))
    pictures = {name: read_picture(array, name) for name, array in arrays.items()}
    sheet = look(service, pictures, InferenceOptions(**OPTIONS), "levels")
    assert sheet.mode == "RGB" and np.asarray(sheet).std() > 1
    del pictures["reference"]
    with pytest.raises(UserError, match="got no reference"):
        look(service, pictures, InferenceOptions(**OPTIONS), "levels")


def test_a_full_queue_and_a_closing_server_say_so(pipeline, tmp_path):
    gate, steps, serving = slow_service(pipeline, tmp_path, batch=1, queue=1)
    with serving as (client, service):
        running = client.post("/v1/colorize", **form(wait="false")).json()
        wait_for(lambda: steps)
        waiting = client.post("/v1/colorize", **form(wait="false")).json()
        full = client.post("/v1/colorize", **form(wait="false"))
        assert full.status_code == 503 and "full queue" in full.json()["error"]
        assert full.headers["retry-after"] == "1"
        closing = threading.Thread(target=service.close, args=(60,))
        closing.start()
        wait_for(lambda: not service.is_open)
        assert client.get("/healthz").status_code == 503
        assert client.post("/v1/colorize", **form()).status_code == 503
        gate.set()
        closing.join()
        # What was queued is made all the same.
        for job in (running, waiting):
            assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "done"


def test_a_failing_picture_costs_itself_alone(pipeline, tmp_path, caplog):
    class Failing(small_service.Slow):
        def color(self, pictures, options, seeds, watch):
            if options.steps == 3:
                raise RuntimeError("a fault of ours")
            return self._pipeline.color(pictures, options, seeds, watch)

    with small_service.serving(Failing(pipeline, None, None), tmp_path) as (client, _):
        answer = client.post("/v1/colorize", **form({"steps": 3}))
        assert answer.status_code == 500 and "RuntimeError" in answer.json()["error"]
        assert "a fault of ours" in caplog.text and "a fault" not in answer.text
        assert client.post("/v1/colorize", **form()).status_code == 200


def lone(reference=REFERENCE, **files):
    """A request with other files."""
    asked = form(reference=reference)
    asked["files"] |= {name: (name, content) for name, content in files.items()}
    return asked


BAD = {
    "no picture": (form(sketch=b"words"), "no picture that can be read"),
    "empty": (form(sketch=b""), "got an empty sketch"),
    "damaged": (form(sketch=SKETCH[:60]), "the sketch, which is damaged"),
    "no reference": (form(reference=None), "reference"),
    "unknown option": (form({"stepz": 3}), '"steps"'),
    "out of range": (form({"steps": 10**6}), "got steps 1000000"),
    "too few for the sampler": (form({"sampler": "PNDM", "steps": 1}), "for PNDM, expected 4"),
    "no number": (form({"reference_guidance": float("nan")}), "reference_guidance"),
    "reserved name": (form({"self": 1}), 'unknown option "self"'),
    "plugin": (form({"background_plugin": True}), "no background encoder"),
    "size": (form({"height": 30}), "got height 30"),
    "result": (form({"height": 60000, "width": 60000}), "60000x60000 px, expected at most 8000000"),
    "unknown field": (form(other="1"), 'unknown field "other"'),
    "wait": (form(wait="maybe"), "expected true or false"),
    "options": ({**form(), "data": {"options": "{"}}, "options that is no JSON"),
    "no object": ({"json": [1]}, "expected an object"),
    "no base64": ({"json": {"sketch": "%"}}, "no base64"),
    "no sketch": ({"json": {}}, "got no sketch"),
    "second without first": (lone(reference=None, reference_2=REFERENCE), "got reference_2 with"),
    "region without": (lone(region_3=SKETCH), "got region_3 without reference_3"),
    "opaque hints": (lone(color_hints=SKETCH), "without transparency"),
    "factors": (form(factors="{}"), "factors that are no list"),
    "factor": (form(factors='[{"wait": 1}]'), '"weight" (the nearest)'),
    "factor of none": (form(factors="[1]"), "expected an object"),
    "factor out of range": (form(factors='[{"weight": -1}]'), "weight of a reference"),
    "too many factors": (form(factors="[{}, {}]"), "factors of 2 references, expected at most 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(client, case):
    arguments, expected = BAD[case]
    answer = client.post("/v1/colorize", **arguments)
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]
    assert expected in message and "\n" not in message


def test_other_content_is_refused(client):
    answer = client.post("/v1/colorize", content=b"x", headers={"content-type": "text/plain"})
    assert answer.status_code == 415


def test_unknown_jobs_and_paths_lead_nowhere(client):
    names = ["0" * 32, "..%2f..%2fetc%2fpasswd", "%2e%2e", ".lock", "x" * 5000, "%00"]
    for name in names:
        for tail in ("", "/picture", "/events"):
            assert client.get(f"/v1/jobs/{name}{tail}").status_code == 404, name
        assert client.delete(f"/v1/jobs/{name}").status_code == 404


def test_uploads_are_bounded_in_bytes_and_pixels(pipeline, tmp_path):
    access = Access(num_bytes=20_000)
    with small_service.serving(pipeline, tmp_path, access=access, num_pixels=2000) as (client, _):
        assert client.post("/v1/colorize", **form()).status_code == 200
        large = small_service.png(np.zeros((100, 100), np.uint8))
        answer = client.post("/v1/colorize", **form(sketch=large))
        assert answer.status_code == 400 and "100x100 px" in answer.json()["error"]
        answer = client.post("/v1/colorize", **form(sketch=b"x" * 30_000))
        assert answer.status_code == 413
        # Without a length, too: what is sent is counted.
        stream = (b"x" * 5000 for _ in range(6))
        kind = {"content-type": "application/json"}
        assert client.post("/v1/colorize", content=stream, headers=kind).status_code == 413


def test_keys_part_what_belongs_to_whom(pipeline, tmp_path):
    from colorize_jax.studio.access import read_keys

    file = tmp_path / "keys"
    file.write_text("# ours\nann ann-has-a-long-key\nbob bob-has-a-long-key\n")
    access = Access(keys=read_keys(file))
    with small_service.serving(pipeline, tmp_path / "outputs", access=access) as (client, _):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": ""}):
            assert client.post("/v1/colorize", headers=headers, **form()).status_code == 401
            assert client.get("/metrics", headers=headers).status_code == 401
        for path in ("/healthz", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200
        ann = {"authorization": "Bearer ann-has-a-long-key"}
        bob = {"x-api-key": "bob-has-a-long-key"}
        job = client.post("/v1/colorize", headers=ann, **form()).headers["x-job"]
        assert client.get(f"/v1/jobs/{job}", headers=ann).json()["status"] == "done"
        for tail in ("", "/picture", "/events"):
            assert client.get(f"/v1/jobs/{job}{tail}", headers=bob).status_code == 404
        assert client.delete(f"/v1/jobs/{job}", headers=bob).status_code == 404


def test_requests_are_counted_by_client(pipeline, tmp_path):
    with small_service.serving(pipeline, tmp_path, access=Access(rate=3)) as (client, _):
        codes = [client.get("/v1/models").status_code for _ in range(4)]
        assert codes == [200, 200, 200, 429]
        assert int(client.get("/v1/models").headers["retry-after"]) >= 1
        assert client.get("/healthz").status_code == 200


def test_foreign_pages_and_names_are_refused(pipeline, tmp_path):
    friend = "https://friend.example"
    access = Access(origins=(friend,))
    with small_service.serving(pipeline, tmp_path, access=access) as (client, _):
        for headers in (
            {"origin": "https://foe.example"},
            {"origin": "null"},
            {"host": "foe.example"},  # a name that was made to lead here
            {"host": "foe.example", "origin": "http://foe.example"},
        ):
            assert client.get("/v1/models", headers=headers).status_code == 403
            assert client.post("/v1/colorize", headers=headers, **form()).status_code == 403
        assert client.get("/v1/models", headers={"origin": "http://127.0.0.1"}).status_code == 200
        answer = client.get("/v1/models", headers={"origin": friend})
        assert answer.headers["access-control-allow-origin"] == friend


def test_what_the_server_says_about_itself(client):
    (model,) = client.get("/v1/models").json()["models"]
    assert model["prediction_type"] == "v" and not model["background_plugin"]
    assert model["defaults"] == InferenceOptions().to_dict()
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/colorize", "/v1/jobs/{job_id}", "/v1/options", "/metrics"} <= set(paths)
    page = client.get("/docs").text
    assert "POST /v1/colorize" in page and "reference_guidance" in page
    assert "http://" not in page and "https://" not in page.replace("https://json-schema", "")


def test_a_full_disk_is_told_without_paths_and_the_server_goes_on(pipeline, tmp_path, monkeypatch):
    with small_service.serving(pipeline, tmp_path) as (client, service):

        def full(*arguments):
            raise UserError(f"got a full disk while writing {tmp_path}")

        for name, status in (("add", 503), ("save", 500), ("write", 200)):
            with monkeypatch.context() as patch:
                patch.setattr(service.journal, name, full)
                if name == "write":  # of a record that is known already
                    patch.setattr(service.journal, "add", lambda record: None)
                answer = client.post("/v1/colorize", **form())
            assert answer.status_code == status, answer.text
            if status != 200:
                assert "disk" in answer.json()["error"] and str(tmp_path) not in answer.text
        assert client.post("/v1/colorize", **form()).status_code == 200
