"""Keyframes and their graph: what is kept of the past, of a size that never grows.

Every view of a keyframe is a node (see :mod:`hamst3r.alignment.factors`), and so is its rig. When
a keyframe leaves, what was known through it stays as a Gaussian of its neighbours (Schur
complement), so that the poses left are those that all the past makes most likely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.factors import Absolute, Factor, Level, Nodes, Relative
from hamst3r.alignment.fusing import fuse, marginalise, merged
from hamst3r.geometry import lengths
from hamst3r.image import NetworkImage

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
GAUGE_STD = 1e-4


@dataclass(eq=False)
class KeyView:
    """One camera's view of a keyframe.

    Attributes:
        camera: Name. image: As the network saw it.
        K: (3, 3) of the grid. depth: (gh, gw), in a unit that the node's scale takes to metres.
        confidence: (gh, gw) >= 1, 0 invalid. movers: (gh, gw) bool. node: In the graph.
    """

    camera: str
    image: NetworkImage
    K: F64
    depth: F32
    confidence: F32
    movers: NDArray[np.bool_]
    node: int = -1


@dataclass(eq=False)
class Keyframe:
    """One frame set that is remembered.

    Attributes:
        index: Counts keyframes. stamp: ns. views: By camera. rig: Node of its rig.
        reach: Metres, the usual depth: how far away it may be of use.
    """

    index: int
    stamp: int
    views: dict[str, KeyView]
    rig: int
    reach: float

    @property
    def nodes(self) -> list[int]:
        """All its nodes."""
        return [*(view.node for view in self.views.values()), self.rig]


@dataclass(eq=False)
class KeyframeGraph:
    """The keyframes, oldest first, their nodes and what is known of those.

    Attributes:
        window: So many newest keyframes are always kept. capacity: And so many in all.
        scale_std: Relative, of the newest keyframe's depths.
    """

    window: int
    capacity: int
    keyframes: list[Keyframe] = field(default_factory=list)
    nodes: Nodes = field(default_factory=lambda: Nodes.at(np.empty((0, 4, 4))))
    scale_std: float = 0.0
    _factors: list[Factor] = field(default_factory=list)
    _spare: list[int] = field(default_factory=list)
    _made: int = 0

    def node(self, T: F64) -> int:
        """A new node at T (4, 4); the numbers of nodes that are gone are used again."""
        if not self._spare:
            count = len(self.nodes.T)
            self.nodes = Nodes(
                np.concatenate([self.nodes.T, np.eye(4)[None]]), np.append(self.nodes.log_scale, 0)
            )
            self._spare.append(count)
        node = self._spare.pop()
        self.nodes.T[node], self.nodes.log_scale[node] = T, 0.0
        return node

    def pose(self, view: KeyView) -> F64:
        """(4, 4) T_map_cam."""
        T: F64 = self.nodes.T[view.node]
        return T

    def depth(self, view: KeyView) -> F32:
        """(gh, gw) metres."""
        return view.depth * np.float32(np.exp(self.nodes.log_scale[view.node]))

    def named(self, factor: Relative | Level, node: NDArray[np.intp]) -> list[Factor]:
        """A factor of ``node[k]`` instead of k; nothing of those that have no node (-1).

        What pairs have measured against the metre is now against the unit of the nodes' depths.
        """
        if isinstance(factor, Level):
            known = node[factor.node] >= 0
            at = node[factor.node[known]]
            return [Level(at, factor.up[known], factor.std[known])] if known.any() else []
        known = (node[factor.i] >= 0) & (node[factor.j] >= 0)
        if not known.any():
            return []
        i, j = node[factor.i[known]], node[factor.j[known]]
        ratio = factor.log_ratio[known] + self.nodes.log_scale[j] - self.nodes.log_scale[i]
        return [
            replace(
                factor,
                i=i,
                j=j,
                T_i_j=factor.T_i_j[known],
                log_ratio=ratio,
                information=factor.information[known],
            )
        ]

    def add(
        self,
        stamp: int,
        views: Mapping[str, KeyView],
        rig: int,
        factors: Sequence[Factor],
    ) -> Keyframe:
        """Take a keyframe in, and let the one go that is least missed if there are too many.

        Args:
            factors: Of its nodes, to each other and to those of other keyframes.
        """
        reach = float(np.median([np.median(v.depth[v.depth > 0]) for v in views.values()]))
        if not self.keyframes:
            first = next(iter(views.values())).node
            gauge = np.full((1, 6, 6), np.eye(6) / GAUGE_STD**2)
            self._factors.append(Absolute(np.array([first]), self.nodes.T[[first]], gauge))
        self.keyframes.append(Keyframe(self._made, stamp, dict(views), rig, reach))
        self._made += 1
        self._factors = merged([*self._factors, *factors])
        if len(self.keyframes) > self.capacity:
            self._let_go()
        return self.keyframes[-1]

    def optimise(self, steps: int) -> None:
        """Bring all poses to where all factors together want them."""
        used = [node for keyframe in self.keyframes for node in keyframe.nodes]
        free = np.zeros(len(self.nodes.T), bool)
        free[used] = True
        fused = fuse(self.nodes, self._factors, free, steps)
        self.nodes = fused.nodes
        newest = [view.node for view in self.keyframes[-1].views.values()]
        self.scale_std = fused.scale_std(np.array(newest))

    def centre(self, keyframe: Keyframe) -> F64:
        """(3,) where the cameras are, on average."""
        T = self.nodes.T[[view.node for view in keyframe.views.values()]]
        mean: F64 = T[:, :3, 3].mean(0)
        return mean

    def _let_go(self) -> None:
        """Remove the keyframe whose neighbours in time are nearest to it."""
        candidates = self.keyframes[: -self.window] or self.keyframes[:1]
        centres = np.stack([self.centre(k) for k in self.keyframes])
        gaps = lengths(np.diff(centres, axis=0))
        # The first one has one neighbour only: that of a place that nothing else shows.
        spacing = [gaps[k] + (gaps[k - 1] if k else gaps[k]) for k in range(len(candidates))]
        leaving = candidates[int(np.argmin(spacing))]
        self.keyframes.remove(leaving)
        gone = set(leaving.nodes)
        self._factors, remainder = marginalise(self.nodes, self._factors, gone)
        if remainder is not None:
            self._factors.append(remainder)
        self._spare += gone
