"""The real process: killed, told to end, asked by the client."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_run

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from colorize_jax.client import Client, ServerError
from colorize_jax.commands.cli import main

ROOT = Path(__file__).parents[2]
KEY = "a-key-that-is-long-enough"
LONG = {"steps": 400, "sampler": "Euler"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("studio")
    small_run.draw(path)
    (path / "keys").write_text(f"ann {KEY}\n")
    return small_run.make(path / "run").parent


@pytest.fixture
def start(folder):
    processes = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-m", "colorize_jax", "studio", "--port", "0"]
            + ["--checkpoint", str(folder / "run"), "--outputs", str(folder / "outputs")]
            + ["--keys", str(folder / "keys"), "--batch-size", "1", "--no-page"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        for line in process.stdout:
            if line.startswith("serving at "):
                return process, Client(line.split()[2], KEY)
        raise AssertionError("the server ended")

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def files(folder):
    return folder / "sketches" / "a.png", folder / "references" / "a.png"


@pytest.mark.slow
def test_a_killed_server_is_started_again_and_says_what_was_lost(folder, start):
    process, client = start()
    options = {"sampler": "Euler", "steps": 2, "seed": 4}
    before = client.colorize(*files(folder), options)
    done = client.submit(*files(folder), options)
    assert [told["status"] for told in client.events(done["id"])][-1] == "done"
    running = client.submit(*files(folder), LONG)
    queued = client.submit(*files(folder), LONG)
    while client.job(running["id"])["steps_done"] == 0:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(ServerError, match="got no answer"):
        client.job(running["id"])

    _, client = start()
    for job in (running, queued):
        told = client.job(job["id"])
        assert told["status"] == "lost" and "send it again" in told["error"]
    assert client.picture(done["id"]) == before
    # The same seed gives the same picture in another process.
    assert client.colorize(*files(folder), options) == before


@pytest.mark.slow
def test_sigterm_ends_it_well_and_a_cancelled_job_ends_at_once(folder, start):
    process, client = start()
    with pytest.raises(ServerError, match="no key that is known") as refused:
        Client(client._url).models()
    assert refused.value.status == 401
    job = client.submit(*files(folder), LONG)
    while client.job(job["id"])["steps_done"] == 0:
        time.sleep(0.05)
    assert client.cancel(job["id"])["status"] == "cancelled"
    last = client.submit(*files(folder), {"sampler": "Euler", "steps": 3})
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    record = json.loads((folder / "outputs" / last["id"] / "job.json").read_text())
    assert record["status"] == "done"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--host", "0.0.0.0"], "without --keys"),
        (["--port", "70000"], "got --port 70000"),
        (["--queue", "0"], "got --queue 0"),
        (["--keys", "missing"], "No such file"),
        (["--rate", "-1"], "got --rate -1"),
    ],
)
def test_what_is_not_served(flags, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["studio", "--checkpoint", "nowhere", "--no-page", *flags]) == 2
    assert expected in capsys.readouterr().err


def test_the_client_needs_nothing_but_python():
    code = "import sys, colorize_jax.client; assert not {'jax', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
