"""A recording with calibration goes through the system; its camera frames come out again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dds_peer import Peer, nanoseconds, points
from recordings import write_recording
from running import BALANCING, Start
from scipy.spatial.transform import Rotation

from hamst3r.alignment.calibration import load_calibration

# The real recording is not part of the repository; where it is, it is played.
RECORDINGS = ["synthetic", *(["balancing"] if BALANCING.is_dir() else [])]


@pytest.mark.parametrize("recording", RECORDINGS)
@pytest.mark.parametrize("known_by", ["tf", "file"])
def test_frames_equal_the_calibration(
    recording: str, known_by: str, tmp_path: Path, start: Start, peer: Peer
) -> None:
    folder = BALANCING if recording == "balancing" else write_recording(tmp_path / "recording")
    calibration = load_calibration(folder / "calibration.json")
    peer.listen("/tf", "tf2_msgs/msg/TFMessage")
    peer.listen("/hamst3r/points", "sensor_msgs/msg/PointCloud2")
    arguments = ["source:=replay", f"replay_dir:={folder}", "rate:=2", "device:=cpu"]
    if known_by == "file":
        arguments.append(f"calibration:={folder / 'calibration.json'}")
    bringup = start("bringup", *arguments)
    peer.wait(lambda: len(peer.received["/hamst3r/points"]) > 1, bringup.alive)
    peer.wait(lambda: len(peer.received["/tf"]) > 1, bringup.alive)

    for cloud in peer.received["/hamst3r/points"]:
        assert len(points(cloud)) > 500
    for message in peer.received["/tf"]:
        assert len({nanoseconds(transform) for transform in message.transforms}) == 1
        found = {t.child_frame_id: t.transform for t in message.transforms}
        assert set(found) == {f"hamst3r/{name}_optical_frame" for name in calibration}
        for name, known in calibration.items():
            t = found[f"hamst3r/{name}_optical_frame"].translation
            q = found[f"hamst3r/{name}_optical_frame"].rotation
            assert np.linalg.norm([t.x, t.y, t.z] - known.T_rig_cam[:3, 3]) < 1e-3
            turn = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
            off = Rotation.from_matrix(turn.T @ known.T_rig_cam[:3, :3]).magnitude()
            assert np.degrees(off) < 0.1
