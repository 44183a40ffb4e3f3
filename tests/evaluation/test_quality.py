"""PSNR, SSIM and MS-SSIM by hand on flat pictures, and against pytorch-msssim."""

import numpy as np
import pytest

from colorize_jax.errors import UserError
from colorize_jax.evaluation.quality import ms_ssim, psnr, ssim


def flat(value, side=176):
    """A grey picture of a value in [0, 1]."""
    return np.full((side, side, 3), 2 * value - 1)


def noisy_pair(height, width, seed=0):
    """Smooth random pictures that resemble each other, with every channel another one."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(-1, 1, (height // 8 + 1, width // 8 + 1, 3))
    truth = np.kron(coarse, np.ones((8, 8, 1)))[:height, :width]
    return np.clip(truth + 0.3 * random.standard_normal(truth.shape), -1, 1), truth


def test_psnr_by_hand():
    """An error of 0.2 in a range of 2: 20 dB."""
    truth = np.zeros((4, 4, 3))
    assert psnr(truth + 0.2, truth) == pytest.approx(20)
    assert psnr(truth, truth) == float("inf")


def test_flat_pictures_differ_in_luminance_alone():
    luminance = (2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4)
    assert ssim(flat(0.5), flat(0.25)) == pytest.approx(luminance)
    assert ms_ssim(flat(0.5), flat(0.25)) == pytest.approx(luminance**0.1333)


def test_equal_and_opposite_pictures():
    result, truth = noisy_pair(170, 190)
    assert ssim(truth, truth) == ms_ssim(truth, truth) == pytest.approx(1)
    assert 0 < ssim(result, truth) < ms_ssim(result, truth) < 1
    assert ssim(-truth, truth) < 0
    assert ms_ssim(-truth, truth) == 0


def test_small_and_other_sizes_are_refused():
    with pytest.raises(UserError, match="at least 161 px"):
        ms_ssim(flat(0, 160), flat(0, 160))
    with pytest.raises(UserError, match="at least 11 px"):
        ssim(flat(0, 10), flat(0, 10))
    for figure in (psnr, ssim, ms_ssim):
        with pytest.raises(UserError, match="one size"):
            figure(flat(0, 170), flat(0, 171))


@pytest.mark.interop
@pytest.mark.parametrize("size", [(161, 200), (175, 163), (256, 192)])
def test_equal_to_pytorch_msssim(size):
    """Odd sides, too, which are halved with zeros beside them."""
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("pytorch_msssim")
    result, truth = noisy_pair(*size)
    ours = ssim(result, truth), ms_ssim(result, truth)
    tensors = [
        torch.from_numpy((image + 1) / 2).permute(2, 0, 1)[None].float()
        for image in (result, truth)
    ]
    theirs = [
        float(figure(*tensors, data_range=1.0)) for figure in (reference.ssim, reference.ms_ssim)
    ]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
