"""The state of step 0: random parameters, and the weights that the config names."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from colorize_jax.conditioning import FROZEN_NETWORKS
from colorize_jax.config.options import Config
from colorize_jax.errors import UserError
from colorize_jax.io.open_weights import Weights, open_weights
from colorize_jax.io.published import noise_schedules
from colorize_jax.models.colorizer import TRAINED_NETWORKS
from colorize_jax.setup.networks import random_params
from colorize_jax.sharding import place, replicated, state_shardings
from colorize_jax.training.state import TrainState, create_state
from colorize_jax.training.step import TrainSystem
from colorize_jax.types import Array, Params

MAX_LISTED = 3


def abstract_state(system: TrainSystem) -> TrainState:
    """Shapes and dtypes of the state."""
    return jax.eval_shape(lambda: _create(system, jax.random.key(0), {}))


def initial_state(system: TrainSystem, shardings: Any = None) -> TrainState:
    """Build the state of step 0, directly in its shardings.

    Parameters without weights in the config are initialized from the config's seed.

    Args:
        system: static.
        shardings: like the state; None leaves everything on the default device.

    Raises:
        UserError: weights that are needed are not named, or do not fit.
    """
    loaded = load_pretrained(system)
    if shardings is not None:
        mesh = jax.tree.leaves(shardings)[0].mesh
        loaded = place(state_shardings(mesh, loaded), loaded)
    return _draw(system, loaded, shardings)


def random_state(system: TrainSystem, shardings: Any = None) -> TrainState:
    """The same with random parameters instead of all weights, to measure speed and memory."""
    return _draw(system, {}, shardings)


def forked_state(system: TrainSystem, start: TrainState, shardings: Any = None) -> TrainState:
    """Build the state of step 0 of a run that starts from another's parameters.

    Args:
        system: static.
        start: those parameters; where its optimizer's state is None, a new one is made.
        shardings: like the state.
    """
    ema = system.config.optimizer.ema_decay > 0
    average = start.params if start.ema is None else start.ema
    opt_state = start.opt_state
    if opt_state is None:
        place_state = None if shardings is None else shardings.opt_state
        opt_state = jax.jit(system.optimizer.init, out_shardings=place_state)(start.params)
    place_step = None if shardings is None else shardings.step
    step = jax.jit(lambda: jnp.zeros((), jnp.int32), out_shardings=place_step)()
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))
    return start.replace(step=step, opt_state=opt_state, ema=copy(average) if ema else None)


def run_key(config: Config, mesh: Mesh) -> Array:
    """The key of a run, replicated on all devices of all processes."""
    return jax.jit(lambda: jax.random.key(config.seed), out_shardings=replicated(mesh))()


def _draw(system: TrainSystem, loaded: Mapping[str, Params], shardings: Any) -> TrainState:
    def create(loaded: Mapping[str, Params]) -> TrainState:
        # Hundreds of small random arrays compile in half the time with this generator.
        key = jax.random.key(system.config.seed, impl="unsafe_rbg")
        return _create(system, key, loaded)

    # XLA removes the random initialization of parameters that were loaded.
    return jax.jit(create, out_shardings=shardings)(loaded)


def load_pretrained(system: TrainSystem) -> dict[str, Params]:
    """Read the weights that the config names: network -> tree of NumPy arrays.

    Raises:
        UserError: see `initial_state`.
    """
    config = system.config
    expected = jax.eval_shape(lambda: random_params(system, jax.random.key(0)))
    loaded: dict[str, Params] = {}
    for folder in config.encoders.weights:
        loaded |= _read(folder, [name for name in expected if name not in TRAINED_NETWORKS])
    if config.model.init_from:
        check_facts(open_weights(config.model.init_from), config, config.model.init_from)
        loaded |= _read(config.model.init_from, TRAINED_NETWORKS)
    if config.gram.anchor:
        loaded["anchor"] = _read(config.gram.anchor, TRAINED_NETWORKS)
    for name, tree in expected.items():
        frozen = name not in TRAINED_NETWORKS and jax.tree.leaves(tree)
        if frozen and name not in loaded:
            raise UserError(
                f"got no weights of {name}, expected a folder that `python -m colorize_jax import` "
                "made; name it in config.encoders.weights"
            )
        if name in loaded:
            _check_shapes(name, loaded[name], tree)
    return loaded


def check_facts(weights: Weights, config: Config, path: str) -> None:
    """Compare what weights were trained for with what the config trains.

    An SDXL base may be changed where `model.init_changes` says so: the published start makes a
    prediction of noise one of velocity. A colorizer goes on as it is.

    Raises:
        UserError: they contradict each other.
    """
    metadata, diffusion = weights.metadata, config.diffusion
    facts = {
        "prediction_type": (metadata.prediction_type, diffusion.prediction_type),
        "schedule": (metadata.schedule, noise_schedules.record(diffusion)),
        "scaling_factor": (metadata.scaling_factor, config.encoders.scaling_factor),
    }
    options = {"prediction_type": "diffusion.prediction_type", "schedule": "diffusion.beta_start…"}
    options["scaling_factor"] = "encoders.scaling_factor"
    for name, (there, here) in facts.items():
        if there is None or there == here:
            continue
        base = metadata.kind == "sdxl"
        if base and name in config.model.init_changes:
            continue
        change = f"or name it in model.init_changes=('{name}',), " if base else ""
        raise UserError(
            f"got model.init_from={path}, a {metadata.kind} trained with the {name} {there!r}, and "
            f"{here!r} in the config, expected the same; set {options[name]} to its, {change}or "
            "name other weights"
        )


def _create(system: TrainSystem, key: Array, loaded: Mapping[str, Params]) -> TrainState:
    options = system.config.optimizer
    return create_state(
        random_params(system, key) | dict(loaded),
        system.optimizer,
        trainable=options.trainable,
        ema=options.ema_decay > 0,
        frozen_dtype=system.config.encoders.dtype,
        frozen_networks=FROZEN_NETWORKS,
    )


def _read(folder: str, wanted: Any) -> dict[str, Params]:
    weights = open_weights(folder)
    found = {name: weights.read(name) for name in wanted if name in weights.abstract}
    if not found:
        raise UserError(
            f"got {folder}, which holds {', '.join(weights.abstract)}, expected one of "
            f"{', '.join(wanted)}; name another folder"
        )
    return found


def _check_shapes(name: str, tree: Params, expected: Params) -> None:
    """Compare a loaded tree with the network's own, without its values."""
    theirs, ours = ({path: np.shape(x) for path, x in _flat(t)} for t in (tree, expected))
    wrong = [
        f"{path} is {theirs.get(path, 'missing')}, expected {ours.get(path, 'nothing')}"
        for path in dict.fromkeys([*ours, *theirs])
        if ours.get(path) != theirs.get(path)
    ]
    if wrong:
        raise UserError(
            f"got weights of {name} that do not fit the config ({'; '.join(wrong[:MAX_LISTED])}; "
            f"{len(wrong)} tensors in all), expected its shapes; change the config or the weights"
        )


def _flat(tree: Params) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [("/".join(str(entry.key) for entry in path), leaf) for path, leaf in leaves]
