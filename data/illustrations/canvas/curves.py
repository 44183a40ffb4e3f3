"""Smooth curves as linear maps of their control points, and strokes as polygons around them.

A run is a list of control points joined by a natural cubic spline (or, closed, by a periodic one).
Sampling it is one small matrix product, the same matrix for all runs with equally many points.
"""

from functools import lru_cache

import numpy as np

OPEN, CLOSED, STRAIGHT = "open", "closed", "straight"


def _second_derivatives(num_points: int, kind: str) -> np.ndarray:
    """(P, P) map from points to the spline's second derivatives at them, unit knots."""
    n = num_points
    left = np.zeros((n, n))
    right = np.zeros((n, n))
    for i in range(n):
        if kind == OPEN and i in (0, n - 1):
            left[i, i] = 1.0
            continue
        before, after = (i - 1) % n, (i + 1) % n
        left[i, before] += 1.0
        left[i, i] += 4.0
        left[i, after] += 1.0
        right[i, before] += 6.0
        right[i, i] -= 12.0
        right[i, after] += 6.0
    return np.linalg.solve(left, right)


@lru_cache(maxsize=256)
def basis(num_points: int, kind: str, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrices (S, P) giving a run's samples and their tangents (unnormalised).

    `samples` is the number of samples per span; a straight run is its control points.
    A closed run's last sample is its first one again.
    """
    n = num_points
    if kind == STRAIGHT or n == 2:
        steps = np.arange(n)
        tangent = np.zeros((n, n))
        tangent[steps, np.minimum(steps + 1, n - 1)] += 1.0
        tangent[steps, np.maximum(steps - 1, 0)] -= 1.0
        return np.eye(n), tangent
    spans = n if kind == CLOSED else n - 1
    t = np.linspace(0.0, spans, spans * samples + 1)
    at = np.minimum(t.astype(int), spans - 1)
    u = (t - at)[:, None]
    first, second = np.eye(n)[at], np.eye(n)[(at + 1) % n]
    bend = _second_derivatives(n, kind)
    bend0, bend1 = bend[at], bend[(at + 1) % n]
    v = 1.0 - u
    value = v * first + u * second + ((v**3 - v) * bend0 + (u**3 - u) * bend1) / 6.0
    slope = second - first + ((1.0 - 3.0 * v**2) * bend0 + (3.0 * u**2 - 1.0) * bend1) / 6.0
    return value, slope


def stroke_polygons(
    points: np.ndarray, tangents: np.ndarray, weights: np.ndarray, tapers: np.ndarray
) -> np.ndarray:
    """Outlines (R, 2S + 2, 2) of pen strokes along R runs.

    Args:
        points: (R, S, 2) samples.
        tangents: (R, S, 2) directions at the samples.
        weights: (R,) full width.
        tapers: (R, 2) width at either end as a share of the full width.
    """
    along = tangents / np.maximum(np.hypot(tangents[..., 0], tangents[..., 1]), 1e-9)[..., None]
    rise, fall = _tapering(points.shape[1])
    start, end = tapers[:, :1], tapers[:, 1:]
    share = (start + (1.0 - start) * rise) * (end + (1.0 - end) * fall)
    along *= (0.5 * weights[:, None] * share)[..., None]
    side = along[..., ::-1] * (-1.0, 1.0)
    head, tail = points[:, -1:] + along[:, -1:], points[:, :1] - along[:, :1]
    return np.concatenate([points + side, head, (points - side)[:, ::-1], tail], axis=1)


@lru_cache(maxsize=256)
def _tapering(num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    rise = 1.0 - np.clip(1.0 - np.linspace(0.0, 1.0, num_samples) / 0.45, 0.0, 1.0) ** 2
    return rise, rise[::-1]
