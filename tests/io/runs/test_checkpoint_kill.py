"""A run that saves all the time is killed at random: it always goes on, and ends the same."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from colorize_jax.io.runs.checkpoint import find_steps

NUM_KILLS = 20
NEVER = 10**9  # steps that no run comes to before it is killed
# A small training whose every step depends on the one before, on the step's number, and on where
# its data are: a wrong, mixed or repeated checkpoint would show in its last parameters.
PROGRAM = """
import hashlib, sys, time
import jax, jax.numpy as jnp, numpy as np
from colorize_jax.io.runs.checkpoint import Checkpoints
from colorize_jax.training import optim
from colorize_jax.training.state import apply_gradients, create_state

workdir, total = sys.argv[1], int(sys.argv[2])
optimizer = optim.make_optimizer(optim.learning_rate(0.1, 10), clip_norm=1.0)

class Data:
    index = 0
    def get_state(self):
        return {"next_index": self.index}
    def set_state(self, state):
        self.index = state["next_index"]
    def __next__(self):
        self.index += 1
        return np.random.default_rng(self.index).standard_normal((32, 300), np.float32)

def make_state():
    params = {"unet": {"kernel": jnp.eye(300)}, "vae": {"kernel": jnp.ones((50, 50))}}
    return create_state(params, optimizer, trainable=("^unet/",))

@jax.jit
def step(state, x):
    loss = lambda p: jnp.mean(jnp.sin(x @ p["unet"]["kernel"]) ** 2)
    return apply_gradients(state, jax.grad(loss)(state.params), optimizer, 0.9)

data = Data()
with Checkpoints(workdir, keep_last=2) as checkpoints:
    state, first = checkpoints.restore(jax.eval_shape(make_state), data) or (make_state(), 0)
    assert int(state.step) == data.index == first
    print("resumed", first, flush=True)
    for number in range(first, total):
        state = step(state, next(data))
        checkpoints.save(number + 1, state, data)
        print("saved", number + 1, flush=True)
digest = hashlib.sha256()
for leaf in jax.tree.leaves(state):
    digest.update(np.asarray(leaf).tobytes())
print("ended", digest.hexdigest(), flush=True)
"""


def start(workdir, total):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(workdir), str(total)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def kill_after(process, saves, pause):
    """Kill a run a moment behind a save; returns the step it resumed from, and all it said."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if sum(entry.startswith("saved") for entry in lines) >= saves:
            break
    time.sleep(pause)
    process.kill()
    process.wait()
    text = "".join(lines)
    starts = [int(entry.split()[1]) for entry in lines if entry.startswith("resumed")]
    assert starts, text
    assert "WARNING" not in text
    assert not any(entry.startswith("ended") for entry in lines), text
    return starts[0]


@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_as_it_would_have(tmp_path):
    rng = random.Random(0)
    targets = [rng.randrange(2, 7) for _ in range(NUM_KILLS)]
    at_least = 0
    for saves in targets:
        resumed = kill_after(start(tmp_path / "killed", NEVER), saves, 0.1 * rng.random())
        assert resumed >= at_least  # a save is complete before the next one starts
        at_least = resumed + saves - 1
    newest = find_steps(tmp_path / "killed")[0][-1]
    assert newest >= at_least
    ends = []
    for workdir, first in (("killed", newest), ("undisturbed", 0)):
        output, _ = start(tmp_path / workdir, newest + 5).communicate()
        assert f"resumed {first}\n" in output
        ends.append(output.splitlines()[-1])
    assert ends[0].startswith("ended") and ends[0] == ends[1]
