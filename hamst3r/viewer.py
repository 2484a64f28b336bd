"""Scenes as a web page, by viser: points, people, cameras, time, and a measuring tape."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from hamst3r.colors import by_body, by_confidence, by_person, person_colors, tinted
from hamst3r.export.geometry import camera_size, overview, pose_bodies
from hamst3r.people.body import BodyModel, anny24
from hamst3r.recording import delivered_size
from hamst3r.scene import Camera, PointCloud, Scene

Images = Mapping[str, NDArray[np.uint8]]

# Radians beside the click within which a point counts as hit.
AIM = np.deg2rad(0.6)
MAX_TEXTURE = 320
# The page's field of view is wide: the overview is taken from nearer.
NEARER = 0.85
COLORINGS: dict[str, Callable[[PointCloud], NDArray[np.uint8]]] = {
    "photo and people": lambda points: tinted(points.rgb, points.instance),
    "photo": lambda points: points.rgb,
    "person": lambda points: by_person(points.rgb, points.instance),
    "body part": lambda points: by_body(points.rgb, points.body),
    "confidence": lambda points: by_confidence(points.confidence),
}


@dataclass(frozen=True)
class Moment:
    """A scene that can be shown: what it is called, and how it and its images are got."""

    title: str
    load: Callable[[], tuple[Scene, Images]]


class SceneViewer:
    """A web server that shows moments.

    Args:
        host, port: Where it listens; port 0 takes a free one.
        body: Model of the people's bodies; None = the embedded one.

    Raises:
        ValueError: viser is not installed. OSError: The port is taken.
    """

    def __init__(self, host: str, port: int, body: BodyModel | None = None) -> None:
        try:
            import viser
        except ImportError:
            raise ValueError(
                "the viewer needs viser; install it: pip install 'hamst3r[view]'"
            ) from None
        self.body = body or anny24()
        with _quiet():
            port = _free_port(host, port)
            self._server = viser.ViserServer(host, port, "hamst3r", verbose=False)
        self._lock = threading.RLock()
        self._moments: list[Moment] = []
        self._scene: Scene | None = None
        self._images: Images = {}
        self._nodes: dict[str, Any] = {}
        self._title, self._looked = "", False
        self._picked: list[NDArray[np.float64]] = []
        self._playing = False
        self._build()

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{self._server.get_host()}:{self._server.get_port()}"

    def close(self) -> None:
        """Stop serving."""
        self._playing = False
        with _quiet():
            self._server.stop()

    def _build(self) -> None:
        gui, scene = self._server.gui, self._server.scene
        scene.set_up_direction("+z")
        # Sharing would send scenes to a server on the internet.
        gui.configure_theme(dark_mode=True, show_share_button=False, show_logo=False)
        self._summary = gui.add_markdown("Nothing to show yet.")
        with gui.add_folder("Time", visible=False) as self._time_folder:
            self._time: Any = gui.add_slider("frame set", 0, 1, 1, 0)
            self._play = gui.add_checkbox("play", False)
            self._follow = gui.add_checkbox("follow what is new", True)
        with gui.add_folder("Points"):
            self._coloring = gui.add_dropdown("colour", tuple(COLORINGS))
            self._size = gui.add_slider("size (%)", 20, 400, 10, 100)
            self._confidence = gui.add_slider("least sure left out (%)", 0, 95, 1, 0)
            self._only_people = gui.add_checkbox("only people", False)
        with gui.add_folder("Show"):
            self._show_points = gui.add_checkbox("points", True)
            self._show_bodies = gui.add_checkbox("bodies", True)
            self._show_cameras = gui.add_checkbox("cameras", True)
            self._show_names = gui.add_checkbox("names", True)
        with gui.add_folder("Measure"):
            self._measure = gui.add_checkbox("click two points", False)
            self._distance = gui.add_markdown("off")
        people = gui.add_folder("People")
        with people:
            self._people = gui.add_markdown("nobody")
        for handle in (self._coloring, self._size, self._confidence, self._only_people,
                       self._show_points, self._show_bodies, self._show_cameras,
                       self._show_names):  # fmt: skip
            handle.on_update(lambda _: self._draw())
        self._time.on_update(lambda _: self._show_time())
        self._measure.on_update(lambda _: self._start_measuring())
        self._play.on_update(lambda _: self._start_playing())
        scene.on_click()(self._clicked)

    def show(self, moments: Sequence[Moment]) -> None:
        """Show these; the last one first if the page follows what is new."""
        with self._lock:
            grown = len(moments) != len(self._moments)
            self._moments = list(moments)
            if not moments:
                return
            last = len(moments) - 1
            self._time_folder.visible = last > 0
            self._time.max = max(last, 1)
            at = last if self._follow.value and grown else min(self._time.value, last)
            if self._scene is None and not grown:
                at = 0
            if self._time.value != at:
                self._time.value = at  # calls _show_time
            self._show_time()

    def show_scene(self, scene: Scene, images: Images) -> None:
        """Show one scene that is not a stored moment: what comes in live."""
        with self._lock:
            self._scene, self._images, self._title = scene, images, ""
            self._draw()

    def _show_time(self) -> None:
        with self._lock:
            if not self._moments:
                return
            moment = self._moments[min(self._time.value, len(self._moments) - 1)]
            self._scene, self._images = moment.load()
            self._title = moment.title
            self._draw()

    def _start_playing(self) -> None:
        self._playing = self._play.value
        if self._playing:
            threading.Thread(target=self._run_time, daemon=True).start()

    def _run_time(self) -> None:
        while self._playing and self._play.value:
            count = len(self._moments)
            if count > 1:
                self._time.value = (self._time.value + 1) % count
                self._show_time()
            time.sleep(0.2)

    def _draw(self) -> None:
        with self._lock, self._server.atomic():
            scene = self._scene
            if scene is None:
                return
            fresh: dict[str, Any] = {}
            self._draw_points(scene, fresh)
            self._draw_people(scene, fresh)
            self._draw_cameras(scene, fresh)
            for name in set(self._nodes) - set(fresh):
                self._nodes[name].remove()
            self._nodes = fresh
            self._describe(scene)
            if not self._looked and (len(scene.points) or scene.cameras):
                self._look(scene)

    def _look(self, scene: Scene) -> None:
        view = overview(scene)
        camera = self._server.initial_camera
        camera.up = (0.0, 0.0, 1.0)
        eye = view.target + NEARER * (view.eye - view.target)
        camera.position, camera.look_at = tuple(eye), tuple(view.target)
        for client in self._server.get_clients().values():
            client.camera.up_direction = (0.0, 0.0, 1.0)
            client.camera.position, client.camera.look_at = eye, view.target
        self._looked = True

    def _shown(self, points: PointCloud) -> NDArray[np.bool_]:
        shown = np.ones(len(points), bool)
        if self._confidence.value and len(points):
            least = np.quantile(points.confidence, self._confidence.value / 100)
            shown &= points.confidence >= least
        if self._only_people.value:
            shown &= points.instance > 0
        return shown

    def _draw_points(self, scene: Scene, fresh: dict[str, Any]) -> None:
        points = scene.points
        shown = self._shown(points)
        if not self._show_points.value or not shown.any():
            return
        fresh["/points"] = self._server.scene.add_point_cloud(
            "/points",
            points.xyz[shown],
            COLORINGS[self._coloring.value](points)[shown],
            point_size=self._size.value / 100 * point_size(scene),
            point_shape="circle",
            precision="float32",
        )

    def _draw_people(self, scene: Scene, fresh: dict[str, Any]) -> None:
        server = self._server.scene
        if self._show_bodies.value:
            faces = self.body.faces.numpy()
            for person, vertices in pose_bodies(scene.people, self.body).items():
                name = f"/people/{person}"
                color = tuple(person_colors(np.array(person)).tolist())
                fresh[name] = server.add_mesh_simple(name, vertices, faces, color=color)
        if not self._show_names.value:
            return
        for p in scene.people:
            if p.num_points or p.fit is not None:
                name = f"/names/person_{p.id}"
                above = p.position + np.array([0, 0, 1.0])
                fresh[name] = server.add_label(name, f"person {p.id}", position=above)

    def _draw_cameras(self, scene: Scene, fresh: dict[str, Any]) -> None:
        if not self._show_cameras.value:
            return
        size = camera_size(scene)
        for index, camera in enumerate(scene.cameras):
            name = f"/cameras/{index}"
            fresh[name] = self._draw_camera(name, camera, size)
            if self._show_names.value and len(scene.cameras) <= 24:
                label = f"/names/camera_{index}"
                place = camera.T_world_cam[:3, 3]
                fresh[label] = self._server.scene.add_label(label, camera.name, position=place)

    def _draw_camera(self, name: str, camera: Camera, size: float) -> Any:
        import cv2

        image = self._images.get(camera.name)
        if image is not None:
            small = delivered_size(image.shape[1], image.shape[0], MAX_TEXTURE)
            image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8)
        x, y, z, w = Rotation.from_matrix(camera.T_world_cam[:3, :3]).as_quat()
        fov = 2 * float(np.arctan(camera.height / 2 / camera.K[1, 1]))
        return self._server.scene.add_camera_frustum(
            name,
            fov,
            camera.width / camera.height,
            scale=size,
            thickness=0.02 * size,
            color=(90, 160, 255),
            image=image,
            format="jpeg",
            wxyz=(w, x, y, z),
            position=camera.T_world_cam[:3, 3],
        )

    def _describe(self, scene: Scene) -> None:
        head = f"**{self._title}**  \n" if self._title else ""
        self._summary.content = (
            f"{head}{len(scene.cameras)} cameras, {len(scene.points):,} points; scale: "
            f"{scene.scale_source.name.lower()} ±{100 * scene.scale_std:.0f} %"
        )
        rows = [
            f"**{p.id}** {p.state.name.lower()}, {p.num_points:,} points, at "
            + " ".join(f"{value:.2f}" for value in p.position)
            + " m"
            + ("" if p.fit is None else f", body ±{100 * p.fit.rmse:.0f} cm")
            for p in scene.people
        ]
        self._people.content = "  \n".join(rows) or "nobody"

    def _start_measuring(self) -> None:
        with self._lock:
            self._picked = []
            self._clear("measure")
            text = "click a point" if self._measure.value else "off"
            self._distance.content = text

    def _clear(self, kind: str) -> None:
        handle = self._server.scene.get_handle_by_name(f"/{kind}")
        if handle is not None:
            handle.remove()

    def _clicked(self, event: Any) -> None:
        with self._lock:
            if not self._measure.value or self._scene is None:
                return
            points = self._scene.points
            hit = pick(points.xyz[self._shown(points)], event.ray_origin, event.ray_direction)
            if hit is None:
                self._distance.content = "no point there; click on one"
                return
            if len(self._picked) == 2:
                self._picked = []
            self._picked.append(hit)
            self._draw_tape()

    def _draw_tape(self) -> None:
        ends = np.array(self._picked)
        place = " ".join(f"{value:.2f}" for value in ends[-1])
        if len(ends) < 2:
            self._distance.content = f"from {place} m; click the other end"
            ends = np.stack([ends[0], ends[0] + [0, 0, 1e-3]])
            text = ""
        else:
            text = f"{np.linalg.norm(ends[1] - ends[0]):.3f} m"
            self._distance.content = f"**{text}** (up {ends[1, 2] - ends[0, 2]:+.3f} m)"
        scene = self._server.scene
        with self._server.atomic():
            self._clear("measure")
            scene.add_frame("/measure", show_axes=False)
            scene.add_line_segments(
                "/measure/tape",
                ends[None].astype(np.float32),
                (255, 60, 60),
                thickness=4.0,
                thickness_units="screen",
            )
            for index, end in enumerate(self._picked):
                scene.add_icosphere(f"/measure/end_{index}", 0.02, color=(255, 60, 60),
                                    position=end)  # fmt: skip
            if text:
                scene.add_label("/measure/length", text, position=ends.mean(0))


def point_size(scene: Scene) -> float:
    """Metres from one point to the next of the same view, where the views tell; else a guess."""
    steps = [
        float(np.median(view.depth[view.depth > 0])) / view.K[0, 0]
        for view in scene.views
        if (view.depth > 0).any()
    ]
    return 0.8 * float(np.median(steps)) if steps else 0.015


def pick(
    xyz: NDArray, origin: Sequence[float], direction: Sequence[float]
) -> NDArray[np.float64] | None:
    """The nearest of the points (N, 3) that a ray hits, give or take ``AIM``; None for none.

    Args:
        origin, direction: (3,) of the ray in the points' axes; the direction of any length.
    """
    if not len(xyz):
        return None
    ray = np.asarray(direction, float)
    ray = ray / np.linalg.norm(ray)
    away = np.asarray(xyz, float) - np.asarray(origin, float)
    along = away @ ray
    beside = np.linalg.norm(away - along[:, None] * ray, axis=1)
    hit = np.flatnonzero((along > 0) & (beside < np.tan(AIM) * along))
    if not len(hit):
        return None
    chosen = hit[along[hit].argmin()]
    picked: NDArray[np.float64] = np.asarray(xyz[chosen], float)
    return picked


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without viser's banner, which ignores "verbose"."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0; raises OSError where it cannot be listened on."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(
                f"{host}:{port} cannot be listened on ({error.strerror}); name another --port"
            ) from error
        return int(probe.getsockname()[1])
