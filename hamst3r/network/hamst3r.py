"""The whole two-view network (HAMSt3R, arXiv 2508.16433), stateless: encode once, decode pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hamst3r.network.config import NetworkConfig
from hamst3r.network.decoder import TwinDecoder
from hamst3r.network.encoder import Encoder
from hamst3r.network.heads import (
    DescriptorHead,
    InstanceHead,
    InstanceOutput,
    PixelHead,
    PointHead,
)


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
        dim = config.encoder_dim + config.decoder_dim
        side = config.subpixels
        self.encoder = Encoder(config)
        self.decoder = TwinDecoder(config)
        self.point_heads = nn.ModuleList(PointHead(dim, side) for _ in range(2))
        self.descriptor_heads = nn.ModuleList(
            DescriptorHead(dim, config.descriptor_dim, side) for _ in range(2)
        )
        self.densepose_head = PixelHead(dim, 4, side)
        self.instance_head = InstanceHead(config, dim)
        self.apply(_initialise)

    def encode(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images (B, 3, H, W) in [-1, 1] to tokens (B, N, encoder_dim) and their grid."""
        return self.encoder(images)

    def decode(
        self, tokens_i: Tensor, tokens_j: Tensor, grid_i: tuple[int, int], grid_j: tuple[int, int]
    ) -> PairOutput:
        """Decode pairs of encoded views (B, N_i, encoder_dim), (B, N_j, encoder_dim)."""
        decoded = self.decoder(tokens_i, tokens_j, grid_i, grid_j)
        joint_i = torch.cat([tokens_i, decoded[0].to(tokens_i.dtype)], -1)
        joint_j = torch.cat([tokens_j, decoded[1].to(tokens_j.dtype)], -1)
        view_i = self._read(0, joint_i, grid_i)
        view_j = self._read(1, joint_j, grid_j)
        return PairOutput(view_i, view_j, self.instance_head(joint_i, joint_j, grid_i, grid_j))

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
            tokens, grid = self.encode(torch.cat([images_i, images_j]))
            tokens_i, tokens_j = tokens.chunk(2)
            return self.decode(tokens_i, tokens_j, grid, grid)
        tokens_i, grid_i = self.encode(images_i)
        tokens_j, grid_j = self.encode(images_j)
        return self.decode(tokens_i, tokens_j, grid_i, grid_j)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
