"""Transformer parts shared by encoder, decoders and instance head."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6
# On CPUs torch's fused attention takes twice the time of two matrix products in bf16 while the
# scores of a head fit into the cache (measured at 108 to 261 tokens); in float32 it never does.
EXPLICIT_LIMIT = 512 * 512
ONEDNN_ROWS = 1024  # rows from which oneDNN's convolution beats torch's linear layer in bf16, too

Rope = tuple[Tensor, Tensor]


@lru_cache(maxsize=64)
def rope_table(
    height: int, width: int, head_dim: int, base: float, device: torch.device, dtype: torch.dtype
) -> Rope:
    """Cosines and sines (N, head_dim) of the 2-D rotary embedding for a grid of tokens.

    The first half of a head's channels turns with the row, the second with the column; inside a
    half, channel c pairs with c + quarter ("rotate half"), as in CroCo v2 (arXiv 2211.10408).
    """
    quarter = head_dim // 4
    with torch.inference_mode(False):  # The table is kept, and training may read it, too.
        frequency = base ** (-torch.arange(quarter, device=device, dtype=torch.float32) / quarter)
        rows, columns = torch.meshgrid(
            torch.arange(height, device=device, dtype=torch.float32),
            torch.arange(width, device=device, dtype=torch.float32),
            indexing="ij",
        )
        row_angle = rows.reshape(-1, 1) * frequency
        column_angle = columns.reshape(-1, 1) * frequency
        angle = torch.cat([row_angle, row_angle, column_angle, column_angle], -1)
        return angle.cos().to(dtype), angle.sin().to(dtype)


def apply_rope(x: Tensor, table: Rope) -> Tensor:
    """Rotate queries or keys (B, heads, N, head_dim) by the table of their positions."""
    cos, sin = (part.to(x.dtype) for part in table)
    a, b, c, d = x.chunk(4, -1)
    return torch.addcmul(x * cos, torch.cat([-b, a, -d, c], -1), sin)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of (B, heads, N, d) to (B, heads, M, d); mask True = look."""
    small = q.shape[-2] * k.shape[-2] <= EXPLICIT_LIMIT
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or not small:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    shape = q.shape
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    nothing = q.new_zeros(1, 1, 1)  # times beta, which is 0
    scores = torch.baddbmm(nothing, q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
    if mask is not None:
        scores = scores.unflatten(0, shape[:2]).masked_fill(~mask, -torch.inf).flatten(0, 1)
    return (scores.softmax(-1).to(v.dtype) @ v).view(shape)


def small_(tensor: Tensor) -> Tensor:
    """Fill with small random numbers, as the start of learning.

    A tensor of the meta device has no numbers, but to draw them torch would import its compiler,
    which takes two seconds: where weights are loaded that is most of the time.
    """
    return tensor if tensor.is_meta else nn.init.normal_(tensor, std=0.02)


class Linear(nn.Linear):
    """A linear layer that multiplies on CPUs by oneDNN.

    torch itself uses MKL for float32, which runs at half the speed on processors that are not
    Intel's. A 1x1 convolution is the same product, and goes to oneDNN everywhere.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        wanted = x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and rows >= ONEDNN_ROWS)
        if x.device.type != "cpu" or not wanted or torch.is_grad_enabled():
            return super().forward(x)
        plane = x.reshape(1, rows, 1, x.shape[-1]).permute(0, 3, 1, 2)
        y = F.conv2d(plane, self.weight[:, :, None, None], self.bias)
        return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class MLP(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, out or dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SelfAttention(nn.Module):
    """Multi-head self-attention with rotary positions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, rope: Rope | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if rope is not None:
            q, k = apply_rope(q, rope), apply_rope(k, rope)
        x = attend(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention of one set of tokens to another, each with its own positions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projq = Linear(dim, dim)
        self.projk = Linear(dim, dim)
        self.projv = Linear(dim, dim)
        self.proj = Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        key: Tensor,
        value: Tensor,
        rope: Rope | None = None,
        key_rope: Rope | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Attend x (B, N, D) to key, value (B, M, D); ``mask`` (B, 1, N, M) is True to look at."""
        q = self.projq(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k = self.projk(key).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        v = self.projv(value).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if rope is not None and key_rope is not None:
            q, k = apply_rope(q, rope), apply_rope(k, key_rope)
        x = attend(q, k, v, mask)
        return self.proj(x.transpose(1, 2).flatten(2))
