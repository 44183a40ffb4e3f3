"""A workdir in a bucket, by Orbax's real driver and a local server of Google's interface."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
from contextlib import closing
import jax, jax.numpy as jnp, numpy as np
from colorize_jax.io.runs.checkpoint import Checkpoints
from colorize_jax.io.runs.owner import Owner
from colorize_jax.io.runs.saved_steps import find_steps
from colorize_jax.training import optim
from colorize_jax.training.monitoring.run_writer import Writer, read_metrics
from colorize_jax.training.state import create_state

WORKDIR = "gs://bucket/run"
optimizer = optim.make_optimizer(optim.learning_rate(0.1, 10), clip_norm=1.0)
# So many that one manifest is written by several at a time.
unet = {f"kernel_{i}": jnp.arange(100.0 + i) for i in range(40)}
params = {"unet": unet, "vae": {"kernel": jnp.ones((4, 4))}}
state = create_state(params, optimizer, trainable=("^unet/",))
with Owner(WORKDIR) as owner:
    owner.take()
    with Checkpoints(WORKDIR, keep_last=1) as checkpoints, closing(Writer(WORKDIR)) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": 1.0})
            assert checkpoints.save(step, state.replace(step=jnp.int32(step)))
print(find_steps(WORKDIR), [line["step"] for line in read_metrics(WORKDIR)])
with Checkpoints(WORKDIR) as checkpoints:
    restored, step = checkpoints.restore(jax.eval_shape(lambda: state))
assert step == restored.step == 3
jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
jax.tree.map(np.testing.assert_array_equal, restored.frozen, state.frozen)
print("restored")
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
            [sys.executable, Path(__file__).with_name("gcs_server.py"), "start", *options],
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


def test_a_run_in_a_bucket_saves_prunes_and_restores_without_a_copy(bucket):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines() == ["([3], {}) [1, 2, 3]", "restored"]
    requests = bucket.read_text()
    assert "DELETE" in requests and not re.search("copyTo|rewriteTo|moveTo", requests)


@pytest.mark.slow
def test_a_training_goes_on_in_a_bucket(bucket):
    settings = ["--config=tests/configs/smallest.py", "--workdir=gs://bucket/run"]
    settings += ["--config.checkpoint.every_steps=1", "--allow_changes=total_steps"]
    for total in (1, 2):
        result = subprocess.run(
            [sys.executable, "train.py", *settings, f"--config.total_steps={total}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        assert "WARNING" not in result.stderr and "Traceback" not in result.stderr
    assert "resumed from step 1 of 2" in result.stderr
