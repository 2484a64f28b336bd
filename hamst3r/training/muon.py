"""Muon for the hidden matrices of a network, AdamW for all else, as one optimiser.

Muon (Keller Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) moves a matrix by its
momentum with all singular values made one, so that rare directions are learned, too. The step is
scaled to Adam's usual size (arXiv 2502.16982), so that both share a learning rate.

``torch.optim.Muon`` orthogonalises in bfloat16, one matrix after the other: on a CPU without units
for bfloat16 that takes ten times as long as in float32, and longer than the rest of the step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hamst3r.network.hamst3r import HAMSt3R

MOMENTUM = 0.95
SIZE = 0.2  # root mean square of Adam's steps, over the learning rate (arXiv 2502.16982, 2.2)
# Newton-Schulz x <- a x + b (x x') x + c (x x')^2 x: singular values end within [0.7, 1.2].
STEPS, QUINTIC = 5, (3.4445, -4.7750, 2.0315)


def hidden_matrices(network: HAMSt3R) -> list[Tensor]:
    """Weights of the linear layers within a network's transformers: neither first nor last ones."""
    inner: list[nn.Module] = [network.encoder.blocks, network.decoder]
    if network.config.human_heads:
        inner.append(network.instance_head.layers)
    layers = [m for part in inner for m in part.modules() if isinstance(m, nn.Linear)]
    return [layer.weight for layer in layers]


def orthogonalised(x: Tensor) -> Tensor:
    """Matrices (N, rows, columns) with singular values near 1 in place of their own."""
    if x.shape[-2] > x.shape[-1]:
        return orthogonalised(x.mT).mT
    a, b, c = QUINTIC
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-12)
    for _ in range(STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.AdamW):
    """AdamW whose groups with ``muon`` True hold matrices that Muon moves.

    Their state is the momentum alone, by the name of Adam's first moment ("exp_avg").
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **options: Any) -> None:
        super().__init__([{"muon": False} | group for group in groups], **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move all parameters. The gradients of Muon's are gone after that."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            if group["muon"]:
                self._move(group)
        super().step()  # It passes over what has no gradient.
        return None

    def _move(self, group: dict[str, Any]) -> None:
        alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                alike[p.shape].append(p)
        for (rows, columns), matrices in alike.items():
            ahead = torch.stack([self._ahead(p) for p in matrices])
            rate = group["lr"] * SIZE * max(rows, columns) ** 0.5
            for p, direction in zip(matrices, orthogonalised(ahead), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-rate)
                p.grad = None

    def _ahead(self, p: nn.Parameter) -> Tensor:
        """The momentum with this gradient, Nesterov's."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["step"] = torch.tensor(0.0)  # AdamW's reader of states expects it
            state["exp_avg"] = torch.zeros_like(p)
        state["step"] += 1
        state["exp_avg"].lerp_(p.grad, 1 - MOMENTUM)
        return p.grad.lerp(state["exp_avg"], MOMENTUM)
