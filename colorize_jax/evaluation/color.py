"""Colour differences as people see them: sRGB to CIELAB, and CIEDE2000."""

import numpy as np

# IEC 61966-2-1: linear sRGB to XYZ under D65, and the white that it maps to (1, 1, 1).
_RGB_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_WHITE = _RGB_TO_XYZ.sum(axis=1)


def to_lab(image: np.ndarray) -> np.ndarray:
    """Convert sRGB (..., 3) in [-1, 1] to CIELAB (..., 3): L in 0..100, a and b about -128..127."""
    encoded = np.clip((np.asarray(image, np.float64) + 1) / 2, 0, 1)
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _RGB_TO_XYZ.T / _WHITE
    epsilon = 6 / 29
    f = np.where(xyz > epsilon**3, np.cbrt(xyz), xyz / (3 * epsilon**2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def ciede2000(lab1: np.ndarray, lab2: np.ndarray) -> np.ndarray:
    """Colour difference of CIELAB colours (..., 3), broadcast.

    1 is just noticeable, 100 is black on white. Source: Sharma, Wu and Dalal 2005,
    "The CIEDE2000 color-difference formula", with unit weights.
    """
    l1, a1, b1 = np.moveaxis(np.asarray(lab1, np.float64), -1, 0)
    l2, a2, b2 = np.moveaxis(np.asarray(lab2, np.float64), -1, 0)

    # The a axis is stretched near grey before chroma and hue are computed.
    chroma7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    stretch = 1.5 - 0.5 * np.sqrt(chroma7 / (chroma7 + 25.0**7))
    c1, c2 = np.hypot(a1 * stretch, b1), np.hypot(a2 * stretch, b2)
    h1 = np.degrees(np.arctan2(b1, a1 * stretch)) % 360
    h2 = np.degrees(np.arctan2(b2, a2 * stretch)) % 360

    # The smaller difference of two hue angles; greys have no hue.
    both_coloured = c1 * c2 > 0
    turn = (h2 - h1 + 180) % 360 - 180
    # Exactly opposite hues differ by +180: the formula's interval is closed there.
    turn = np.where((turn == -180) & (h2 > h1), 180.0, turn)
    turn = np.where(both_coloured, turn, 0.0)
    mean_hue = np.where(both_coloured, (h1 + turn / 2) % 360, h1 + h2)

    d_lightness, d_chroma = l2 - l1, c2 - c1
    d_hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    mean_lightness, mean_chroma = (l1 + l2) / 2, (c1 + c2) / 2

    def cosine(multiple: int, offset: float) -> np.ndarray:
        return np.cos(np.radians(multiple * mean_hue + offset))

    hue_weight = (
        1
        - 0.17 * cosine(1, -30)
        + 0.24 * cosine(2, 0)
        + 0.32 * cosine(3, 6)
        - 0.20 * cosine(4, -63)
    )
    from_grey = (mean_lightness - 50) ** 2
    scale_lightness = 1 + 0.015 * from_grey / np.sqrt(20 + from_grey)
    scale_chroma = 1 + 0.045 * mean_chroma
    scale_hue = 1 + 0.015 * mean_chroma * hue_weight

    mean_chroma7 = mean_chroma**7
    rotation_angle = 30 * np.exp(-(((mean_hue - 275) / 25) ** 2))
    rotation = (
        -2
        * np.sqrt(mean_chroma7 / (mean_chroma7 + 25.0**7))
        * np.sin(np.radians(2 * rotation_angle))
    )
    lightness, chroma, hue = (
        d_lightness / scale_lightness,
        d_chroma / scale_chroma,
        d_hue / scale_hue,
    )
    return np.sqrt(lightness**2 + chroma**2 + hue**2 + rotation * chroma * hue)
