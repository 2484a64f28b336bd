"""A training run in 5 bytes per parameter, so that it travels: weights, average, moments.

The average is what is published and is kept in bfloat16; the weights lie near it and are kept as
8-bit differences from it, the moments in 8 bits as in arXiv 2110.02861 (blocks with a scale of
their own; the second moment by its fourth root, whose range eight bits can hold). What is saved is
also what goes on: ``Trainer.save`` continues from the rounded values, so that a resumed run takes
exactly the steps of one that was never stopped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK = 64
LEVELS = 127


def _blocks(x: Tensor) -> Tensor:
    flat = x.detach().float().flatten()
    return torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)


def pack_signed(x: Tensor) -> dict[str, Tensor]:
    """8 bits a value, linear within blocks of 64."""
    blocks = _blocks(x)
    scale = blocks.abs().amax(1, keepdim=True) / LEVELS
    code = (blocks / scale.clamp_min(1e-30)).round().to(torch.int8)
    return {"code": code.flatten()[: x.numel()].cpu(), "scale": scale[:, 0].cpu()}


def unpack_signed(packed: dict[str, Tensor], shape: torch.Size) -> Tensor:
    """The inverse of :func:`pack_signed`, float32."""
    return (
        (_blocks(packed["code"]) * packed["scale"][:, None]).flatten()[: shape.numel()].view(shape)
    )


def pack_squares(x: Tensor) -> dict[str, Tensor]:
    """8 bits a value that is not negative, linear in its fourth root; zero only for zero."""
    root = _blocks(x).clamp_min(0) ** 0.25
    scale = root.amax(1, keepdim=True) / (2 * LEVELS + 1)
    code = torch.ceil(root / scale.clamp_min(1e-30)).clamp(max=255).to(torch.uint8)
    return {"code": code.flatten()[: x.numel()].cpu(), "scale": scale[:, 0].cpu()}


def unpack_squares(packed: dict[str, Tensor], shape: torch.Size) -> Tensor:
    """The inverse of :func:`pack_squares`, float32."""
    root = _blocks(packed["code"]) * packed["scale"][:, None]
    return (root**4).flatten()[: shape.numel()].view(shape)


def pack(
    network: dict[str, Tensor], average: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> dict[str, Any]:
    """State of a run as tensors and numbers (``torch.load(weights_only=True)`` reads it)."""
    rounded = {name: value.detach().to("cpu", torch.bfloat16) for name, value in average.items()}
    moments = optimiser.state_dict()["state"]
    apart = {
        name: value.detach().cpu().float() - rounded[name].float()
        for name, value in network.items()
    }
    return {
        "average": rounded,
        # What does not learn is its own average.
        "difference": {name: pack_signed(off) for name, off in apart.items() if off.any()},
        "first": {key: pack_signed(state["exp_avg"]) for key, state in moments.items()},
        "second": {  # which Muon's matrices do not have
            key: pack_squares(state["exp_avg_sq"])
            for key, state in moments.items()
            if "exp_avg_sq" in state
        },
        "adam_steps": {key: float(state["step"]) for key, state in moments.items()},
    }


def unpack(
    state: dict[str, Any],
    network: torch.nn.Module,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Put a packed state into a network, its average and its optimiser."""
    weights = {}
    for name, value in network.state_dict().items():
        mean = state["average"][name].float()
        weights[name] = mean
        if name in state["difference"]:
            weights[name] = mean + unpack_signed(state["difference"][name], value.shape)
        average[name] = mean.to(value.device)
    network.load_state_dict(weights)
    plain = optimiser.state_dict()
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    plain["state"] = {
        key: {
            "step": torch.tensor(steps),
            "exp_avg": unpack_signed(state["first"][key], parameters[key].shape),
        }
        for key, steps in state["adam_steps"].items()
    }
    for key, packed in state["second"].items():
        plain["state"][key]["exp_avg_sq"] = unpack_squares(packed, parameters[key].shape)
    optimiser.load_state_dict(plain)
