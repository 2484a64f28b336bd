"""A small convolutional network that looks at one person at a time, as top-down pose networks do.

The pair network sees whole views and knows roughly where somebody might be. This one is shown what
is there, cut out of the delivered image with some room around it (``people/closeups.py``), and says
whether the one in the middle is a person, which pixels are that person's, and which place of a body
each pixel shows. A look takes a fraction of the time that a pair takes, and as most of what it is
shown is a person, it learns bodies from far fewer images than the pair network would need.

A residual pyramid (arXiv 1512.03385, 1612.03144) with a little attention at its top, where which
way somebody faces has to be agreed upon over the whole body.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (24, 48, 96, 192)  # channels at strides 2, 4, 8, 16
CLOSEUP_SIDE = 112  # pixels, where nobody says otherwise
STRIDE = 4  # input pixels per output pixel
TOP_STRIDE = 16
_BLOCKS = (0, 2, 3)  # residual ones at strides 4, 8, 16
_LAYERS, _HEADS = 2, 6  # of attention at the top


class CloseupOutput(NamedTuple):
    """What is said of B images of side S, on grids of h = w = S / 4 pixels, float32.

    Attributes:
        person_logit: (B,) that somebody is in the middle.
        mask_logits: (B, h, w) that a pixel is that person's.
        body_logits: (B, h, w) that a pixel is on anybody's body.
        densepose: (B, h, w, 3) canonical body coordinates, about [0, 1].
        side: (B, 2) which side of the body is seen: the mean, by what is believed, of a unit vector
            to the body's left and to its front.
    """

    person_logit: Tensor
    mask_logits: Tensor
    body_logits: Tensor
    densepose: Tensor
    side: Tensor

    @staticmethod
    def stack(single: Sequence[CloseupOutput]) -> CloseupOutput:
        """Of single images, which have no first dimension."""
        return CloseupOutput(*(torch.stack(part) for part in zip(*single, strict=True)))


class CloseupNetwork(nn.Module):
    """See the module; images are (B, 3, side, side) in [-1, 1], 0 beyond the edge of the view.

    Args:
        side: Pixels, a multiple of 16.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        first, fine, middle, top = WIDTHS
        self.stem = _Down(3, first)
        self.fine = nn.Sequential(_Down(first, fine), *_residuals(fine, _BLOCKS[0]))
        self.middle = nn.Sequential(_Down(fine, middle), *_residuals(middle, _BLOCKS[1]))
        self.top = nn.Sequential(_Down(middle, top), *_residuals(top, _BLOCKS[2]))
        self.question = nn.Parameter(torch.zeros(1, 1, top))
        self.places = nn.Parameter(torch.zeros(1, 1 + (side // TOP_STRIDE) ** 2, top))
        self.attention = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    top, _HEADS, 2 * top, 0.0, F.gelu, batch_first=True, norm_first=True
                )
                for _ in range(_LAYERS)
            )
        )
        self.up_middle = _Up(top, middle, middle, _Residual(middle))
        self.up_fine = _Up(middle, fine, fine, nn.Sequential(_convolution(fine, fine), nn.ReLU()))
        self.whole = nn.Linear(top, 3)  # a person or not, and the side that is seen
        self.maps = nn.Conv2d(fine, 5, 1)

    def forward(self, images: Tensor) -> CloseupOutput:
        """Look at images of single people."""
        fine = self.fine(self.stem(images))
        middle = self.middle(fine)
        top = self.top(middle)
        tokens = torch.cat([self.question.expand(len(top), -1, -1), top.flatten(2).mT], 1)
        tokens = self.attention(tokens + self.places)
        top = top + tokens[:, 1:].mT.unflatten(2, top.shape[2:])
        whole = self.whole(tokens[:, 0]).float()
        maps = self.maps(self.up_fine(self.up_middle(top, middle), fine)).float()
        return CloseupOutput(
            whole[:, 0],
            maps[:, 0],
            maps[:, 1],
            # Regressed around the template's centre, as the pair network does.
            maps[:, 2:].permute(0, 2, 3, 1) + 0.5,
            whole[:, 1:],
        )


class _Norm(nn.BatchNorm2d):
    """Without the count of batches, which only averages without momentum need."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.num_batches_tracked = None

    def _load_from_state_dict(self, *arguments: object) -> None:
        nn.Module._load_from_state_dict(self, *arguments)  # type: ignore[arg-type]


def _convolution(channels: int, to: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, to, 3, stride, 1, bias=False), _Norm(to))


class _Down(nn.Module):
    """Half the size."""

    def __init__(self, channels: int, to: int) -> None:
        super().__init__()
        self.convolution = _convolution(channels, to, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.convolution(x))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(channels, channels), _convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


def _residuals(channels: int, number: int) -> list[_Residual]:
    return [_Residual(channels) for _ in range(number)]


class _Up(nn.Module):
    """Twice the size, meeting what the way down saw."""

    def __init__(self, coarse: int, skipped: int, to: int, then: nn.Module) -> None:
        super().__init__()
        self.coarse, self.skipped = nn.Conv2d(coarse, to, 1), nn.Conv2d(skipped, to, 1)
        self.then = then

    def forward(self, coarse: Tensor, skipped: Tensor) -> Tensor:
        x = F.interpolate(self.coarse(coarse), scale_factor=2.0, mode="bilinear")
        return self.then(x + self.skipped(skipped))
