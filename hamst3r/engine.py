"""Pairwise inference that wastes nothing: each image is encoded once, pairs decode in batches."""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from hamst3r.image import NetworkImage
from hamst3r.network.checkpoint import load_checkpoint
from hamst3r.network.closeup import CloseupOutput
from hamst3r.network.encoder import Encoded
from hamst3r.network.hamst3r import Features, HAMSt3R, PairOutput, ViewOutput
from hamst3r.pairs import Edge

LOG = logging.getLogger(__name__)

# On CPUs larger batches leave the cache.
CPU_BATCH, CUDA_BATCH = 6, 32
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, eq=False)
class PairPrediction:
    """What the network says of views i and j; float32 tensors on the engine's device.

    Attributes:
        i, j: Views. Everything 3D is in camera i's axes (OpenCV), metres as far as learned.
        pts_i, pts_j: (gh, gw, 3) pointmaps; conf_i, conf_j: (gh, gw) >= 1.
        desc_i, desc_j: (gh, gw, D) unit descriptors; desc_conf_i, desc_conf_j: (gh, gw) > 0. None
            from networks without descriptors.
        mask_logits_i, mask_logits_j: (Q, mh, mw) on the output grids, or coarser ones of the same
            extent; a query is the same person in both views.
        person_prob: (Q,) probability that the query is a person at all.
        densepose_i, densepose_j: (gh, gw, 3) canonical body coordinates in [0, 1].
        body_logits_i, body_logits_j: (gh, gw) logit that the pixel is on a body. Like densepose of
            the image, not of the pair: all pairs of an image share them. All that concerns people
            is None from networks without human heads.
    """

    i: int
    j: int
    pts_i: Tensor
    pts_j: Tensor
    conf_i: Tensor
    conf_j: Tensor
    desc_i: Tensor | None = None
    desc_j: Tensor | None = None
    desc_conf_i: Tensor | None = None
    desc_conf_j: Tensor | None = None
    mask_logits_i: Tensor | None = None
    mask_logits_j: Tensor | None = None
    person_prob: Tensor | None = None
    densepose_i: Tensor | None = None
    densepose_j: Tensor | None = None
    body_logits_i: Tensor | None = None
    body_logits_j: Tensor | None = None


@dataclass
class Counters:
    """Work done by an engine since it was made.

    Attributes:
        encodes: Images encoded. decodes: Pairs decoded. bodies: Images whose bodies were read.
        closeups: Looks at single people.
        halvings: Times that memory ran out and the batch was halved.
    """

    encodes: int = 0
    decodes: int = 0
    bodies: int = 0
    closeups: int = 0
    halvings: int = 0


class PairEngine:
    """Runs a network on images and edges, on any device and precision.

    An image is encoded once for as long as its :class:`NetworkImage` lives, in however many calls
    and pairs it takes part. What concerns one image (DensePose, body mask) is read once per
    image, from the mean of its features over the pairs: the heads are linear, so that this is the
    mean of what the pairs would say. Nothing waits for the device.

    Args:
        network: In eval mode.
        device: "auto" (CUDA where there is one), or any torch device.
        precision: "auto" (bf16 where the device multiplies it fast), "bf16", "fp16" (for GPUs that
            have no bf16; a number beyond 65504 would become infinite) or "fp32".
        batch: Images encoded, or pairs decoded, at once; None = what is fastest as a rule. Halved
            when memory runs out.
        compile: Compile the decoder with torch.compile: a minute or more at the first call of each
            batch size, for some percent of speed on GPUs.
        sha256: Identity of the weights, passed on for diagnostics.
    """

    def __init__(
        self,
        network: HAMSt3R,
        device: str = "auto",
        precision: str = "auto",
        batch: int | None = None,
        compile: bool = False,
        sha256: str = "",
    ) -> None:
        if precision != "auto" and precision not in PRECISIONS:
            raise ValueError(f"precision must be auto, {', '.join(PRECISIONS)}, got {precision!r}")
        if batch is not None and batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self.device = _choose_device(device)
        if precision == "auto":
            precision = "bf16" if multiplies_bf16(self.device) else "fp32"
        self.precision = precision
        self.batch = batch or (CUDA_BATCH if self.device.type == "cuda" else CPU_BATCH)
        self.sha256 = sha256
        self.patch = network.config.patch
        self.stride = network.config.output_stride
        self.image_size = network.config.image_size
        self.closeup_side = network.config.closeup_side
        self.provides = network.config.provides
        self.counters = Counters()
        self._dtype = PRECISIONS[precision]
        # Weights are converted once; only the activations of the heads are made float32 again.
        self._network = network.to(self.device, self._dtype).eval()
        self._decode = torch.compile(self._network.decode) if compile else self._network.decode
        self._encoded: WeakKeyDictionary[NetworkImage, Encoded] = WeakKeyDictionary()

    @classmethod
    def from_checkpoint(
        cls,
        weights: str | Path,
        device: str = "auto",
        precision: str = "auto",
        encoder: str | Path | None = None,
        compile: bool = False,
    ) -> PairEngine:
        """Load weights and build an engine; raises CheckpointError for an unusable file.

        Args:
            encoder: Second file with the encoder, for weights that come without (DUNE-MASt3R).
        """
        checkpoint = load_checkpoint(weights, encoder)
        for remark in checkpoint.remarks:
            LOG.info("%s: %s", checkpoint.path, remark)
        return cls(checkpoint.network, device, precision, compile=compile, sha256=checkpoint.sha256)

    @torch.inference_mode()
    def predict(
        self, images: Sequence[NetworkImage], edges: Sequence[Edge]
    ) -> list[PairPrediction]:
        """Predictions in the order of ``edges``; images may differ in size.

        Raises:
            ValueError: An edge names an image that is not there.
            torch.OutOfMemoryError: A single pair does not fit into memory.
        """
        for i, j in edges:
            if not (0 <= i < len(images) and 0 <= j < len(images)):
                raise ValueError(f"edge ({i}, {j}) is outside of {len(images)} images")
        used = sorted({view for edge in edges for view in edge})
        self._encode([images[view] for view in used])
        encoded = {view: self._encoded[images[view]] for view in used}
        decoded: dict[int, tuple[PairOutput, int]] = {}
        gathered = _ImageFeatures()

        def decode(indices: list[int]) -> None:
            i, j = (Encoded.cat([encoded[edges[e][side]] for e in indices]) for side in range(2))
            output = self._decode(i, j, bodies=False)
            for row, e in enumerate(indices):
                decoded[e] = (output, row)
                if "humans" in self.provides:
                    gathered.add(edges[e][0], output.i.features, row)
                    gathered.add(edges[e][1], output.j.features, row)
            self.counters.decodes += len(indices)

        def sizes(e: int) -> Hashable:
            return tuple(encoded[view].grid for view in edges[e])

        self._in_batches(range(len(edges)), sizes, decode)
        bodies = self._bodies(gathered)
        return [_unpack(*decoded[e], edge, bodies) for e, edge in enumerate(edges)]

    def people(self, images: Sequence[NetworkImage]) -> list[PairPrediction]:
        """What there is to say of the people of each image alone: it is paired with itself."""
        return self.predict(images, [(k, k) for k in range(len(images))])

    @torch.inference_mode()
    def look(self, images: Tensor) -> CloseupOutput:
        """What single people's images (N, 3, S, S) show, S = ``closeup_side``; see
        :class:`hamst3r.network.closeup.CloseupNetwork`. On the CPU.

        Raises:
            ValueError: The network has no part for close-ups.
        """
        network = self._network.closeup
        if network is None:
            raise ValueError("these weights have no network for close-ups")
        seen: dict[int, CloseupOutput] = {}

        def look(indices: list[int]) -> None:
            batch = images[indices].to(self.device, self._dtype)
            output = CloseupOutput(*(part.cpu() for part in network(batch)))
            for row, k in enumerate(indices):
                seen[k] = CloseupOutput(*(part[row] for part in output))
            self.counters.closeups += len(indices)

        self._in_batches(range(len(images)), lambda k: 0, look)
        return CloseupOutput.stack([seen[k] for k in range(len(images))])

    @torch.inference_mode()
    def describe(self, images: Sequence[NetworkImage]) -> Tensor:
        """(N, encoder_dim) float32 on the CPU: each image's mean token, by which to find its like.

        The images stay encoded, as after :meth:`predict`.
        """
        self._encode(images)
        means = [self._encoded[image].tokens[0].float().mean(0) for image in images]
        return torch.stack(means).cpu()

    def _encode(self, images: Sequence[NetworkImage]) -> None:
        """Encode those images that are not known yet."""
        missing = list(dict.fromkeys(image for image in images if image not in self._encoded))

        def encode(indices: list[int]) -> None:
            chosen = [missing[k] for k in indices]
            stack = torch.stack([image.tensor for image in chosen])
            if self.device.type == "cuda":
                stack = stack.pin_memory()
            batch = self._network.encode(stack.to(self.device, self._dtype, non_blocking=True))
            for row, image in enumerate(chosen):
                self._encoded[image] = batch.select(slice(row, row + 1))
            self.counters.encodes += len(chosen)

        self._in_batches(range(len(missing)), lambda k: missing[k].tensor.shape, encode)

    def _bodies(self, gathered: _ImageFeatures) -> dict[int, tuple[Tensor, Tensor]]:
        """View -> its DensePose (gh, gw, 3) and body logits (gh, gw)."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        views = list(gathered.sums)

        def read(indices: list[int]) -> None:
            chosen = [views[k] for k in indices]
            densepose, logits = self._network.bodies(gathered.mean(chosen, self._dtype))
            for row, view in enumerate(chosen):
                found[view] = densepose[row].clamp(0, 1), logits[row]
            self.counters.bodies += len(chosen)

        self._in_batches(range(len(views)), lambda k: gathered.grids[views[k]], read)
        return found

    def _in_batches(
        self,
        items: Iterable[int],
        key: Callable[[int], Hashable],
        work: Callable[[list[int]], None],
    ) -> None:
        """Work on items of equal key together; smaller batches from where memory runs out."""
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for item in items:
            groups[key(item)].append(item)
        for group in groups.values():
            left = deque(group)
            while left:
                batch = [left.popleft() for _ in range(min(self.batch, len(left)))]
                if not self._fits(work, batch):
                    left.extendleft(reversed(batch))

    def _fits(self, work: Callable[[list[int]], None], batch: list[int]) -> bool:
        try:
            work(batch)
            return True
        except (RuntimeError, MemoryError) as error:
            if len(batch) == 1 or not _out_of_memory(error):
                raise
        # Only here, when the error no longer holds the failed batch's tensors, can they go.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.counters.halvings += 1
        self.batch = len(batch) // 2
        LOG.warning("out of memory on %s: going on in batches of %d", self.device, self.batch)
        return False


class _ImageFeatures:
    """Features of images, summed over the pairs in which they take part."""

    def __init__(self) -> None:
        self.sums: dict[int, Tensor] = {}
        self.counts: dict[int, int] = defaultdict(int)
        self.grids: dict[int, tuple[int, int]] = {}

    def add(self, view: int, features: Features, row: int) -> None:
        one = features.tokens[row].float()
        self.sums[view] = one if view not in self.sums else self.sums[view] + one
        self.counts[view] += 1
        self.grids[view] = features.grid

    def mean(self, views: Sequence[int], dtype: torch.dtype) -> Features:
        """Of views with one grid."""
        tokens = torch.stack([self.sums[view] / self.counts[view] for view in views])
        return Features(tokens.to(dtype), self.grids[views[0]])


def _unpack(
    output: PairOutput, row: int, edge: Edge, bodies: dict[int, tuple[Tensor, Tensor]]
) -> PairPrediction:
    values: dict[str, Tensor | None] = {}
    for view, suffix, part in zip(edge, "ij", (output.i, output.j), strict=True):
        values |= {f"pts_{suffix}": part.points[row], f"conf_{suffix}": part.confidence[row]}
        values |= _descriptors(part, suffix, row)
        if view in bodies:
            values[f"densepose_{suffix}"], values[f"body_logits_{suffix}"] = bodies[view]
    if output.instances:
        last = output.instances[-1]
        values["mask_logits_i"] = last.mask_logits_i[row]
        values["mask_logits_j"] = last.mask_logits_j[row]
        values["person_prob"] = last.class_logits[row].softmax(-1)[:, 1]
    return PairPrediction(*edge, **values)  # type: ignore[arg-type]


def _descriptors(part: ViewOutput, suffix: str, row: int) -> dict[str, Tensor | None]:
    if part.descriptors is None or part.descriptor_confidence is None:
        return {}
    return {
        f"desc_{suffix}": part.descriptors[row],
        f"desc_conf_{suffix}": part.descriptor_confidence[row],
    }


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "can't allocate memory" in str(error)  # torch's allocator for CPUs


def _choose_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"device must be auto, cpu, cuda, cuda:1 or another of torch's, got {device!r}"
        ) from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} asked for, but this torch ({torch.__version__}) sees no CUDA "
            "device; install a CUDA build or use device 'auto' or 'cpu'"
        )
    return chosen


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device has units for bfloat16; without, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
