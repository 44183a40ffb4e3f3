"""The update rules of k-diffusion's samplers, of one evaluation of the model a step or of two.

A rule works on x = z_0 + sigma * noise, sees the model as x0, the clean latents that it predicts,
and is a function of the levels alone. `draw(number)` is fresh noise like x.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

Levels = Sequence[float]
Draw = Callable[[int], Tensor]


# ------------------------------------------------------------------- rules of one evaluation a step
# (levels, i, x, x0, memory, draw) -> (x at levels[i + 1], memory)


def _log(sigma: float) -> float:
    """lambda = -log sigma, finite at level 0 too."""
    return -math.log(max(sigma, 1e-10))


def _advance(x: Tensor, x0: Tensor, h: float) -> Tensor:
    """The exact solution over a step of h in lambda for a constant prediction."""
    return math.exp(-h) * x - math.expm1(-h) * x0


def _ancestral(sigma: float, sigma_next: float) -> tuple[float, float]:
    """Split a step into a deterministic one and fresh noise: levels (down, up)."""
    up = math.sqrt(sigma_next**2 * max(sigma**2 - sigma_next**2, 0.0)) / sigma
    up = min(sigma_next, up)
    return math.sqrt(max(sigma_next**2 - up**2, 0.0)), up


def _step_size(levels: Levels, i: int) -> float:
    return _log(levels[i + 1]) - _log(levels[i])


def _euler(levels, i, x, x0, memory, draw):
    return x + (x - x0) / levels[i] * (levels[i + 1] - levels[i]), None


def _euler_ancestral(levels, i, x, x0, memory, draw):
    down, up = _ancestral(levels[i], levels[i + 1])
    x = x + (x - x0) / levels[i] * (down - levels[i])
    return (x + up * draw(i) if up else x), None


def _dpmpp_2m(levels, i, x, x0, memory, draw):
    if levels[i + 1] == 0:
        return x0, x0
    h, target = _step_size(levels, i), x0
    if memory is not None:
        target = x0 + h / (2 * _step_size(levels, i - 1)) * (x0 - memory)
    return _advance(x, target, h), x0


def _dpmpp_2m_sde(solver: str):
    def rule(levels, i, x, x0, memory, draw):
        if levels[i + 1] == 0:
            return x0, x0
        h = _step_size(levels, i)
        decay = -math.expm1(-2 * h)
        y = _advance(x, x0, 2 * h)
        if memory is not None:
            weight = decay / 2 if solver == "midpoint" else 1 - decay / (2 * h)
            y = y + weight * h / _step_size(levels, i - 1) * (x0 - memory)
        return y + levels[i + 1] * math.sqrt(decay) * draw(i), x0

    return rule


def _dpmpp_3m_sde(levels, i, x, x0, memory, draw):
    if levels[i + 1] == 0:
        return x0, (x0, *(memory or ())[:1])
    h, memory = _step_size(levels, i), memory or ()
    phi_2 = math.expm1(-2 * h) / (2 * h) + 1
    phi_3 = phi_2 / (2 * h) - 0.5
    y = _advance(x, x0, 2 * h)
    if memory:
        r0 = _step_size(levels, i - 1) / h
        slope = slope_0 = (x0 - memory[0]) / r0
        if len(memory) > 1:
            r1 = _step_size(levels, i - 2) / h
            curvature = (slope_0 - (memory[0] - memory[1]) / r1) / (r0 + r1)
            slope = slope_0 + r0 * curvature
            y = y - phi_3 * curvature
        y = y + phi_2 * slope
    noise_level = levels[i + 1] * math.sqrt(-math.expm1(-2 * h))
    return y + noise_level * draw(i), (x0, *memory[:1])


LMS_ORDER = 4
GAUSS_POINTS = (-(3**-0.5), 3**-0.5)  # integrate polynomials of degree 3 exactly


def _lms(levels, i, x, x0, memory, draw):
    slopes = ((x - x0) / levels[i], *(memory or ()))[:LMS_ORDER]
    nodes = [levels[i - k] for k in range(len(slopes))]
    half, middle = (levels[i + 1] - levels[i]) / 2, (levels[i + 1] + levels[i]) / 2

    def basis(j: int, sigma: float) -> float:
        others = [k for k in range(len(nodes)) if k != j]
        return math.prod((sigma - nodes[k]) / (nodes[j] - nodes[k]) for k in others)

    for j, slope in enumerate(slopes):
        x = x + half * sum(basis(j, middle + half * point) for point in GAUSS_POINTS) * slope
    return x, slopes[: LMS_ORDER - 1]


# ------------------------------------------------------------------ rules of two evaluations a step


class TwoStage(NamedTuple):
    """A rule that evaluates a second time inside each step, but in one to level 0.

    Attributes:
        middle: (levels, i) -> level of the second evaluation.
        predict: (levels, i, x, x0, draw) -> x there.
        correct: (levels, i, x, x0, point, x0 of point, draw) -> x at levels[i + 1].
    """

    middle: Callable[[Levels, int], float]
    predict: Callable[..., Tensor]
    correct: Callable[..., Tensor]


def _mean_level(levels: Levels, i: int) -> float:
    return math.sqrt(levels[i] * levels[i + 1])


def _straight(levels, i, x, x0, to):
    return x + (x - x0) / levels[i] * (to - levels[i])


def _heun_correct(levels, i, x, x0, point, point_x0, draw):
    slope = ((x - x0) / levels[i] + (point - point_x0) / levels[i + 1]) / 2
    return x + slope * (levels[i + 1] - levels[i])


HEUN = TwoStage(
    lambda levels, i: levels[i + 1],
    lambda levels, i, x, x0, draw: _straight(levels, i, x, x0, levels[i + 1]),
    _heun_correct,
)


def _dpm2_correct(levels, i, x, x0, point, point_x0, draw):
    return x + (point - point_x0) / _mean_level(levels, i) * (levels[i + 1] - levels[i])


DPM2 = TwoStage(
    _mean_level,
    lambda levels, i, x, x0, draw: _straight(levels, i, x, x0, _mean_level(levels, i)),
    _dpm2_correct,
)


def _dpm2_ancestral_middle(levels, i):
    return math.sqrt(levels[i] * _ancestral(levels[i], levels[i + 1])[0])


def _dpm2_ancestral_correct(levels, i, x, x0, point, point_x0, draw):
    down, up = _ancestral(levels[i], levels[i + 1])
    x = x + (point - point_x0) / _dpm2_ancestral_middle(levels, i) * (down - levels[i])
    return x + up * draw(i)


DPM2_ANCESTRAL = TwoStage(
    _dpm2_ancestral_middle,
    lambda levels, i, x, x0, draw: _straight(levels, i, x, x0, _dpm2_ancestral_middle(levels, i)),
    _dpm2_ancestral_correct,
)


def _dpmpp_2s_size(levels, i):
    return _log(_ancestral(levels[i], levels[i + 1])[0]) - _log(levels[i])


DPMPP_2S = TwoStage(
    lambda levels, i: levels[i] * math.exp(-_dpmpp_2s_size(levels, i) / 2),
    lambda levels, i, x, x0, draw: _advance(x, x0, _dpmpp_2s_size(levels, i) / 2),
    lambda levels, i, x, x0, point, point_x0, draw: (
        _advance(x, point_x0, _dpmpp_2s_size(levels, i))
        + _ancestral(levels[i], levels[i + 1])[1] * draw(i)
    ),
)


def _noisy_advance(x, x0, sigma, sigma_next, noise):
    down, up = _ancestral(sigma, sigma_next)
    return _advance(x, x0, _log(down) - _log(sigma)) + up * noise


DPMPP_SDE = TwoStage(
    _mean_level,
    lambda levels, i, x, x0, draw: _noisy_advance(
        x, x0, levels[i], _mean_level(levels, i), draw(2 * i)
    ),
    lambda levels, i, x, x0, point, point_x0, draw: _noisy_advance(
        x, point_x0, levels[i], levels[i + 1], draw(2 * i + 1)
    ),
)


# ----------------------------------------------------------------------------------------- samplers


@dataclass(frozen=True)
class Sampler:
    """One sampler.

    Attributes:
        rule: how x gets from level to level.
        schedule: what "automatic" means for it.
        drops_level: plan one level more and drop the next-to-last.
        spare: of samplers with diffusers' leading timesteps, whatever schedule is named: by how
            many steps more they divide the timesteps; None: the schedule decides.
    """

    rule: Any
    schedule: str = "uniform"
    drops_level: bool = False
    spare: int | None = None


SAMPLERS = {
    "Euler": Sampler(_euler),
    "Euler a": Sampler(_euler_ancestral),
    "Heun": Sampler(HEUN),
    "DPM2": Sampler(DPM2, "Karras", drops_level=True),
    "DPM2 a": Sampler(DPM2_ANCESTRAL, "Karras", drops_level=True),
    "LMS": Sampler(_lms),
    "DPM++ 2S a": Sampler(DPMPP_2S, "Karras"),
    "DPM++ 2M": Sampler(_dpmpp_2m, "Karras"),
    "DPM++ SDE": Sampler(DPMPP_SDE, "Karras"),
    "DPM++ 2M SDE": Sampler(_dpmpp_2m_sde("midpoint"), "exponential"),
    "DPM++ 2M SDE Heun": Sampler(_dpmpp_2m_sde("heun"), "exponential"),
    "DPM++ 3M SDE": Sampler(_dpmpp_3m_sde, "exponential", drops_level=True),
    "DDIM": Sampler(_euler, spare=0),
    "DPM-Solver++": Sampler(_dpmpp_2m, spare=1),
    "DPM-Solver++ SDE": Sampler(_dpmpp_2m_sde("midpoint"), spare=1),
    "LMS diffusers": Sampler(_lms, spare=0),
}
