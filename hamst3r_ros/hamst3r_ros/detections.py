"""People and labels as serialised vision_msgs, for tools that know those; nothing of it where that
package is not installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.scene import LABEL_HUMAN, LABEL_SCENE, Camera, Person
from hamst3r_ros.conversions import body_id, camera_header, pose_numbers, present
from hamst3r_ros.wire import Fields, pack

if TYPE_CHECKING:
    from hamst3r_ros.bodies import Box

try:
    from vision_msgs.msg import Detection2DArray, Detection3DArray, LabelInfo
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True

PERSON = "person"
LABELS = {LABEL_SCENE: "scene", LABEL_HUMAN: PERSON}
_UPRIGHT = (0.0, 0.0, 0.0, 1.0)  # a quaternion


def detections_3d(people: Sequence[Person], head: Fields, boxes: dict[int, Box]) -> bytes:
    """~/humans/detections: Detection3DArray of those who are there.

    Args:
        boxes: Person id -> the box around the body; without it the box has no size.
    """
    found = []
    for person in present(people):
        numbers = pose_numbers(person)
        box = boxes.get(person.id)
        bounds: list[float] = [*person.position.tolist(), *_UPRIGHT, 0.0, 0.0, 0.0]
        if box is not None and person.fit is not None:
            turn = cv2.Rodrigues(np.asarray(person.fit.global_orient, float))[0]
            middle: NDArray[np.float64] = person.joints[0] + turn @ box.middle
            bounds = [*middle.tolist(), *numbers[3:7], *box.size]
        found.append(
            {
                "header": head,
                "results": [_hypothesis(person) | {"pose": numbers}],
                "bbox": bounds,
                "id": body_id(person.id),
            }
        )
    return pack(Detection3DArray, {"header": head, "detections": found})


def detections_2d(people: Sequence[Person], camera: Camera) -> bytes:
    """~/<camera>/detections: Detection2DArray in pixels of the delivered image, with its header."""
    head = camera_header(camera)
    found = []
    for person in present(people):
        roi = person.rois.get(camera.name)
        if roi is not None:
            x, y, width, height = map(float, roi)
            found.append(
                {
                    "header": head,
                    "results": [_hypothesis(person)],
                    "bbox": (x + width / 2, y + height / 2, 0.0, width, height),
                    "id": body_id(person.id),
                }
            )
    return pack(Detection2DArray, {"header": head, "detections": found})


def label_info(head: Fields, threshold: float) -> bytes:
    """~/label_info: LabelInfo of the clouds' ``label``."""
    classes = [{"class_id": number, "class_name": name} for number, name in LABELS.items()]
    return pack(LabelInfo, {"header": head, "class_map": classes, "threshold": threshold})


def _hypothesis(person: Person) -> dict[str, Any]:
    return {"hypothesis": {"class_id": PERSON, "score": float(person.confidence)}}
