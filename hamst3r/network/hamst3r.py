"""The whole two-view network (HAMSt3R, arXiv 2508.16433), stateless: encode once, decode pairs.

From the same parts, and without human heads: DUSt3R (CVPR 2024), MASt3R (ECCV 2024), and MASt3R on
the encoder of DUNE (CVPR 2025); ``config.PRESETS`` names them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hamst3r.network.blocks import small_
from hamst3r.network.closeup import CloseupNetwork
from hamst3r.network.config import NECK_STRIDE, NetworkConfig
from hamst3r.network.decoder import TwinDecoder
from hamst3r.network.dpt import DPT
from hamst3r.network.encoder import Encoded, Encoder
from hamst3r.network.heads import (
    DescriptorHead,
    InstanceHead,
    InstanceOutput,
    PixelHead,
    PointHead,
)
from hamst3r.network.pyramid import Neck


class Features(NamedTuple):
    """What the linear heads read of one view: (B, rows * columns, C) and (rows, columns)."""

    tokens: Tensor
    grid: tuple[int, int]


class ViewOutput(NamedTuple):
    """Dense outputs for one view of a batch of pairs, on its output grid (gh, gw), float32.

    Attributes:
        points: (B, gh, gw, 3) metres, in the first view's camera axes. confidence: (B, gh, gw).
        descriptors: (B, gh, gw, D) unit vectors. descriptor_confidence: (B, gh, gw). None from
            networks without descriptors.
        densepose: (B, gh, gw, 3) canonical body coordinates, about [0, 1].
        body_logits: (B, gh, gw) that the pixel is on a body. None from networks without human
            heads, or if not asked for.
        features: What :meth:`HAMSt3R.bodies` reads.
    """

    points: Tensor
    confidence: Tensor
    descriptors: Tensor | None
    descriptor_confidence: Tensor | None
    densepose: Tensor | None
    body_logits: Tensor | None
    features: Features


class PairOutput(NamedTuple):
    """Output for a batch of pairs.

    Attributes:
        i, j: The views.
        instances: One entry per layer, the last one counts; empty without human heads.
        tokens: Of both views, what queries read.
    """

    i: ViewOutput
    j: ViewOutput
    instances: list[InstanceOutput]
    tokens: tuple[Features, Features]


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
        dim = joint if config.head_tokens == "joint" else config.decoder_dim
        side = config.subpixels
        if config.stem_dim:
            self.neck = Neck(config, joint)
            dim, side = config.stem_widths[1], NECK_STRIDE // config.output_stride
        self.point_heads = nn.ModuleList(
            PointHead(_dpt(config) if config.point_head == "dpt" else PixelHead(dim, 4, side))
            for _ in range(2)
        )
        self.descriptor_heads: nn.ModuleList | None = None
        if config.descriptor_dim:
            mlp = config.descriptor_head == "mlp"
            channels = config.descriptor_dim + config.descriptor_confidence
            self.descriptor_heads = nn.ModuleList(
                DescriptorHead(
                    PixelHead(joint, channels, config.subpixels, hidden=4 * joint)
                    if mlp
                    else PixelHead(dim, channels, side),
                    config.descriptor_confidence,
                )
                for _ in range(2)
            )
        if config.human_heads:
            self.densepose_head = PixelHead(dim, 4, side)
            self.mask_head = PixelHead(dim, config.mask_dim, config.mask_subpixels or side)
            self.instance_head = InstanceHead(config, joint)
        self.apply(_initialise)
        # Of its own: it learns alone, and nothing above knows of it.
        self.closeup = CloseupNetwork(config.closeup_side) if config.closeup_side else None

    def encode(self, images: Tensor) -> Encoded:
        """Encode images (B, 3, H, W) in [-1, 1]."""
        return self.encoder(images)

    def decode(self, i: Encoded, j: Encoded, bodies: bool = True) -> PairOutput:
        """Decode pairs: row b of ``i`` with row b of ``j``; the views may differ in size.

        Args:
            bodies: Run :meth:`bodies` on each view of each pair. Without, the caller may run it
                once per image.
        """
        decoded = self.decoder(i.tokens, j.tokens, i.grid, j.grid)
        views, joint = [], []
        for branch, (encoded, layers) in enumerate(zip((i, j), decoded, strict=True)):
            both = torch.cat([encoded.tokens, layers[-1].to(encoded.tokens.dtype)], -1)
            joint.append(both)
            views.append(self._view(branch, encoded, layers, both, bodies))
        tokens = Features(joint[0], i.grid), Features(joint[1], j.grid)
        output = PairOutput(views[0], views[1], [], tokens)
        return self.people(output) if self.config.human_heads else output

    def people(self, output: PairOutput) -> PairOutput:
        """An output with the instances that are found in the features and tokens it has."""
        masks = [self.mask_head(*view.features) for view in output[:2]]
        (i, grid_i), (j, grid_j) = output.tokens
        return output._replace(instances=self.instance_head(i, j, grid_i, grid_j, *masks))

    def bodies(self, features: Features) -> tuple[Tensor, Tensor]:
        """DensePose (B, gh, gw, 3) and body logits (B, gh, gw) of one view.

        It is one linear layer: of the mean of several features it makes the mean of its outputs.
        """
        body = self.densepose_head(*features, torch.float32)
        # The head regresses around the template's centre, where an untrained network starts.
        return body[..., :3] + 0.5, body[..., 3]

    def _view(
        self,
        branch: int,
        encoded: Encoded,
        layers: tuple[Tensor, ...],
        joint: Tensor,
        bodies: bool,
    ) -> ViewOutput:
        config, grid = self.config, encoded.grid
        features = Features(joint if config.head_tokens == "joint" else layers[-1], grid)
        if self.neck is not None:
            features = Features(*self.neck(joint, grid, encoded.details))
        if config.point_head == "dpt":
            points, confidence = self.point_heads[branch]((encoded.tokens, *layers), grid)
        else:
            points, confidence = self.point_heads[branch](*features)
        descriptors = descriptor_confidence = None
        if self.descriptor_heads is not None:
            source = Features(joint, grid) if config.descriptor_head == "mlp" else features
            descriptors, descriptor_confidence = self.descriptor_heads[branch](*source)
            if descriptor_confidence is None:
                descriptor_confidence = confidence
        geometry = (points, confidence, descriptors, descriptor_confidence)
        if bodies and config.human_heads:
            return ViewOutput(*geometry, *self.bodies(features), features)
        return ViewOutput(*geometry, None, None, features)

    def forward(self, images_i: Tensor, images_j: Tensor) -> PairOutput:
        """Both views of a batch of pairs, encoded together when they are of one size, and once
        where images are paired with themselves."""
        if images_j is images_i:
            encoded = self.encode(images_i)
            return self.decode(encoded, encoded)
        if images_i.shape == images_j.shape:
            encoded = self.encode(torch.cat([images_i, images_j]))
            half = len(images_i)
            return self.decode(encoded.select(slice(half)), encoded.select(slice(half, None)))
        return self.decode(self.encode(images_i), self.encode(images_j))


def _dpt(config: NetworkConfig) -> DPT:
    dims = (config.encoder_dim, *[config.decoder_dim] * 3)
    return DPT(dims, 4, config.patch)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, PixelHead) and isinstance(module.proj, nn.Linear):
        small_(module.proj.weight)  # Comes after its layer: start near zero.
