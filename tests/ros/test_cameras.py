"""Intrinsics on their way from CameraInfo and calibration files to the frames."""

from __future__ import annotations

import numpy as np
import pytest
from bench import K, camera_info, image, picture
from hamst3r_ros.cameras import (
    CameraInput,
    Extrinsics,
    Intrinsics,
    IntrinsicsError,
    from_camera_info,
)
from hamst3r_ros.diagnostics import ERROR, OK, WARN, Problems
from hamst3r_ros.tf import FrameBuffer

from hamst3r.alignment.calibration import CameraCalibration


class Clock:
    """Seconds that the test decides."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def said() -> list[tuple[bytes, str]]:
    return []


@pytest.fixture
def problems(said) -> Problems:
    return Problems(lambda level, text: said.append((level, text)), Clock())


def nowhere(frame_id: str, stamp: int) -> None:
    return None


def test_intrinsics_follow_the_size_of_the_image():
    full = Intrinsics(K, np.zeros(5), 64, 48)
    assert full.scaled(64, 48) is full
    half = full.scaled(32, 24)
    # A point's pixel, with centres at integers: (u + 0.5) halves.
    point = np.array([0.2, -0.1, 1.0])
    u, u_half = (K @ point)[:2], (half.K @ point)[:2]
    np.testing.assert_allclose(u_half + 0.5, (u + 0.5) / 2)
    with pytest.raises(IntrinsicsError, match="another aspect"):
        full.scaled(64, 64)
    anything = Intrinsics(K, np.zeros(5), 0, 0)
    assert anything.scaled(9, 9) is anything


def test_camera_info_models():
    info = camera_info()
    np.testing.assert_array_equal(from_camera_info(info).K, K)
    info.distortion_model, info.d = "rational_polynomial", [0.1] * 8
    assert from_camera_info(info).distortion.tolist() == [0.1] * 8
    info.distortion_model, info.d = "", []
    assert from_camera_info(info).distortion.size == 0
    info.k = np.zeros(9)
    assert from_camera_info(info) is None


@pytest.mark.parametrize(
    ("model", "d", "k", "told"),
    [
        ("equidistant", [0.1] * 4, K, "distortion model 'equidistant', expected plumb_bob or"),
        ("plumb_bob", [0.1] * 7, K, "7 coefficients of plumb_bob"),
        ("plumb_bob", [np.nan] * 5, K, "finite"),
        ("plumb_bob", [], -K, "positive focal lengths"),
    ],
)
def test_camera_info_that_is_refused(model, d, k, told):
    info = camera_info()
    info.distortion_model, info.d, info.k = model, d, k.ravel()
    with pytest.raises(IntrinsicsError) as caught:
        from_camera_info(info)
    assert told in str(caught.value)


def test_camera_info_of_a_region_of_interest():
    info = camera_info()
    info.width, info.height = 640, 480
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 10, 20, 64, 48
    found = from_camera_info(info).scaled(32, 24)  # binned by two afterwards
    np.testing.assert_allclose(
        found.K[:2, 2], ([[31.5, 23.5]] - np.array([10, 20]) + 0.5)[0] / 2 - 0.5
    )


def test_a_calibration_file_goes_before_camera_info(problems, said):
    camera = CameraInput("a", problems, Clock())
    info = camera_info()
    camera.info_arrived(info)
    message = image(5, "a", picture(0))
    np.testing.assert_array_equal(camera.frame(message, None, nowhere).K, K)
    T = np.eye(4)
    T[0, 3] = 2.0
    known = CameraCalibration(2 * K, np.array([0.1, 0, 0, 0]), T, 128, 96)
    frame = camera.frame(message, known, nowhere)
    np.testing.assert_allclose(frame.K[0, 0], 60.0)
    assert frame.distortion[0] == 0.1 and frame.T_rig_cam is T
    assert (frame.camera, frame.stamp, frame.frame_id) == ("a", 5, "a_optical_frame")
    assert said == []
    # Of an image that was cropped: those of camera_info will do, and that is told.
    cropped = CameraCalibration(K, np.empty(0), T, 100, 10)
    np.testing.assert_array_equal(camera.frame(message, cropped, nowhere).K, K)
    assert [level for level, _ in said] == [WARN]
    assert "calibration file" in said[0][1] and "another aspect" in said[0][1]
    camera.frame(message, known, nowhere)
    assert said[1][0] == OK


def test_states_of_a_camera(problems):
    clock = Clock()
    camera = CameraInput("a", problems, clock)
    assert camera.state(1.0) == "waiting_image"
    camera.incompatible = True
    assert camera.state(1.0) == "qos_incompatible"
    camera.arrived(5)
    assert camera.state(1.0) == "active"
    clock.now += 2.5  # how often it speaks is not known yet
    assert camera.state(1.0) == "active"
    clock.now += 1.0
    assert camera.state(1.0) == "stale"
    camera.arrived(6)
    clock.now += 1.5
    camera.arrived(7)  # every 1.5 s, then
    clock.now += 2.0
    assert camera.state(1.0) == "active"
    clock.now += 1.0
    assert camera.state(1.0) == "stale"
    camera.arrived(8)
    broken = image(7, "a", picture(0))
    broken.encoding = "x"
    assert camera.frame(broken, None, nowhere) is None
    assert camera.state(1.0).startswith("rejected:encoding 'x'")


def test_nobody_knows_poses_without_a_source():
    assert Extrinsics({}, None, "rig").pose("a", 0) is None
    assert Extrinsics({}, FrameBuffer(), "rig").pose("a", 0) is None


def test_problems_are_logged_once_and_stay(problems, said):
    for number in range(3):
        problems.add("cameras", "a", f"a is silent for {number} s")
    assert said == [(WARN, "a is silent for 0 s")]
    assert problems.of("cameras")["a"].text == "a is silent for 2 s"
    problems.add("cameras", "a", "worse", ERROR)
    problems.remove("cameras", "a")
    problems.remove("cameras", "a")
    assert said[1:] == [(ERROR, "worse"), (OK, "over: worse")]
    assert problems.of("cameras") == {}


def test_events_are_in_a_report_and_then_over(problems, said):
    for _ in range(5):
        problems.event("world", "b", "it happened")
    problems.reported()
    assert problems.of("world")["b"].text == "it happened"
    problems.reported()
    assert problems.of("world") == {}
    assert said == [(WARN, "it happened")]
    problems.event("world", "b", "it happened")  # soon again: not logged again
    assert len(said) == 1 and problems.of("world")
