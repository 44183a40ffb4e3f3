"""A whole run in a bucket: train.py and a local server of Google's storage interface."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMMAND = [
    f"--config={ROOT / 'tests' / 'configs' / 'smallest.py'}",
    "--workdir=gs://bucket/run",
    "--config.checkpoint.every_steps=1",
    "--config.checkpoint.keep_last=1",
    "--config.logging.samples_every=0",
    "--config.logging.tensorboard=false",
]
LIST = """
from colorize_jax.io.runs.saved_steps import find_steps
from colorize_jax.training.monitoring.run_writer import read_metrics
print(find_steps("gs://bucket/run"), [line["step"] for line in read_metrics("gs://bucket/run")])
"""


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The log of a server that has an empty bucket."""
    pytest.importorskip("gcp_storage_emulator")
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        port = connection.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", tmp_path / "log"
    for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
        monkeypatch.setenv(name, url)
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")  # there are no credentials to find
    options = [f"--port={port}", "--host=127.0.0.1", "--in-memory", "--default-bucket=bucket"]
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "gcp_storage_emulator", "start", *options],
            stdout=file,
            stderr=file,
        )
    try:
        for _ in range(200):
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield log
    finally:
        server.kill()
        server.wait()


def python(*arguments):
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


@pytest.mark.slow
def test_a_run_in_a_bucket_copies_nothing_and_goes_on(bucket):
    python("train.py", *COMMAND, "--config.total_steps=2")
    assert python("-c", LIST).splitlines()[0] == "([2], {}) [1, 2]"
    longer = [*COMMAND, "--config.total_steps=3", "--allow_changes=total_steps"]
    assert "resumed from step 2 of 3" in python("train.py", *longer)
    assert "([3], {}) [1, 2, 3]" in python("-c", LIST)
    requests = bucket.read_text()
    assert "DELETE" in requests and not re.search("copyTo|rewriteTo|moveTo", requests)
