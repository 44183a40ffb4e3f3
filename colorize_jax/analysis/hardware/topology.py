"""Any topology by its name: `describe("v5e:8x8")`, `describe("h100:8")`."""

from colorize_jax.analysis.hardware import cards, chips
from colorize_jax.analysis.hardware.machines import Machines
from colorize_jax.errors import UserError


def describe(topology: str, num_slices: int = 1) -> Machines:
    """Describe machines that need not be there; the compiler for them has to be installed.

    Args:
        topology: chip and shape of a slice, e.g. "v5p:4x4x4", or card and number of a node's cards,
            e.g. "h100:8".
        num_slices: how many slices or nodes.

    Raises:
        UserError: there are no such machines, or no compiler for them.
    """
    name, _, shape = topology.partition(":")
    found = None
    if name in chips.CHIPS:
        found = chips.describe(chips.CHIPS[name], shape, num_slices)
    elif name in cards.CARDS:
        found = cards.describe(cards.CARDS[name], shape, num_slices)
    if found is None:
        raise _unknown(topology)
    return found


def _unknown(topology: str) -> UserError:
    slices = "; ".join(f"{name}: {', '.join(c.slices)}" for name, c in chips.CHIPS.items())
    nodes = ", ".join(f"{name}:N" for name in cards.CARDS)
    return UserError(
        f"got topology {topology!r}, expected a chip and the shape of a slice, such as v5e:8x8 "
        f"({slices}), or a card and how many of them a node has, such as h100:8 ({nodes}, N from 1 "
        f"to {cards.CARDS_OF_A_NODE}; mesh.num_slices for several nodes); choose one of them"
    )
