"""The whole two-view network (HAMSt3R, arXiv 2508.16433), stateless: encode once, decode pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hamst3r.network.config import NECK_STRIDE, NetworkConfig
from hamst3r.network.decoder import TwinDecoder
from hamst3r.network.encoder import Encoded, Encoder
from hamst3r.network.heads import (
    DescriptorHead,
    InstanceHead,
    InstanceOutput,
    PixelHead,
    PointHead,
)
from hamst3r.network.pyramid import Neck


class ViewOutput(NamedTuple):
    """Dense outputs for one view of a batch of pairs, on its output grid (gh, gw), float32.

    Attributes:
        points: (B, gh, gw, 3) metres, in the first view's camera axes. confidence: (B, gh, gw).
        descriptors: (B, gh, gw, D) unit vectors. descriptor_confidence: (B, gh, gw).
        densepose: (B, gh, gw, 3) canonical body coordinates, about [0, 1].
        body_logits: (B, gh, gw) that the pixel is on a body.
    """

    points: Tensor
    confidence: Tensor
    descriptors: Tensor
    descriptor_confidence: Tensor
    densepose: Tensor
    body_logits: Tensor


class PairOutput(NamedTuple):
    """Output for a batch of pairs; ``instances`` holds one entry per layer, the last one counts."""

    i: ViewOutput
    j: ViewOutput
    instances: list[InstanceOutput]


class HAMSt3R(nn.Module):
    """Shared encoder, twin decoders, geometry heads per view, human heads shared by the views."""

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        config = config or NetworkConfig()
        self.config = config
        joint = config.encoder_dim + config.decoder_dim
        self.encoder = Encoder(config)
        self.decoder = TwinDecoder(config)
        self.neck: Neck | None = None
        dim, side = joint, config.subpixels
        if config.stem_dim:
            self.neck = Neck(config, joint)
            dim, side = config.stem_widths[1], NECK_STRIDE // config.output_stride
        self.point_heads = nn.ModuleList(PointHead(dim, side) for _ in range(2))
        self.descriptor_heads = nn.ModuleList(
            DescriptorHead(dim, config.descriptor_dim, side) for _ in range(2)
        )
        self.densepose_head = PixelHead(dim, 4, side)
        self.mask_head = PixelHead(dim, config.mask_dim, side)
        self.instance_head = InstanceHead(config, joint)
        self.apply(_initialise)

    def encode(self, images: Tensor) -> Encoded:
        """Encode images (B, 3, H, W) in [-1, 1]."""
        return self.encoder(images)

    def decode(self, i: Encoded, j: Encoded) -> PairOutput:
        """Decode pairs: row b of ``i`` with row b of ``j``."""
        decoded = self.decoder(i.tokens, j.tokens, i.grid, j.grid)
        views, joint, masks = [], [], []
        for branch, (encoded, tokens) in enumerate(zip((i, j), decoded, strict=True)):
            tokens = torch.cat([encoded.tokens, tokens.to(encoded.tokens.dtype)], -1)
            pixels, grid = tokens, encoded.grid
            if self.neck is not None:
                pixels, grid = self.neck(tokens, encoded.grid, encoded.details)
            joint.append(tokens)
            views.append(self._read(branch, pixels, grid))
            masks.append(self.mask_head(pixels, grid))
        instances = self.instance_head(joint[0], joint[1], i.grid, j.grid, masks[0], masks[1])
        return PairOutput(views[0], views[1], instances)

    def _read(self, branch: int, tokens: Tensor, grid: tuple[int, int]) -> ViewOutput:
        points, confidence = self.point_heads[branch](tokens, grid)
        descriptors, descriptor_confidence = self.descriptor_heads[branch](tokens, grid)
        body = self.densepose_head(tokens, grid).float()
        # The head regresses around the template's centre, where an untrained network starts.
        densepose = body[..., :3] + 0.5
        return ViewOutput(
            points, confidence, descriptors, descriptor_confidence, densepose, body[..., 3]
        )

    def forward(self, images_i: Tensor, images_j: Tensor) -> PairOutput:
        """Both views of a batch of pairs, encoded together when they are of one size."""
        if images_i.shape == images_j.shape:
            encoded = self.encode(torch.cat([images_i, images_j]))
            half = len(images_i)
            return self.decode(encoded.select(slice(half)), encoded.select(slice(half, None)))
        return self.decode(self.encode(images_i), self.encode(images_j))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, PixelHead):  # Comes after its linear layer: start near zero.
        nn.init.normal_(module.proj.weight, std=0.02)
