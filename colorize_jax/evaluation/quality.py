"""How close a result comes to the true answer, pixel by pixel: PSNR, SSIM, MS-SSIM.

All functions take two images (H, W, 3) float sRGB in [-1, 1]. SSIM is that of Wang et al. 2004: a
Gaussian window of 11 px that lies inside the picture, population variances, mean over channels. Its
constants are those of a range of 1, that of pictures in [0, 1].
"""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from colorize_jax.errors import UserError
from colorize_jax.evaluation.metrics import check_sizes

WINDOW, SIGMA = 11, 1.5  # px
LUMINANCE_CONSTANT, CONTRAST_CONSTANT = 0.01**2, 0.03**2

# Exponents of the scales, finest first: Wang, Simoncelli and Bovik 2003.
SCALE_WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])

# Shorter side, px, from which SSIM and MS-SSIM are defined: the coarsest scale must exceed the
# window. So published implementations have it.
SSIM_SIDE = WINDOW
MS_SSIM_SIDE = (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1


def psnr(result: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio, dB; infinite where both are equal.

    Raises:
        UserError: the pictures have different sizes.
    """
    check_sizes(result, truth)
    error = np.mean((np.asarray(result, np.float64) - truth) ** 2)
    return float(10 * np.log10(4 / error)) if error else float("inf")


def ssim(result: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity, -1..1; 1 where both are equal.

    Raises:
        UserError: the pictures have different sizes, or a side is below `SSIM_SIDE`.
    """
    _check(result, truth, SSIM_SIDE, "SSIM")
    similarity, _ = _similarities(_unit(result), _unit(truth))
    return float(similarity.mean())


def ms_ssim(result: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity over five scales, 0..1; 1 where both are equal.

    Every scale's contrast term enters, the coarsest one's luminance, too; a channel whose term is
    negative at some scale counts as 0.

    Raises:
        UserError: the pictures have different sizes, or a side is below `MS_SSIM_SIDE`.
    """
    _check(result, truth, MS_SSIM_SIDE, "MS-SSIM")
    terms = [
        similarity if scale == len(SCALE_WEIGHTS) - 1 else contrast
        for scale, (similarity, contrast) in enumerate(_scales(_unit(result), _unit(truth)))
    ]
    return float(np.prod(np.maximum(terms, 0) ** SCALE_WEIGHTS[:, None], axis=0).mean())


def _scales(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Similarity and contrast term, (3,) each, of every scale, finest first."""
    for _ in SCALE_WEIGHTS:
        yield _similarities(x, y)
        x, y = _halved(x), _halved(y)


def _similarities(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over places of SSIM and of its contrast and structure term, a channel: (3,) each."""
    mean_x, mean_y = _blurred(x), _blurred(y)
    variances = _blurred(x * x) - mean_x**2 + _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    contrast = (2 * covariance + CONTRAST_CONSTANT) / (variances + CONTRAST_CONSTANT)
    luminance = (2 * mean_x * mean_y + LUMINANCE_CONSTANT) / (
        mean_x**2 + mean_y**2 + LUMINANCE_CONSTANT
    )
    return (luminance * contrast).mean(axis=(0, 1)), contrast.mean(axis=(0, 1))


def _blurred(x: np.ndarray) -> np.ndarray:
    """The Gaussian window's mean where the window lies inside the picture."""
    radius = WINDOW // 2
    window = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * SIGMA**2))
    window /= window.sum()
    rows = ndimage.correlate1d(x, window, axis=0)[radius:-radius]
    return ndimage.correlate1d(rows, window, axis=1)[:, radius:-radius]


def _halved(x: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels. An odd side gets a row of zeros before and after, as published."""
    height, width, channels = x.shape
    x = np.pad(x, ((height % 2, height % 2), (width % 2, width % 2), (0, 0)))
    rows, columns = x.shape[0] // 2, x.shape[1] // 2
    x = x[: 2 * rows, : 2 * columns]
    return x.reshape(rows, 2, columns, 2, channels).mean(axis=(1, 3))


def _unit(image: np.ndarray) -> np.ndarray:
    return (np.asarray(image, np.float64) + 1) / 2


def _check(result: np.ndarray, truth: np.ndarray, side: int, name: str) -> None:
    check_sizes(result, truth)
    if min(result.shape[:2]) < side:
        raise UserError(
            f"got a picture of {result.shape[0]} x {result.shape[1]} px for {name}, expected sides "
            f"of at least {side} px; leave {name} out"
        )
