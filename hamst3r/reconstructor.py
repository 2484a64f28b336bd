"""Images of several cameras in, one :class:`~hamst3r.scene.Scene` out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.incremental import Aligner, AlignerConfig, Alignment
from hamst3r.alignment.stream import Recalled
from hamst3r.frames import FrameSet
from hamst3r.geometry import transform, unproject
from hamst3r.image import NetworkImage, prepare
from hamst3r.pairs import Edge, Pairing, choose_pairs
from hamst3r.people.association import Eye
from hamst3r.people.body import BodyModel
from hamst3r.people.closeups import CloseupsConfig, see_people
from hamst3r.people.instances import ViewPeople
from hamst3r.people.track import TrackingConfig
from hamst3r.people.tracking import PeopleTracker, Tracked
from hamst3r.people.votes import InstancesConfig
from hamst3r.scene import (
    LABEL_HUMAN,
    LABEL_SCENE,
    Camera,
    Person,
    PointCloud,
    Scene,
    View,
)

# Stamps may arrive a little out of order; a longer way back is another recording or clock.
CLOCK_JUMP_NS = 500_000_000


class Engine(Protocol):
    """What predicts pairs; :class:`hamst3r.engine.PairEngine` in practice."""

    patch: int
    stride: int
    image_size: int

    def predict(self, images: Sequence[NetworkImage], edges: Sequence[tuple[int, int]]) -> list: ...


@dataclass(frozen=True)
class ReconstructorConfig:
    """Settings of a reconstruction.

    Attributes:
        image_size: Long side in pixels that the network sees; None = what it was trained for.
        pairing: Which pairs of views the network looks at.
        point_confidence: Points of no more than this confidence (>= 1) stay out of the cloud.
        relative_confidence: And so do those whose confidence exceeds 1 by less than this share of
            what is usual (the median) in their view: what confidence means differs by network.
        max_points: Largest cloud; more are thinned evenly.
        voxel: Metres; keeps the most confident point of each cube, 0 keeps all.
        alignment, instances, closeups, tracking: Of the stages within.
    """

    image_size: int | None = None
    pairing: Pairing = Pairing.COMPLETE
    point_confidence: float = 1.0
    relative_confidence: float = 0.2
    max_points: int = 500_000
    voxel: float = 0.0
    alignment: AlignerConfig = field(default_factory=AlignerConfig)
    instances: InstancesConfig = field(default_factory=InstancesConfig)
    closeups: CloseupsConfig = field(default_factory=CloseupsConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        if self.max_points < 1:
            raise ValueError(f"max_points must be at least 1, got {self.max_points}")
        if not self.voxel >= 0:
            raise ValueError(f"voxel must be 0 or a length in metres, got {self.voxel}")


class Reconstructor:
    """Turns frame sets into scenes, one at a time.

    Of the past it keeps no cloud, only what continues the next scene: the poses of unknown cameras
    and the focal lengths, as running means over ``alignment.window`` frame sets, and the tracks of
    people. With pairing "rig", for cameras that move, it also keeps the images and depths of at
    most ``alignment.stream.keyframes`` keyframes.

    Args:
        engine: Runs the network.
        config: Settings. The attribute may be replaced between two frame sets; what it says of the
            alignment counts from the beginning only.
        body: Body model to fit; None = the embedded one.
        clock: Seconds, monotonic; for ``Scene.timings``.
    """

    def __init__(
        self,
        engine: Engine,
        config: ReconstructorConfig | None = None,
        body: BodyModel | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.engine = engine
        self.config = config or ReconstructorConfig()
        self._clock = clock
        self._aligner = Aligner(self.config.alignment)
        self._tracker = PeopleTracker(body, self.config.tracking)
        self._stamp: int | None = None

    @classmethod
    def from_checkpoint(
        cls,
        weights: str | Path | None = None,
        device: str = "auto",
        precision: str = "auto",
        config: ReconstructorConfig | None = None,
        body: BodyModel | None = None,
    ) -> Reconstructor:
        """Load weights (None: the shipped compact network).

        Raises:
            CheckpointError: A weights file that cannot be used.
            ValueError: A device or precision that is not there.
        """
        from hamst3r.engine import PairEngine
        from hamst3r.network.checkpoint import shipped_weights

        engine = PairEngine.from_checkpoint(weights or shipped_weights(), device, precision)
        return cls(engine, config, body)

    def reset(self) -> None:
        """Forget world, focal lengths and people; ids start again at 1."""
        self._aligner.reset()
        self._tracker.reset()
        self._stamp = None

    def push(
        self,
        frames: FrameSet,
        edges: Callable[[Sequence[NetworkImage]], Sequence[Edge]] | None = None,
    ) -> Scene:
        """Reconstruct one frame set.

        Weak or broken predictions lead to notes and to views without a place, never to errors.

        Args:
            frames: Images of one time (or of one place).
            edges: Chooses the pairs (i, j) of these images, as the network will see them; None =
                as ``config.pairing`` says.

        Raises:
            ValueError: A frame that cannot be used (see :func:`hamst3r.image.prepare`), or pairs of
                images that are not there.
        """
        timer = _Timer(self._clock)
        self._tracker.config = self.config.tracking
        begins = self._stamp is None
        notes = self._watch_clock(frames.stamp)
        engine = self.engine
        size = self.config.image_size or engine.image_size
        with timer("prepare"):
            images = [prepare(f, size, engine.patch, engine.stride) for f in frames.frames]
            pairs = self._pairs(images, edges)
            moving = self.config.pairing is Pairing.RIG
            recalled = self._aligner.recall(frames) if moving else Recalled()
        with timer("network"):
            predictions = engine.predict([*images, *recalled.images], [*pairs, *recalled.edges])
        with timer("instances"):
            config = self.config
            people_2d = see_people(
                engine,
                frames.frames,
                images,
                predictions[: len(pairs)],
                config.instances,
                config.closeups,
                known_eyes(frames, images, config.instances.association.max_turn),
            )
        with timer("align"):
            alignment = self._aligner.solve(
                frames,
                images,
                predictions,
                [_movers(people) for people in people_2d],
                recalled if moving else None,
            )
        with timer("people"):
            tracked = self._track(frames, images, people_2d, alignment)
            if begins and self._tracker.scale is not None:
                alignment = self._aligner.settle(alignment)
                self._tracker.reset()
                tracked = self._track(frames, images, people_2d, alignment)
        with timer("fuse"):
            placed = np.flatnonzero(alignment.placed).tolist()
            views = tuple(_view(images[v], alignment, v, tracked, people_2d[v]) for v in placed)
            cameras = tuple(_camera(frames, images[v], alignment, v) for v in placed)
            points = fuse_points(views, cameras, self.config)
            people = tuple(_counted(tracked.people, points))
        return Scene(
            stamp=frames.stamp,
            cameras=cameras,
            views=views,
            points=points,
            people=people,
            scale_source=alignment.scale_source,
            scale_std=alignment.scale_std,
            T_map_world=alignment.T_map_world,
            keyframe=alignment.keyframe,
            timings=timer.seconds,
            notes=(*notes, *alignment.notes),
        )

    def _track(
        self,
        frames: FrameSet,
        images: Sequence[NetworkImage],
        people: Sequence[ViewPeople],
        alignment: Alignment,
    ) -> Tracked:
        """Everybody, whose size the world will heed."""
        maps = [image.T_image_grid for image in images]
        colours = [image.rgb for image in images]
        tracked = self._tracker.update(
            frames.stamp, people, alignment, frames.cameras, maps, colours
        )
        if self._tracker.scale is not None:
            self._aligner.heed_scale(*self._tracker.scale)
        return tracked

    def _pairs(
        self,
        images: Sequence[NetworkImage],
        edges: Callable[[Sequence[NetworkImage]], Sequence[Edge]] | None,
    ) -> list[Edge]:
        if edges is None:
            return choose_pairs(len(images), self.config.pairing)
        chosen = list(edges(images))
        for i, j in chosen:
            if not (0 <= i < len(images) and 0 <= j < len(images)):
                raise ValueError(
                    f"the pair ({i}, {j}) was chosen of {len(images)} images; expected two "
                    f"indices from 0 to {len(images) - 1}"
                )
        return chosen

    def _watch_clock(self, stamp: int) -> tuple[str, ...]:
        last, self._stamp = self._stamp, stamp
        if last is None or stamp > last - CLOCK_JUMP_NS:
            return ()
        self._tracker.reset()
        return (f"time jumped back by {(last - stamp) / 1e9:.1f} s; people were forgotten",)


def fuse_points(
    views: Sequence[View], cameras: Sequence[Camera], config: ReconstructorConfig
) -> PointCloud:
    """The cloud of all views' pixels that are confident enough, in the world.

    Thinned to ``config.max_points``, evenly along the views' pixels.
    """
    parts = [
        _view_points(view, camera, index, confident(view, config))
        for index, (view, camera) in enumerate(zip(views, cameras, strict=True))
    ]
    columns = {
        name: np.concatenate([part[name] for part in parts]) if parts else empty
        for name, empty in _EMPTY.items()
    }
    if config.voxel > 0 and len(columns["xyz"]):
        keep = _best_per_voxel(columns["xyz"], columns["confidence"], config.voxel)
        columns = {name: column[keep] for name, column in columns.items()}
    count = len(columns["xyz"])
    if count > config.max_points:
        keep = np.linspace(0, count - 1, config.max_points).astype(int)
        columns = {name: column[keep] for name, column in columns.items()}
    return PointCloud(**columns)


def confident(view: View, config: ReconstructorConfig) -> NDArray[np.bool_]:
    """(h, w) pixels whose points are good enough for the cloud."""
    valid = (view.depth > 0) & (view.confidence > config.point_confidence)
    if not valid.any():
        return valid
    usual = float(np.median(view.confidence[valid])) - 1
    return valid & (view.confidence - 1 >= config.relative_confidence * usual)


_EMPTY: dict[str, NDArray] = {
    "xyz": np.empty((0, 3), np.float32),
    "rgb": np.empty((0, 3), np.uint8),
    "confidence": np.empty(0, np.float32),
    "label": np.empty(0, np.uint8),
    "instance": np.empty(0, np.uint16),
    "camera": np.empty(0, np.uint8),
    "body": np.empty((0, 3), np.float32),
}


def _view_points(
    view: View, camera: Camera, index: int, keep: NDArray[np.bool_]
) -> dict[str, NDArray]:
    instance = view.instances[keep]
    points = unproject(view.depth, view.K)[keep]
    return {
        "xyz": transform(camera.T_world_cam, points).astype(np.float32),
        "rgb": view.rgb[keep],
        "confidence": view.confidence[keep],
        "label": np.where(instance > 0, LABEL_HUMAN, LABEL_SCENE).astype(np.uint8),
        "instance": instance,
        "camera": np.full(len(instance), index, np.uint8),
        "body": view.densepose[keep],
    }


def _best_per_voxel(xyz: NDArray, confidence: NDArray, voxel: float) -> NDArray[np.intp]:
    """Indices, ascending, of the most confident point of each cube."""
    order = np.argsort(-confidence, kind="stable")
    cubes = np.floor(xyz[order].astype(float) / voxel).astype(np.int64)
    _, first = np.unique(cubes, axis=0, return_index=True)
    return np.sort(order[first])


def known_eyes(frames: FrameSet, images: Sequence[NetworkImage], max_turn: float) -> dict[int, Eye]:
    """View -> its camera on the rig, where that is known well enough."""
    eyes = {}
    for view, (frame, image) in enumerate(zip(frames.frames, images, strict=True)):
        if image.K is None or frame.T_rig_cam is None:
            continue
        covariance = frame.T_rig_cam_covariance
        variance = np.zeros(6) if covariance is None else np.diag(covariance)
        # A wrong focal length turns the rays half-way to the image's border by half as much.
        turn = float(np.sqrt(variance[3:].mean() + (frame.K_std / 2) ** 2))
        if turn <= max_turn:
            place = float(np.sqrt(variance[:3].mean()))
            eyes[view] = Eye(image.K, image.grid, frame.T_rig_cam, turn, place)
    return eyes


def _movers(people: ViewPeople) -> NDArray[np.int32]:
    """Who is where; -1 on bodies that no instance mask claimed."""
    unclaimed = (people.instances == 0) & np.isfinite(people.densepose[..., 0])
    return np.where(unclaimed, -1, people.instances)


def _view(
    image: NetworkImage,
    alignment: Alignment,
    index: int,
    tracked: Tracked,
    people: ViewPeople,
) -> View:
    return View(
        camera=image.camera,
        K=alignment.K[index],
        depth=alignment.depth[index] * tracked.depth_factors[index],
        confidence=alignment.confidence[index],
        rgb=image.rgb,
        instances=tracked.instances[index],
        densepose=people.densepose,
    )


def _camera(frames: FrameSet, image: NetworkImage, alignment: Alignment, index: int) -> Camera:
    frame = frames.frames[index]
    height, width = frame.image.shape[:2]
    if image.K_image is not None and frame.K_std == 0:
        K = image.K_image
    else:
        K = image.T_image_grid @ alignment.K[index]
    return Camera(
        name=frame.camera,
        frame_id=frame.frame_id,
        stamp=frame.stamp,
        width=width,
        height=height,
        K=K,
        T_world_cam=alignment.T_world_cam[index],
        confidence=float(alignment.camera_confidence[index]),
    )


def _counted(people: Sequence[Person], points: PointCloud) -> list[Person]:
    """People with the number of points that the cloud really has of them."""
    counts = np.bincount(points.instance, minlength=1 + max((p.id for p in people), default=0))
    return [replace(person, num_points=int(counts[person.id])) for person in people]


class _Timer:
    """``with timer("stage"):`` records seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._stage, self._start = "", 0.0

    def __call__(self, stage: str) -> _Timer:
        self._stage = stage
        return self

    def __enter__(self) -> None:
        self._start = self._clock()

    def __exit__(self, *_: object) -> None:
        self.seconds[self._stage] = self._clock() - self._start
