"""A process that saves all the time is killed at random: what remains is always complete."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

# Step k's state follows from step k - 1's, so a wrong or mixed checkpoint would show.
PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from colorize_jax.io.checkpoint import Checkpoints
from colorize_jax.training.state import TrainState

def state_at(step):
    x = jnp.full((300, 300), step, jnp.float32)
    return TrainState(jnp.int32(step), {"a": x, "b": -x}, {}, (x + 1,), {"a": x, "b": 2 * x})

with Checkpoints(sys.argv[1], keep_last=2) as checkpoints:
    found = checkpoints.restore(state_at(0))
    step = 0
    if found:
        state, step = found
        for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(state_at(step))):
            assert np.array_equal(ours, theirs), step
    print("resumed", step, flush=True)
    while True:
        step += 1
        checkpoints.save(step, state_at(step))
        print("saved", step, flush=True)
"""


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path):
    rng = random.Random(0)
    resumed, lines = 0, []
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        target = rng.randrange(2, 9)
        lines = []
        for line in process.stdout:
            lines.append(line)
            if sum(entry.startswith("saved") for entry in lines) >= target:
                break
        try:
            process.wait(rng.random() * 0.1)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        starts = [int(entry.split()[1]) for entry in lines if entry.startswith("resumed")]
        assert starts, "".join(lines)
        # A save is complete before the next one starts.
        assert starts[0] >= resumed
        assert "WARNING" not in "".join(lines)
        resumed = max(starts[0], starts[0] + target - 2)
