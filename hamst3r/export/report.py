"""``report.html``: one file that needs nothing else, with pictures, numbers and a view in 3D."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.colors import PALETTE, by_body, by_confidence, by_person, person_colors, tinted
from hamst3r.export.geometry import camera_size, frustum, overview, pose_bodies
from hamst3r.export.pictures import confidence_picture, depth_picture, encoded, people_picture
from hamst3r.people.body import BodyModel, anny24
from hamst3r.scene import ScaleSource, Scene

# Points of all scenes in the page, at 27 bytes each; scenes of a long recording that are shown.
MAX_POINTS, MAX_SCENES = 120_000, 6
# Pictures are shown at most so large, and of at most so many cameras.
THUMBNAIL, MAX_VIEWS = 300, 60
NAMED_PAIRS = 4  # of those of which the same is to be said
COLORINGS = ("photo and people", "photo", "person", "body part", "confidence")
SCALE_TEXT = {
    ScaleSource.UNKNOWN: "unknown",
    ScaleSource.NETWORK: "guessed by the network",
    ScaleSource.CALIBRATION: "from the calibration",
    ScaleSource.BODIES: "from people's sizes",
    ScaleSource.CONTACT: "from contacts with the ground",
}


@dataclass(frozen=True, eq=False)
class Shown:
    """A scene in the report: what it is called, itself, and its cameras' images."""

    title: str
    scene: Scene
    images: Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class ReportFacts:
    """Numbers of the whole run.

    Attributes:
        source: What was reconstructed. sets: Frame sets. images: Of a set. placed: Cameras with a
            pose, of the first set. pairs: Of a set. people: Different ids over all sets.
        seconds: Wall clock. memory: Peak of the process in bytes.
        settings: Name -> value, as they were used.
    """

    source: str
    sets: int
    images: int
    placed: int
    pairs: int
    people: int
    seconds: float
    memory: int
    settings: Mapping[str, Any]


def write_report(
    file: Path, shown: Sequence[Shown], facts: ReportFacts, body: BodyModel | None = None
) -> None:
    """Write the page; raises OSError."""
    body = body or anny24()
    some = [shown[k] for k in _spread(len(shown), MAX_SCENES)]
    budget = MAX_POINTS // max(len(some), 1)
    total = sum(len(one.scene.points) for one in some)
    first = some[0].scene
    page = Template(_asset("report.html")).substitute(
        title=html.escape(f"hamst3r: {facts.source}"),
        summary=_summary(facts),
        facts=_facts(first, facts),
        thinned=f"{min(total, MAX_POINTS):,} of {total:,} points are shown."
        if total > MAX_POINTS
        else "",
        sections="\n".join(
            [_views(some[0]), _people(some), _cameras(first), _details(some, facts)]
        ),
        sets=_script_json([_set(one, budget, body) for one in some]),
        view=_script_json(_view(first)),
        script=_asset("report_viewer.js"),
    )
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(file)


def _asset(name: str) -> str:
    return (resources.files("hamst3r.export") / name).read_text(encoding="utf-8")


def _script_json(value: Any) -> str:
    # A camera may be called "</script>".
    return json.dumps(value).replace("<", "\\u003c")


def _spread(count: int, most: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def _base64(array: NDArray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _set(one: Shown, budget: int, body: BodyModel) -> dict[str, Any]:
    scene = one.scene
    chosen = _spread(len(scene.points), budget) if len(scene.points) else []
    points = scene.points
    rgb = points.rgb[chosen]
    colors = {
        "photo and people": tinted(rgb, points.instance[chosen]),
        "photo": rgb,
        "person": by_person(rgb, points.instance[chosen]),
        "body part": by_body(rgb, points.body[chosen]),
        "confidence": by_confidence(points.confidence[chosen]),
    }
    lines, line_colors, labels = _camera_lines(scene)
    document: dict[str, Any] = {
        "title": one.title,
        "xyz": _base64(points.xyz[chosen]),
        "colors": {name: _base64(colors[name]) for name in COLORINGS},
        "lines": _base64(lines),
        "line_colors": _base64(line_colors),
        "labels": labels + _person_labels(scene),
    }
    meshes = pose_bodies(scene.people, body)
    if meshes:
        count = len(body.v_template)
        offsets = count * np.arange(len(meshes))[:, None, None]
        tints = [np.tile(person_colors(np.array(person)), (count, 1)) for person in meshes]
        document |= {
            "vertices": _base64(np.concatenate(list(meshes.values())).astype(np.float32)),
            "body_colors": _base64(np.concatenate(tints)),
            "faces": _base64((body.faces.numpy() + offsets).reshape(-1).astype(np.uint32)),
        }
    return document


def _camera_lines(scene: Scene) -> tuple[NDArray, NDArray, list[dict[str, Any]]]:
    size = camera_size(scene)
    lines, colors, labels = [], [], []
    for index, camera in enumerate(scene.cameras):
        centre, corners = frustum(camera, size)
        for k in range(4):
            lines += [centre, corners[k], corners[k], corners[(k + 1) % 4]]
        tint = PALETTE[index % len(PALETTE)]
        colors += [tint] * 16
        labels.append({"text": camera.name, "at": centre.tolist(), "color": _css(tint)})
    if len(labels) > 24:
        labels = []  # Names on top of each other are none.
    shape = (-1, 3)
    flat = np.array(lines, np.float32).reshape(shape), np.array(colors, np.uint8).reshape(shape)
    return *flat, labels


def _person_labels(scene: Scene) -> list[dict[str, Any]]:
    labels = []
    for person in scene.people:
        own = scene.points.xyz[scene.points.instance == person.id]
        if len(own):
            above = np.append(np.median(own, axis=0)[:2], np.quantile(own[:, 2], 0.98))
        elif person.fit is not None:
            above = np.append(person.position[:2], person.joints[:, 2].max())
        else:
            continue
        tint = _css(person_colors(np.array(person.id)))
        labels.append({"text": f"person {person.id}", "at": above.tolist(), "color": tint})
    return labels


def _css(rgb: NDArray) -> str:
    return "#" + "".join(f"{int(value):02x}" for value in rgb)


def _view(scene: Scene) -> dict[str, Any]:
    view = overview(scene)
    return {
        "target": view.target.tolist(),
        "away": view.distance,
        "yaw": view.yaw,
        "pitch": view.pitch,
        "point": 0.0045 * view.distance,
    }


def _summary(facts: ReportFacts) -> str:
    sets = "one frame set" if facts.sets == 1 else f"{facts.sets} frame sets"
    return (
        f"{sets} of {facts.images} image{'s' * (facts.images != 1)} "
        f"in {facts.pairs} pair{'s' * (facts.pairs != 1)}{' each' * (facts.sets > 1)}, "
        f"in {facts.seconds:.1f} s with at most {facts.memory / 1e9:.1f} GB of memory."
    )


def _facts(scene: Scene, facts: ReportFacts) -> str:
    entries = {
        "cameras placed": f"{facts.placed} of {facts.images}",
        "people": str(facts.people),
        "points": f"{len(scene.points):,}",
        "scale": f"{SCALE_TEXT[scene.scale_source]}, ±{100 * scene.scale_std:.0f} %",
    }
    return "".join(
        f"<div>{name}<b>{html.escape(value)}</b></div>" for name, value in entries.items()
    )


def _views(one: Shown) -> str:
    figures = []
    views = [one.scene.views[k] for k in _spread(len(one.scene.views), MAX_VIEWS)]
    for view in views:
        image = one.images[view.camera]
        seen = np.unique(view.instances[view.instances > 0]).tolist()
        who = f"; people {', '.join(map(str, seen))}" if seen else ""
        valid = view.depth > 0
        near = f"; median depth {np.median(view.depth[valid]):.2f} m" if valid.any() else ""
        pictures = [
            (_thumbnail(image), "image"),
            (_thumbnail(people_picture(view, _enlarged(view.rgb))), "people"),
            (_thumbnail(depth_picture(view)), "depth, near is red"),
            (_thumbnail(confidence_picture(view)), "confidence, sure is red"),
        ]
        strip = "".join(
            f'<img alt="{name} of {html.escape(view.camera)}" title="{name}" src="{source}">'
            for source, name in pictures
        )
        figures.append(
            f"<figure><figcaption><b>{html.escape(view.camera)}</b>{who}{near}</figcaption>"
            f'<div class="strip">{strip}</div></figure>'
        )
    left_out = len(one.scene.views) - len(views)
    more = f"<p>{left_out} more cameras are not shown.</p>" if left_out else ""
    title = "What the cameras saw: image, people, depth (near is red), confidence (sure is red)"
    return f'<h2>{title}</h2><div class="views">{"".join(figures)}</div>{more}'


def _enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = max(1, THUMBNAIL // max(image.shape[:2]))
    size = factor * image.shape[1], factor * image.shape[0]
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _thumbnail(image: NDArray[np.uint8]) -> str:
    scale = THUMBNAIL / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small = np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)
    data = encoded(small, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 85])
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _people(shown: Sequence[Shown]) -> str:
    rows = []
    for one in shown:
        for p in one.scene.people:
            body = "no body fitted"
            if p.fit is not None:
                body = f"{p.fit.model}, rmse {100 * p.fit.rmse:.1f} cm"
                if p.fit.facing < 1:
                    body += f", of outlines: faces so with {p.fit.facing:.0%}"
            rows.append(
                [
                    one.title,
                    str(p.id),
                    p.state.name.lower(),
                    f"{p.confidence:.2f}",
                    _metres(p.position),
                    f"{p.num_points:,}",
                    body,
                    ", ".join(p.rois),
                ]
            )
    if not rows:
        return "<h2>People</h2><p>Nobody was found.</p>"
    head = ["time", "id", "state", "confidence", "hips at (m)", "points", "body", "seen by"]
    if not any(one.title for one in shown):  # one time only
        head, rows = head[1:], [row[1:] for row in rows]
    return f"<h2>People</h2>{_table(head, rows)}"


def _cameras(scene: Scene) -> str:
    rows = [
        [
            camera.name,
            f"{camera.width}x{camera.height}",
            f"{camera.K[0, 0]:.1f}",
            f"{np.degrees(2 * np.arctan(camera.width / 2 / camera.K[0, 0])):.0f}°",
            _metres(camera.T_world_cam[:3, 3]),
            f"{camera.confidence:.2f}",
        ]
        for camera in scene.cameras
    ]
    head = ["camera", "image", "focal length (px)", "field of view", "position (m)", "confidence"]
    return f"<h2>Cameras</h2>{_table(head, rows)}"


def _details(shown: Sequence[Shown], facts: ReportFacts) -> str:
    notes = grouped(note for one in shown for note in one.scene.notes)
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    told = f"<h2>What went wrong without being fatal</h2><ul>{items}</ul>" if notes else ""
    settings = [[name, str(value)] for name, value in facts.settings.items()]
    timings = [[stage, f"{seconds:.2f} s"] for stage, seconds in shown[0].scene.timings.items()]
    return (
        f"{told}<h2>Settings</h2>{_table(['what', 'value'], settings)}"
        f"<h2>Time of the first frame set</h2>{_table(['stage', 'time'], timings)}"
    )


def grouped(notes: Iterable[str]) -> list[str]:
    """Notes, each once; what is said of several pairs is said of all of them together."""
    single: list[str] = []
    pairs: dict[str, list[str]] = {}
    for note in dict.fromkeys(notes):
        found = re.fullmatch(r"pair (.+?): (.+)", note)
        if found:
            pairs.setdefault(found[2], []).append(found[1])
        else:
            single.append(note)
    for what, names in pairs.items():
        more = f" and {len(names) - NAMED_PAIRS} more" if len(names) > NAMED_PAIRS else ""
        word = "pairs" if len(names) > 1 else "pair"
        single.append(f"{word} {', '.join(names[:NAMED_PAIRS])}{more}: {what}")
    return single


def _metres(place: NDArray) -> str:
    return " ".join(f"{value:.2f}" for value in place)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(tag: str, cells: Sequence[str]) -> str:
        inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
        return f"<tr>{inner}</tr>"

    body = "".join(row("td", cells) for cells in rows)
    return f'<div class="scroll"><table>{row("th", head)}{body}</table></div>'
