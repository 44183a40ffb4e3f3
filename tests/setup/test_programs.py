"""Programs of a step: made ahead, for every size, by themselves; and what they are called."""

import functools
from contextlib import closing

import jax
import jax.numpy as jnp
import pytest

from colorize_jax.config.options import MeshConfig
from colorize_jax.setup import programs as module
from colorize_jax.setup.programs import ProgramKey, Programs
from colorize_jax.sharding import batch_sharding, make_mesh, replicated


@pytest.fixture
def mesh():
    return make_mesh(MeshConfig(), jax.devices()[:1])


@functools.partial(jax.jit, static_argnames="dual")
def step(state, record, key, *, dual):
    if record["sketch"].shape[1] == 9:
        raise ValueError("no such size")
    return state + record["sketch"].sum() * (2 if dual else 1), {"loss": state}


def arguments(mesh, height=4, width=6, reference=4):
    shapes = {"sketch": (2, height, width, 1), "reference": (2, reference, reference, 3)}
    record = {name: jnp.ones(shape) for name, shape in shapes.items()}
    return (
        jax.device_put(jnp.zeros(()), replicated(mesh)),
        jax.device_put(record, batch_sharding(mesh)),
        jax.device_put(jax.random.key(0), replicated(mesh)),
    )


def test_programs_are_made_ahead_and_run(mesh):
    with (
        closing(Programs(step, lambda *arguments, dual: 7 + dual, mesh)) as programs,
        jax.set_mesh(mesh),
    ):
        state, record, key = arguments(mesh)
        program = programs.key(record, dual=True)
        assert program == ProgramKey(4, 6, True) and str(program) == "4x6 px, both branches"
        assert not programs.is_ready(program)
        programs.prepare(state, record, key, [(4, 6), (6, 4)], dual=True)
        programs.wait(program)
        assert programs.is_ready(program) and programs.flops(program) == 8
        other = ProgramKey(6, 4, True)
        programs.wait(other)  # of no batch that has been seen
        assert programs(state, record, key, dual=True)[0] == 2 * 2 * 24
        state, record, key = arguments(mesh, 6, 4)
        before = programs._programs[other].result().run
        assert programs(state, record, key, dual=True)[0] == 2 * 2 * 24
        assert programs._programs[other].result().run is before
        assert programs(state, record, key, dual=False)[0] == 2 * 24
        programs.prepare(state, record, key, [(9, 9)], dual=False)
        with pytest.raises(ValueError, match="no such size"):
            programs.wait(ProgramKey(9, 9, False))


def test_references_of_the_pictures_size_follow_it(mesh):
    def shapes(reference):
        _, record, _ = arguments(mesh, 4, 4, reference)
        changed = module._resized(module._abstract(record), (4, 4), (8, 2))
        return {name: leaf.shape for name, leaf in changed.items()}

    assert shapes(4) == {"sketch": (2, 8, 2, 1), "reference": (2, 8, 2, 3)}
    assert shapes(5) == {"sketch": (2, 8, 2, 1), "reference": (2, 5, 5, 3)}


def test_a_stored_program_is_not_compiled_again(mesh):
    state, record, key = arguments(mesh)
    with jax.set_mesh(mesh):
        stored = jax.jit(lambda state, record, key: (state + 5, {}))
        stored = stored.lower(state, record, key).compile()
    flops = lambda *arguments, dual: 1  # noqa: E731
    with (
        closing(Programs(step, flops, mesh, lambda arguments: stored)) as programs,
        jax.set_mesh(mesh),
    ):
        assert programs(state, record, key, dual=True)[0] == 5
        assert programs(state, record, key, dual=False)[0] == 48
