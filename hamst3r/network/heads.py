"""Heads: linear maps from tokens to pixels, and queries that find people in both views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hamst3r.network.blocks import MLP, NORM_EPS, CrossAttention, Linear, SelfAttention, small_
from hamst3r.network.config import NetworkConfig

# Beyond these the exponentials below would overflow long after they stopped meaning anything.
MAX_LOG_DEPTH = 16.0
MAX_LOG_CONFIDENCE = 16.0


class PixelHead(nn.Module):
    """A map per token and a pixel shuffle: tokens (B, N, D) to maps (B, gh, gw, C).

    Args:
        hidden: Width of an MLP's hidden layer; 0 = one linear layer.
    """

    def __init__(self, dim: int, channels: int, subpixels: int, hidden: int = 0) -> None:
        super().__init__()
        self.channels, self.subpixels = channels, subpixels
        out = channels * subpixels**2
        self.proj = MLP(dim, hidden, out) if hidden else Linear(dim, out)

    def forward(
        self, tokens: Tensor, grid: tuple[int, int], dtype: torch.dtype | None = None
    ) -> Tensor:
        """Maps, in ``dtype`` if that is given."""
        rows, columns = grid
        side = self.subpixels
        x = self.proj(tokens).unflatten(1, (rows, columns)).unflatten(-1, (side, side, -1))
        x = x.permute(0, 1, 3, 2, 4, 5)
        # One pass over memory does both.
        x = x.to(dtype or x.dtype, memory_format=torch.contiguous_format)
        return x.reshape(len(tokens), rows * side, columns * side, self.channels)


class PointHead(nn.Module):
    """Pointmap and its confidence (DUSt3R's activations: expm1 along the ray, 1 + exp).

    Args:
        head: Tokens and grid to maps of 4 channels.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, tokens: Tensor | Sequence[Tensor], grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        x = self.head(tokens, grid, torch.float32)
        xyz, logit = x[..., :3], x[..., 3]
        # The square root's gradient is infinite at zero: keep the norm away from it.
        norm = (xyz.square().sum(-1, keepdim=True) + 1e-8).sqrt()
        points = xyz / norm * torch.expm1(norm.clamp(max=MAX_LOG_DEPTH))
        return points, 1 + logit.clamp(max=MAX_LOG_CONFIDENCE).exp()


class DescriptorHead(nn.Module):
    """Unit descriptors for matching and, if ``confident``, their confidence (MASt3R, ECCV 2024)."""

    def __init__(self, head: PixelHead, confident: bool) -> None:
        super().__init__()
        self.head, self.confident = head, confident

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        x = self.head(tokens, grid, torch.float32)
        vectors = x[..., :-1] if self.confident else x
        length = vectors.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        # In place where nothing has to be kept for gradients: the largest tensor of all.
        vectors = vectors / length if torch.is_grad_enabled() else vectors.div_(length)
        if not self.confident:
            return vectors, None
        return vectors, x[..., -1].clamp(max=MAX_LOG_CONFIDENCE).exp()


class InstanceOutput(NamedTuple):
    """What the queries say, from one layer of the instance head.

    Attributes:
        class_logits: (B, Q, 2) for nobody and person.
        mask_logits_i, mask_logits_j: (B, Q, mh, mw) on the views' output grids, or coarser ones.
    """

    class_logits: Tensor
    mask_logits_i: Tensor
    mask_logits_j: Tensor


def _sine_positions(grid: tuple[int, int], dim: int, device: torch.device) -> Tensor:
    """(rows * columns, dim) sine embedding of token positions."""
    quarter = dim // 4
    frequency = 1.0 / 100.0 ** (torch.arange(quarter, device=device) / quarter)
    axes = []
    for length in grid:
        angle = torch.arange(length, device=device)[:, None] * frequency
        axes.append(torch.cat([angle.sin(), angle.cos()], -1))
    rows, columns = grid
    return torch.cat(
        [axes[0][:, None].expand(-1, columns, -1), axes[1][None].expand(rows, -1, -1)], -1
    ).reshape(rows * columns, -1)


class InstanceLayer(nn.Module):
    """Masked cross-attention, self-attention, MLP (Mask2Former's order, CVPR 2022)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLP(dim, 4 * dim)

    def forward(
        self, x: Tensor, place: Tensor, memory: Tensor, key: Tensor, mask: Tensor
    ) -> Tensor:
        x = x + self.cross_attn(self.norm1(x) + place, key, memory, mask=mask)
        x = x + self.attn(self.norm2(x) + place, None)
        return x + self.mlp(self.norm3(x))


class InstanceHead(nn.Module):
    """People as queries over the tokens of both views, so that one query is one person in both."""

    def __init__(self, config: NetworkConfig, dim_in: int) -> None:
        super().__init__()
        dim = config.instance_width
        self.subpixels = config.mask_subpixels or config.subpixels
        self.memory = Linear(dim_in, dim)
        self.view = nn.Parameter(small_(torch.empty(2, dim)))
        self.query = nn.Parameter(small_(torch.empty(config.queries, dim)))
        self.query_place = nn.Parameter(small_(torch.empty(config.queries, dim)))
        self.layers = nn.ModuleList(
            InstanceLayer(dim, config.instance_heads) for _ in range(config.instance_layers)
        )
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.classify = Linear(dim, 2)
        self.mask = MLP(dim, dim, config.mask_dim)
        # Start as "nobody, nowhere": most queries stay empty, and sigmoid(-2) is sparse.
        self.mask_bias = nn.Parameter(torch.tensor(-2.0))

    def forward(
        self,
        tokens_i: Tensor,
        tokens_j: Tensor,
        grid_i: tuple[int, int],
        grid_j: tuple[int, int],
        pixels_i: Tensor,
        pixels_j: Tensor,
    ) -> list[InstanceOutput]:
        """Outputs after the last layer; while training, before and after every layer.

        Args:
            tokens_i, tokens_j: (B, rows * columns, dim_in) of both views, on their token grids.
            grid_i, grid_j: (rows, columns).
            pixels_i, pixels_j: (B, mh, mw, mask_dim), what masks are read from.
        """
        tokens = torch.cat([tokens_i, tokens_j], 1)
        memory = self.memory(tokens)
        place = torch.cat(
            [
                _sine_positions(grid, memory.shape[-1], memory.device) + view
                for grid, view in zip((grid_i, grid_j), self.view, strict=True)
            ]
        )
        key = memory + place.to(memory.dtype)
        x = self.query.expand(len(tokens), -1, -1).to(memory.dtype)
        outputs = [self._read(x, pixels_i, pixels_j)]
        for layer in self.layers:
            mask = self._attention_mask(outputs[-1])
            x = layer(x, self.query_place.to(x.dtype), memory, key, mask)
            outputs.append(self._read(x, pixels_i, pixels_j))
        outputs = outputs if self.training else outputs[-1:]
        return [InstanceOutput(*(part.float() for part in output)) for output in outputs]

    def _read(self, x: Tensor, pixels_i: Tensor, pixels_j: Tensor) -> InstanceOutput:
        x = self.norm(x)
        embedding = self.mask(x) / math.sqrt(self.mask.fc2.out_features)
        logits = []
        for pixels in (pixels_i, pixels_j):
            flat = torch.baddbmm(
                self.mask_bias.to(embedding.dtype).expand(1, 1, 1),
                embedding,
                pixels.flatten(1, 2).transpose(1, 2).to(embedding.dtype),
            )
            logits.append(flat.unflatten(-1, pixels.shape[1:3]))
        return InstanceOutput(self.classify(x), logits[0], logits[1])

    def _attention_mask(self, output: InstanceOutput) -> Tensor:
        """(B, 1, Q, N_i + N_j): tokens inside the last mask; all of them where it is empty."""
        inside = torch.cat(
            [
                F.max_pool2d(logits.detach(), self.subpixels).flatten(2) > 0
                for logits in (output.mask_logits_i, output.mask_logits_j)
            ],
            -1,
        )
        return (inside | ~inside.any(-1, keepdim=True))[:, None]
