"""From parameters to a reconstructor that is ready to run."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from hamst3r.alignment.incremental import AlignerConfig
from hamst3r.combined import CombinedEngine
from hamst3r.engine import PairEngine
from hamst3r.frames import Frame, FrameSet
from hamst3r.keypoints import KeypointUse
from hamst3r.network.checkpoint import shipped_weights
from hamst3r.pairs import Pairing
from hamst3r.people.body import BodyModel, anny24
from hamst3r.people.body_files import load_body_model
from hamst3r.people.closeups import CloseupsConfig
from hamst3r.people.track import TrackingConfig
from hamst3r.people.votes import InstancesConfig
from hamst3r.reconstructor import Reconstructor, ReconstructorConfig
from hamst3r_ros.parameter import ParameterError, Values

Engine = PairEngine | CombinedEngine

WARMUP_SIZE = (480, 640)


def reconstructor_config(values: Values) -> ReconstructorConfig:
    """What the node's parameters say about the reconstruction."""
    timeout = values["humans.track_timeout"]
    tracking = TrackingConfig()
    return ReconstructorConfig(
        image_size=values["model.image_size"] or None,
        pairing=Pairing(values["pairs"]),
        point_confidence=values["points.min_confidence"],
        max_points=values["points.max"],
        voxel=values["points.voxel"],
        alignment=AlignerConfig(
            find_gravity=values["world.find_gravity"],
            keypoints=KeypointUse(values["world.keypoints"]),
            keypoint_size=values["world.keypoint_size"],
        ),
        instances=InstancesConfig(
            min_score=values["humans.min_score"], min_pixels=values["humans.min_pixels"]
        ),
        closeups=CloseupsConfig(most=values["humans.closeups"]),
        tracking=replace(
            tracking,
            bodies=values["humans.fit_body_model"],
            timeout=timeout,
            new_timeout=min(tracking.new_timeout, timeout),
            remembered=values["humans.remember"],
        ),
    )


def make_engine(values: Values) -> Engine:
    """Load the weights.

    Raises:
        ParameterError, hamst3r.network.checkpoint.CheckpointError, ValueError: One line that says
            what to change.
    """
    weights = Path(values["model.weights"] or shipped_weights()).expanduser()
    _check_sha256(weights, values["model.weights_sha256"])
    engine = _pair_engine(values, weights)
    size, patch = values["model.image_size"], engine.patch
    if 0 < size < patch:
        raise ParameterError(
            f"parameter 'model.image_size' is {size}, expected 0 or at least {patch} for these "
            "weights"
        )
    human = values["model.human_weights"]
    if not human:
        return engine
    second = _pair_engine(values, shipped_weights() if human == "compact" else Path(human))
    if "humans" not in second.provides:
        raise ParameterError(f"parameter 'model.human_weights': no human heads in {human}")
    return CombinedEngine(engine, second)


def _pair_engine(values: Values, weights: Path) -> PairEngine:
    return PairEngine.from_checkpoint(
        weights,
        values["model.device"],
        values["model.precision"],
        encoder=values["model.encoder_weights"] or None,
        compile=values["model.compile"],
    )


def make_body(values: Values) -> BodyModel:
    """The body model that people are fitted with.

    Raises:
        hamst3r.people.body.BodyModelError: A file that cannot be used.
    """
    path = values["humans.body_model"]
    return load_body_model(Path(path).expanduser()) if path else anny24()


def make_reconstructor(engine: Engine, values: Values, body: BodyModel) -> Reconstructor:
    """A reconstructor that has run on blank images already, and forgotten them."""
    reconstructor = Reconstructor(engine, reconstructor_config(values), body)
    blank = np.full((*WARMUP_SIZE, 3), 128, np.uint8)
    for run in range(values["model.warmup"]):
        frames = tuple(Frame(name, run, blank) for name in values["cameras"])
        reconstructor.push(FrameSet(run, frames))
    reconstructor.reset()
    return reconstructor


def _check_sha256(weights: Path, expected: str) -> None:
    if not expected or not weights.is_file():
        return  # a missing file is the checkpoint's to tell
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != expected.lower():
        raise ParameterError(
            f"{weights}: SHA-256 is {found}, but parameter 'model.weights_sha256' expects "
            f"{expected}; correct one of the two"
        )
