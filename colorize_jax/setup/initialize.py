"""The state of step 0: random parameters, and the weights that the config names."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from colorize_jax.conditioning import FROZEN_NETWORKS, FrozenEncoders
from colorize_jax.config.difference import differing
from colorize_jax.config.options import Config
from colorize_jax.errors import UserError
from colorize_jax.io.open_weights import ShardedWeights, Weights, open_weights
from colorize_jax.io.published import noise_schedules
from colorize_jax.models.colorizer import TRAINED_NETWORKS
from colorize_jax.setup.networks import needs_encoders, random_params
from colorize_jax.sharding import replicated, state_shardings, with_shardings
from colorize_jax.training import trees
from colorize_jax.training.state import TrainState, create_state
from colorize_jax.training.step import TrainSystem
from colorize_jax.types import Array, Params

MAX_LISTED = 3
PLUGIN, ANCHOR = "background_encoder", "anchor"
# Parameters that a network may have beside those of the weights that it starts from.
ADDITIONS = r"(^|/)(lora_(down|up)_\w+|conv_fg|(map|warp)_modules_\d+_\d|color_hints)/"


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
    return _draw(system, load_pretrained(system, shardings), shardings)


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

    # XLA removes the random initialization of parameters that were loaded, which stay in place.
    return jax.jit(create, out_shardings=shardings, donate_argnums=0)(loaded)


def load_pretrained(system: TrainSystem, shardings: Any = None) -> dict[str, Params]:
    """Read the weights that the config names, network by network, straight to where they stay.

    Args:
        system: static.
        shardings: like the state.

    Returns:
        Network -> tree of arrays, in the dtypes and shardings of the state.

    Raises:
        UserError: see `initial_state`.
    """
    config, expected = system.config, _kept(system, shardings)
    found: dict[str, ShardedWeights] = {}
    for folder in config.encoders.weights if needs_encoders(config) else ():
        found |= _find(folder, [name for name in expected if name not in TRAINED_NETWORKS])
    if config.model.init_from:
        check_facts(open_weights(config.model.init_from), config, config.model.init_from)
        found |= _find(config.model.init_from, (*TRAINED_NETWORKS, PLUGIN))
    if config.refine.enabled:
        _check_colorizer(config.model.init_from, found)
    _check_found(expected, found)
    anchor = _find_anchor(config.gram.anchor) if config.gram.anchor else {}
    # What does not fit is said before anything is read.
    targets = _targets(found, expected)
    anchor_targets = _targets(anchor, expected.get(ANCHOR, {}))
    loaded = {name: found[name].read_sharded(name, tree) for name, tree in targets.items()}
    if anchor:
        read = {name: anchor[name].read_sharded(name, t) for name, t in anchor_targets.items()}
        loaded[ANCHOR] = read
    if config.refine.init_from_unet and PLUGIN not in loaded:
        whole = {path: leaf.update(dtype=jnp.float32) for path, leaf in _flat(targets["unet"])}
        unet = found["unet"].read_sharded("unet", trees.unflatten(whole))
        places = dict(_flat(expected[PLUGIN]))
        loaded[PLUGIN] = trees.map_paths(
            lambda path, leaf: jax.device_put(leaf, places[path].sharding),
            encoder_from_unet(unet, expected[PLUGIN]),
        )
    return loaded


def load_encoders(config: Config, encoders: FrozenEncoders, mesh: Mesh) -> Params:
    """Read the frozen encoders alone, split over a mesh of this process's devices.

    Raises:
        UserError: weights that are needed are not named, or do not fit.
    """
    dtype = jnp.dtype(config.encoders.dtype)
    shapes = jax.eval_shape(lambda: encoders.init(jax.random.key(0)))
    shapes = jax.tree.map(lambda leaf: leaf.update(dtype=dtype), shapes)
    expected = with_shardings(shapes, state_shardings(mesh, shapes))
    found: dict[str, ShardedWeights] = {}
    for folder in config.encoders.weights:
        found |= _find(folder, list(expected))
    _check_found(expected, found)
    targets = _targets(found, expected)
    loaded = {name: found[name].read_sharded(name, tree) for name, tree in targets.items()}
    return {name: loaded.get(name, {}) for name in expected}


def _check_found(expected: Mapping[str, Params], found: Mapping[str, ShardedWeights]) -> None:
    """Raise UserError where an encoder that has parameters has no weights."""
    for name, tree in expected.items():
        needed = name in FROZEN_NETWORKS and jax.tree.leaves(tree)
        if needed and name not in found:
            raise UserError(
                f"got no weights of {name}, expected a folder that `python -m colorize_jax import` "
                "made; name it in config.encoders.weights"
            )


def _kept(system: TrainSystem, shardings: Any) -> dict[str, Params]:
    """Network -> shapes, dtypes and shardings of its parameters in the state."""
    abstract = abstract_state(system)
    params = trees.merge(abstract.params, abstract.frozen)
    if shardings is None:
        where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return with_shardings(params, jax.tree.map(lambda _: where, params))
    return with_shardings(params, trees.merge(shardings.params, shardings.frozen))


def _find(folder: str, wanted: Sequence[str]) -> dict[str, ShardedWeights]:
    """Network -> the weights that hold it."""
    weights = open_weights(folder)
    found = {name: weights for name in wanted if name in weights.abstract}
    if not found:
        raise UserError(
            f"got {folder}, which holds {', '.join(weights.abstract)}, expected one of "
            f"{', '.join(wanted)}; name another folder"
        )
    return found


def _find_anchor(folder: str) -> dict[str, ShardedWeights]:
    found = _find(folder, TRAINED_NETWORKS)
    missing = [name for name in TRAINED_NETWORKS if name not in found]
    if missing:
        raise UserError(
            f"got gram.anchor={folder} without {', '.join(missing)}, expected a whole colorizer; "
            "name another one's weights"
        )
    return found


def _targets(
    found: Mapping[str, ShardedWeights], expected: Mapping[str, Params]
) -> dict[str, Params]:
    """What is to be read of each network; additions that its weights lack stay as they are drawn.

    Raises:
        UserError: shapes differ.
    """
    targets = {}
    for name in (name for name in expected if name in found):
        theirs = found[name].abstract[name]
        targets[name] = _without_additions(theirs, expected[name])
        _check_shapes(name, theirs, targets[name])
    return targets


def _check_colorizer(source: str, loaded: Mapping[str, Params]) -> None:
    """Raise UserError unless there is a whole colorizer for the second stage to start from."""
    missing = [name for name in TRAINED_NETWORKS if name not in loaded]
    if missing:
        found = f"{source} without {', '.join(missing)}" if source else "no weights"
        raise UserError(
            f"got {found} for the second stage, expected a trained colorizer, which it freezes; "
            "set model.init_from to the workdir of a first stage or to its weights"
        )


def encoder_from_unet(unet: Params, expected: Params) -> Params:
    """What a background encoder can take over of a colorizer's UNet.

    Args:
        unet: the UNet's parameters.
        expected: shapes of the encoder's.

    Returns:
        The encoder's leaves whose shapes fit, and the first convolution with kernels of zeros for
        the masks, which the UNet does not see.
    """
    theirs, found = trees.flatten(unet), {}
    for path, leaf in trees.flatten(expected).items():
        stacked = re.sub(r"transformer_blocks_(\d+)/", "transformer_blocks/", path)
        if stacked != path and stacked in theirs:  # the last block, beside those of its stack
            found[path] = theirs[stacked][-1]
        elif path in theirs and _stack_part(theirs[path], leaf.shape) is not None:
            found[path] = _stack_part(theirs[path], leaf.shape)
        elif path == "input_blocks_0_0/kernel":
            masks = leaf.shape[2] - theirs[path].shape[2]
            found[path] = jnp.pad(theirs[path], ((0, 0), (0, 0), (0, masks), (0, 0)))
    return trees.unflatten(found)


def _stack_part(leaf: Array, shape: tuple[int, ...]) -> Array | None:
    """A leaf of this shape, or the first blocks of a stack that has one more."""
    if leaf.shape == shape:
        return leaf
    shorter = leaf.ndim == len(shape) and leaf.shape == (shape[0] + 1, *shape[1:])
    return leaf[:-1] if shorter else None


def _without_additions(loaded: Params, expected: Params) -> Params:
    found = trees.flatten(loaded)
    kept = {
        path: leaf
        for path, leaf in trees.flatten(expected).items()
        if path in found or not re.search(ADDITIONS, path)
    }
    return trees.unflatten(kept)


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
    config, params = system.config, random_params(system, key)
    for name, tree in loaded.items():
        params[name] = trees.merge(params[name], tree)
    return create_state(
        params,
        system.optimizer,
        trainable=config.optimizer.trainable,
        held=system.held,
        ema=config.optimizer.ema_decay > 0,
        frozen_dtype=config.encoders.dtype,
        frozen_networks=FROZEN_NETWORKS,
        other_dtype=config.model.frozen_dtype,
    )


def _check_shapes(name: str, tree: Params, expected: Params) -> None:
    """Compare a loaded tree with the network's own, without its values."""
    theirs, ours = ({path: np.shape(x) for path, x in _flat(t)} for t in (tree, expected))
    wrong = [
        f"{path} is {theirs.get(path, 'missing')}, expected {ours.get(path, 'nothing')}"
        for path in differing(theirs, ours)
    ]
    if wrong:
        raise UserError(
            f"got weights of {name} that do not fit the config ({'; '.join(wrong[:MAX_LISTED])}; "
            f"{len(wrong)} tensors in all), expected its shapes; change the config or the weights"
        )


def _flat(tree: Params) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [("/".join(str(entry.key) for entry in path), leaf) for path, leaf in leaves]
