"""Pairwise inference that wastes nothing: each image is encoded once, pairs decode in batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hamst3r.image import NetworkImage
from hamst3r.network.checkpoint import load_checkpoint
from hamst3r.network.encoder import Encoded
from hamst3r.network.hamst3r import HAMSt3R, PairOutput, ViewOutput

Edge = tuple[int, int]


@dataclass(frozen=True, eq=False)
class PairPrediction:
    """What the network says of views i and j; float32 tensors on the engine's device.

    Attributes:
        i, j: Views. Everything 3D is in camera i's axes (OpenCV), metres as far as learned.
        pts_i, pts_j: (gh, gw, 3) pointmaps; conf_i, conf_j: (gh, gw) >= 1.
        desc_i, desc_j: (gh, gw, D) unit descriptors; desc_conf_i, desc_conf_j: (gh, gw) > 0.
        mask_logits_i, mask_logits_j: (Q, gh, gw); a query is the same person in both views.
        person_prob: (Q,) probability that the query is a person at all.
        densepose_i, densepose_j: (gh, gw, 3) canonical body coordinates in [0, 1].
        body_logits_i, body_logits_j: (gh, gw) logit that the pixel is on a body.
    """

    i: int
    j: int
    pts_i: Tensor
    pts_j: Tensor
    conf_i: Tensor
    conf_j: Tensor
    desc_i: Tensor
    desc_j: Tensor
    desc_conf_i: Tensor
    desc_conf_j: Tensor
    mask_logits_i: Tensor
    mask_logits_j: Tensor
    person_prob: Tensor
    densepose_i: Tensor
    densepose_j: Tensor
    body_logits_i: Tensor
    body_logits_j: Tensor


class PairEngine:
    """Runs a network on images and edges, on any device and precision.

    Args:
        network: In eval mode.
        device: "auto" (CUDA where there is one), or any torch device.
        precision: "auto" (bf16 where the device multiplies it fast), "bf16" or "fp32".
        batch: Images encoded, or pairs decoded, at once.
        sha256: Identity of the weights, passed on for diagnostics.
    """

    def __init__(
        self,
        network: HAMSt3R,
        device: str = "auto",
        precision: str = "auto",
        batch: int = 16,
        sha256: str = "",
    ) -> None:
        if precision not in ("auto", "bf16", "fp32"):
            raise ValueError(f"precision must be auto, bf16 or fp32, got {precision!r}")
        self.device = _choose_device(device)
        if precision == "auto":
            precision = "bf16" if _multiplies_bf16(self.device) else "fp32"
        self.precision = precision
        self.batch = batch
        self.sha256 = sha256
        self.patch = network.config.patch
        self.stride = network.config.output_stride
        self.image_size = network.config.image_size
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        # Weights are converted once; only the activations of the heads are made float32 again.
        self._network = network.to(self.device, self._dtype).eval()

    @classmethod
    def from_checkpoint(
        cls, weights: str | Path, device: str = "auto", precision: str = "auto"
    ) -> PairEngine:
        """Load weights and build an engine; raises CheckpointError for an unusable file."""
        checkpoint = load_checkpoint(weights)
        return cls(checkpoint.network, device, precision, sha256=checkpoint.sha256)

    @torch.inference_mode()
    def predict(
        self, images: Sequence[NetworkImage], edges: Sequence[Edge]
    ) -> list[PairPrediction]:
        """Predictions in the order of ``edges``; images may differ in size.

        Raises:
            ValueError: An edge names an image that is not there.
        """
        for i, j in edges:
            if not (0 <= i < len(images) and 0 <= j < len(images)):
                raise ValueError(f"edge ({i}, {j}) is outside of {len(images)} images")
        used = sorted({view for edge in edges for view in edge})
        encoded = self._encode(images, used)
        results: dict[int, PairPrediction] = {}
        for indices in self._batches(range(len(edges)), lambda e: _grids(encoded, edges[e])):
            chosen = [edges[e] for e in indices]
            output = self._network.decode(
                Encoded.cat([encoded[i] for i, _ in chosen]),
                Encoded.cat([encoded[j] for _, j in chosen]),
            )
            for row, e in enumerate(indices):
                results[e] = _unpack(output, row, edges[e])
        return [results[e] for e in range(len(edges))]

    def _encode(self, images: Sequence[NetworkImage], used: list[int]) -> dict[int, Encoded]:
        encoded: dict[int, Encoded] = {}
        for indices in self._batches(used, lambda view: images[view].tensor.shape):
            stack = torch.stack([images[view].tensor for view in indices])
            batch = self._network.encode(stack.to(self.device, self._dtype))
            for row, view in enumerate(indices):
                encoded[view] = batch.select(slice(row, row + 1))
        return encoded

    def _batches(self, items, key) -> list[list[int]]:
        """Items of equal key together, at most ``batch`` at once."""
        groups: dict[object, list[int]] = defaultdict(list)
        for item in items:
            groups[key(item)].append(item)
        return [
            group[start : start + self.batch]
            for group in groups.values()
            for start in range(0, len(group), self.batch)
        ]


def _grids(encoded: dict[int, Encoded], edge: Edge) -> tuple[tuple[int, int], tuple[int, int]]:
    return encoded[edge[0]].grid, encoded[edge[1]].grid


def _unpack(output: PairOutput, row: int, edge: Edge) -> PairPrediction:
    instances = output.instances[-1]

    def view(part: ViewOutput, suffix: str) -> dict[str, Tensor]:
        return {
            f"pts_{suffix}": part.points[row],
            f"conf_{suffix}": part.confidence[row],
            f"desc_{suffix}": part.descriptors[row],
            f"desc_conf_{suffix}": part.descriptor_confidence[row],
            f"densepose_{suffix}": part.densepose[row].clamp(0, 1),
            f"body_logits_{suffix}": part.body_logits[row],
        }

    return PairPrediction(
        i=edge[0],
        j=edge[1],
        mask_logits_i=instances.mask_logits_i[row],
        mask_logits_j=instances.mask_logits_j[row],
        person_prob=instances.class_logits[row].softmax(-1)[:, 1],
        **view(output.i, "i"),
        **view(output.j, "j"),
    )


def _choose_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} asked for, but this torch ({torch.__version__}) sees no CUDA "
            "device; install a CUDA build or use device 'auto' or 'cpu'"
        )
    return chosen


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
