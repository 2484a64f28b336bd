"""The node's outputs: each made only for those who listen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from hamst3r_msgs.msg import CameraArray, HumanArray
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from hamst3r.people.body import BodyModel
from hamst3r.scene import Scene, View
from hamst3r.static_map import StaticMap
from hamst3r_ros import clouds, conversions, detections, qos
from hamst3r_ros.bodies import Box, CoarseBody
from hamst3r_ros.headers import NANOSECONDS, Link, header_fields, type_name
from hamst3r_ros.parameter import Values
from hamst3r_ros.wire import Fields

# Markers outlive this many frame sets that do not come, within these seconds.
MARKER_SETS, MARKER_SECONDS = 3.0, (0.5, 10.0)


class Publishers:
    """Lifecycle publishers of a :class:`~hamst3r.scene.Scene`.

    Made while the node configures; silent until it is active. One thread calls
    :meth:`publish_people` and then :meth:`publish_rest` with each scene.
    """

    def __init__(
        self,
        node: LifecycleNode,
        cameras: Sequence[str],
        broadcast: bool,
        body: BodyModel,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._body = CoarseBody(body)
        self._clock = clock
        self._all: list[LifecyclePublisher] = []
        self._humans = self._make(HumanArray, "~/humans")
        self._points = self._make(PointCloud2, "~/points")
        self._obstacles = self._make(PointCloud2, "~/obstacles")
        self._map = self._make(PointCloud2, "~/map", qos.latched())
        self._markers = self._make(MarkerArray, "~/humans/markers")
        self._cameras = self._make(CameraArray, "~/cameras")
        self._detections = self._labels = None
        if detections.AVAILABLE:
            self._detections = self._make(detections.Detection3DArray, "~/humans/detections")
            self._labels = self._make(detections.LabelInfo, "~/label_info", qos.latched())
        self._views: dict[str, dict[str, LifecyclePublisher]] = {}
        for name in cameras:
            base = f"~/{name.strip('~/')}"
            self._views[name] = {
                "points": self._make(PointCloud2, f"{base}/points"),
                "depth": self._make(Image, f"{base}/depth"),
                "instances": self._make(Image, f"{base}/instances"),
                "densepose": self._make(Image, f"{base}/densepose"),
                "camera_info": self._make(CameraInfo, f"{base}/camera_info"),
            }
            if detections.AVAILABLE:
                kind = detections.Detection2DArray
                self._views[name]["detections"] = self._make(kind, f"{base}/detections")
        self._tf: LifecyclePublisher | None = None
        if broadcast:
            self._tf = node.create_lifecycle_publisher(
                TFMessage, "/tf", qos.TF, event_callbacks=qos.SILENT_PUBLISHER
            )
            self._all.append(self._tf)
        self._links: list[Link] = []
        self._boxes: dict[int, Box] | None = None  # of the last scene, where they were needed
        self._shown: set[int] = set()
        self._last_stamp: int | None = None
        self._last_cloud = self._last_map = float("-inf")
        self._static = StaticMap()

    def _make(
        self, kind: type, topic: str, profile: QoSProfile | None = None
    ) -> LifecyclePublisher:
        publisher = self._node.create_lifecycle_publisher(
            kind,
            topic,
            profile or qos.output(),
            event_callbacks=qos.SILENT_PUBLISHER,
            qos_overriding_options=qos.overridable(),
        )
        self._all.append(publisher)
        return publisher

    def destroy(self) -> None:
        """Take all topics away; call it when nothing more is published."""
        for publisher in self._all:
            self._node.destroy_lifecycle_publisher(publisher)
        self._all.clear()

    def begin(self, stamp: int, values: Values) -> None:
        """Send what is sent once; after the node has become active."""
        if self._labels is not None:
            head = header_fields(stamp, values["world.frame"])
            self._labels.publish(detections.label_info(head, values["humans.min_score"]))

    def repeat(self, stamp: int) -> None:
        """Say of another time that the frames are where they were last; from any thread."""
        links = self._links
        if self._tf is not None and links:
            self._tf.publish(conversions.transforms(links, stamp))

    def wanted(self) -> bool:
        """Whether anybody listens to anything that is made of frame sets."""
        return any(_listened(publisher) for publisher in self._all if publisher is not self._labels)

    def unheard(self) -> dict[str, str]:
        """Topic -> who subscribes to it in vain, and why: another quality of service."""
        found = {}
        for publisher in self._all:
            topic = publisher.topic_name
            if self._node.count_subscribers(topic) <= publisher.get_subscription_count():
                continue
            for reader in self._node.get_subscriptions_info_by_topic(topic):
                why = qos.mismatch(publisher.qos_profile, reader.qos_profile)
                if why and reader.topic_type == type_name(publisher.msg_type):
                    found[topic] = f"{reader.node_namespace.rstrip('/')}/{reader.node_name}: {why}"
        return found

    def forget(self) -> None:
        """The world began anew; called by the thread that publishes."""
        self._links = []
        self._static.clear()
        self._last_map = float("-inf")

    def publish_people(self, scene: Scene, values: Values, anchored: Link | None = None) -> None:
        """Send frames and people of a scene: somebody may be waiting for them to stop in time.

        People also when there are none, so that viewers clear.

        Args:
            values: The parameters as of now.
            anchored: The world's pose in its parent frame, if it has one, for /tf.
        """
        world = values["world.frame"]
        frames = humans = None
        if self._tf is not None and scene.cameras:
            self._links = conversions.links(scene, world, values["tf.prefix"])
            if anchored is not None:
                self._links.append(anchored)
            frames = conversions.transforms(self._links, scene.stamp)
        self._boxes = None
        if _listened(self._humans):
            self._boxes = self._body.boxes(scene.people)
            humans = conversions.human_array(scene, world, self._boxes)
        # Who is woken by the one would compete with the making of the other.
        if self._tf is not None and frames is not None:
            self._tf.publish(frames)
        if humans is not None:
            self._humans.publish(humans)

    def publish_rest(self, scene: Scene, values: Values) -> None:
        """Send everything else of the scene that :meth:`publish_people` had last."""
        head = header_fields(scene.stamp, values["world.frame"])
        if self._detections is not None and _listened(self._detections):
            boxes = self._body.boxes(scene.people) if self._boxes is None else self._boxes
            self._detections.publish(detections.detections_3d(scene.people, head, boxes))
        if _listened(self._cameras):
            self._cameras.publish(conversions.camera_array(scene, head))
        if _listened(self._markers):
            self._publish_markers(scene, head)
        self._last_stamp = scene.stamp
        if _listened(self._obstacles):
            voxel = values["obstacles.voxel"]
            self._obstacles.publish(clouds.obstacle_cloud(scene.points, head, voxel))
        now = self._clock()
        if _listened(self._points) and _due(now, self._last_cloud, values["points.rate"]):
            self._last_cloud = now
            choice = values["points.body_coordinates"]
            on = choice == "on" or (choice == "auto" and bool(scene.points.instance.any()))
            self._points.publish(clouds.point_cloud(scene.points, head, on))
        self._publish_views(scene)
        mapping = values["map.always"] or _listened(self._map)
        if mapping and _due(now, self._last_map, values["map.rate"]):
            self._last_map = now
            self._static.add(scene, values["map.voxel"], values["map.max_points"])
            self._map.publish(clouds.map_cloud(*self._static.confirmed(), head))

    def _publish_markers(self, scene: Scene, head: Fields) -> None:
        lifetime = MARKER_SECONDS[0]
        if self._last_stamp is not None:
            between = (scene.stamp - self._last_stamp) / NANOSECONDS
            lifetime = float(np.clip(MARKER_SETS * between, *MARKER_SECONDS))
        bodies = self._body.pose(scene.people)
        self._markers.publish(
            conversions.markers(scene, head, lifetime, bodies, self._body.faces, self._shown)
        )

    def _publish_views(self, scene: Scene) -> None:
        for index, (camera, view) in enumerate(zip(scene.cameras, scene.views, strict=True)):
            wanted = {t: p for t, p in self._views[camera.name].items() if _listened(p)}
            if not wanted:
                continue
            head = conversions.camera_header(camera)
            for topic, publisher in wanted.items():
                if topic == "points":
                    publisher.publish(clouds.view_cloud(view, index, head))
                elif topic == "detections":
                    publisher.publish(detections.detections_2d(scene.people, camera))
                else:
                    publisher.publish(_VIEW_MESSAGES[topic](view, head))


# Topic of a camera -> what makes its message of a view.
_VIEW_MESSAGES: dict[str, Callable[[View, Fields], bytes]] = {
    "camera_info": conversions.grid_camera_info,
    "depth": conversions.depth_image,
    "instances": conversions.instance_image,
    "densepose": conversions.densepose_image,
}


def _due(now: float, last: float, rate: float) -> bool:
    return rate <= 0 or now - last >= 1 / rate


def _listened(publisher: LifecyclePublisher) -> bool:
    return publisher.get_subscription_count() > 0
