"""The training state, and how an update changes it."""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from colorize_jax.training import trees
from colorize_jax.training.optim import update_ema
from colorize_jax.types import Array, Params


@flax.struct.dataclass
class TrainState:
    """The arrays that a step updates or reads; modules and optimizer are in `TrainSystem`.

    Attributes:
        step: () int32, updates done.
        params: trained parameters, float32, without the frozen leaves.
        frozen: parameters that are never trained, without the trained leaves.
        opt_state: the optimizer's state, of `params` only.
        ema: running average of `params`, float32; None where none is kept.
    """

    step: Array
    params: Params
    frozen: Params
    opt_state: Any
    ema: Params | None


def create_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    trainable: Sequence[str] = ("",),
    held: Sequence[str] = (),
    ema: bool = True,
    frozen_dtype: Any = jnp.float32,
    frozen_networks: Sequence[str] | None = None,
    other_dtype: Any = jnp.float32,
) -> TrainState:
    """Build the state of step 0; may be jitted with `out_shardings`, to create it sharded.

    Args:
        params: component -> parameters of every network, trained or not.
        optimizer: of the trained ones.
        trainable: rules (see `trees`) that name what is trained; "" names everything.
        held: rules of what is not, whatever `trainable` says.
        ema: keep a running average.
        frozen_dtype: float dtype in which frozen parameters are kept.
        frozen_networks: components that this holds for. None: all.
        other_dtype: of what is frozen in other components, which is a part of the result.

    Raises:
        UserError: a rule names nothing.
    """
    trained, frozen = trees.split(params, trainable, held)
    trained, casts = _cast(trained, jnp.float32), frozen_networks
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=trained,
        frozen={
            name: _cast(tree, frozen_dtype if casts is None or name in casts else other_dtype)
            for name, tree in frozen.items()
        },
        opt_state=optimizer.init(trained),
        # A copy, because a donated state must not hold the same buffer twice.
        ema=jax.tree.map(jnp.copy, trained) if ema else None,
    )


def all_params(state: TrainState, *, ema: bool = False) -> Params:
    """Join trained and frozen parameters: component -> parameters.

    Args:
        state: of any step.
        ema: take the running average of the trained ones (the parameters where none is kept).
    """
    trained = state.ema if ema and state.ema is not None else state.params
    return trees.merge(trained, state.frozen)


def apply_gradients(
    state: TrainState,
    grads: Params,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    happens: Array | None = None,
) -> TrainState:
    """Return the state after one update.

    Args:
        state: before it.
        grads: of `state.params`.
        optimizer: that made `state.opt_state`.
        ema_decay: largest decay of the running average, where one is kept.
        happens: () bool; where it is false nothing but the step's number changes.
    """
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        ema = update_ema(ema, params, state.step, ema_decay)
    after = state.replace(params=params, opt_state=opt_state, ema=ema)
    if happens is not None:
        after = jax.tree.map(lambda new, old: jnp.where(happens, new, old), after, state)
    return after.replace(step=state.step + 1)


def _cast(params: Params, dtype: Any) -> Params:
    def cast(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, params)
