"""From a picture to what a reference encoder reads: CLIP's and the tagger's feature extractor."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ImageProcessingMixin


class ColorizeReferenceProcessor(ImageProcessingMixin):
    """Resizes pictures bicubically to a square and normalizes them; the aspect is not kept.

    Attributes:
        size: side of the square, px.
        mean, std: of RGB in [0, 1]; None leaves values in [-1, 1].
        reverse_channels: whether the order is BGR.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - the library's own name

    def __init__(
        self,
        size: int = 224,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        reverse_channels: bool = False,
        **options,
    ):
        super().__init__(**options)
        self.size, self.mean, self.std = size, mean, std
        self.reverse_channels = reverse_channels

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """Pictures (3, h, w) RGB in [-1, 1] of any sizes -> (B, 3, size, size) float32, on CPU."""
        side = (self.size, self.size)
        # The scale of aligned corners, as in the encoders' training; not every device has this.
        resized = [
            F.interpolate(
                image[None].float().cpu(), side, mode="bicubic", antialias=True, align_corners=True
            )
            for image in images
        ]
        pixels = torch.cat(resized)
        if self.mean is not None:
            mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
            pixels = ((pixels + 1) / 2 - mean) / std
        return pixels.flip(1) if self.reverse_channels else pixels
