"""Recordings on disk: videos or folders of images, one per camera, read as sets of one time.

A recording is a folder. With ``calibration.json`` (see :mod:`hamst3r.alignment.calibration`) its
cameras are those of the file, each a video beside it or a sub-folder of images; without it every
sub-folder with images, or else every video, is a camera of that name and nothing is known of it.
Images named by digits of at least 16 places carry their stamp in nanoseconds in their name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.calibration import CameraCalibration, load_calibration
from hamst3r.image import resampling

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm")
STAMP_DIGITS = 16  # a name of digits this long is a stamp in ns (after 1970-04), not a number
CACHE_BYTES = 256 << 20  # decoded images kept, so that a short loop is decoded only once
NANOSECONDS = 1_000_000_000

Image = NDArray[np.uint8]


class RecordingError(ValueError):
    """A recording that cannot be played; the message names the file and the remedy."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one time.

    Attributes:
        time: Since the beginning of the recording, in ns.
        stamp: Recorded absolute time in ns, None where the recording does not know it; the same
            again in every pass.
        images: camera -> (H, W, 3) uint8 RGB; a camera without a new image is absent.
    """

    time: int
    stamp: int | None
    images: dict[str, Image]

    @property
    def nbytes(self) -> int:
        """Size of all images."""
        return sum(image.nbytes for image in self.images.values())


class VideoTrack:
    """The video of one camera, read forward."""

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self.path = path
        self._report = report
        self._capture = cv2.VideoCapture(str(path))
        self._count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        if not self._capture.isOpened() or self._count <= 0:
            raise RecordingError(f"{path}: cannot be read as a video; is it complete?")
        self.period = round(NANOSECONDS / (fps if fps > 0 else 30.0))
        self._next = 0  # index of the frame that grab() takes next
        self._ended = False
        self.first_stamp: int | None = None

    def rewind(self) -> None:
        """Back to the first frame."""
        self._capture.release()
        self._capture = cv2.VideoCapture(str(self.path))
        self._next, self._ended = 0, False

    def read(self, time: int) -> Image | None:
        """The newest BGR image not after ``time`` (ns), None if that was returned before."""
        index = (time + self.period // 100) // self.period  # periods are rounded to 1 ns
        while not self._ended and self._next <= index:
            if not self._capture.grab():
                self._ended = True
                if self._next < self._count:
                    self._report(
                        f"{self.path.name}: broke off at frame {self._next} of {self._count}; "
                        "the camera stays silent until the recording starts again"
                    )
                return None
            self._next += 1
            if self._next == index + 1:
                return self._retrieve()
        return None

    def _retrieve(self) -> Image | None:
        ok, image = self._capture.retrieve()
        return np.asarray(image, dtype=np.uint8) if ok else None

    def ended(self, time: int) -> bool:
        """Whether nothing can come at or after ``time`` (ns)."""
        return self._ended or time >= self.end

    @property
    def end(self) -> int:
        """When the last image's time is over, ns."""
        return self._count * self.period

    def close(self) -> None:
        """Release the decoder."""
        self._capture.release()


class ImagesTrack:
    """The images of one camera in a folder, in the order of their names or stamps."""

    def __init__(self, folder: Path, period: int, report: Callable[[str], None]) -> None:
        self.folder = folder
        self._report = report
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise RecordingError(f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)})")
        self.first_stamp: int | None = None
        if all(p.stem.isdigit() and len(p.stem) >= STAMP_DIGITS for p in files):
            files.sort(key=lambda p: int(p.stem))
            self._times = [int(p.stem) for p in files]
            self.first_stamp = self._times[0]
        else:
            self._times = [index * period for index in range(len(files))]
        self._files = files
        gaps = np.diff(self._times) if len(files) > 1 else [period]
        self.period = int(np.median(gaps))
        self._last = -1

    def start_at(self, origin: int) -> None:
        """Count recorded stamps from ``origin`` (ns), the recording's beginning."""
        if self.first_stamp is not None:
            self._times = [stamp - origin for stamp in self._times]

    def rewind(self) -> None:
        """Back to the first image."""
        self._last = -1

    def read(self, time: int) -> Image | None:
        """The newest BGR image not after ``time`` (ns), None if that was returned before."""
        index = int(np.searchsorted(self._times, time, side="right")) - 1
        if index <= self._last:
            return None
        self._last = index
        image = cv2.imread(str(self._files[index]), cv2.IMREAD_COLOR)
        if image is None:
            self._report(f"{self._files[index]}: cannot be read as an image; it is left out")
            return None
        return np.asarray(image, dtype=np.uint8)

    def ended(self, time: int) -> bool:
        """Whether nothing can come at or after ``time`` (ns)."""
        return time >= self.end

    @property
    def end(self) -> int:
        """When the last image's time is over, ns."""
        return self._times[-1] + self.period

    def close(self) -> None:
        """Nothing is kept open."""


Track = VideoTrack | ImagesTrack


class Recording:
    """A folder of recorded cameras.

    Attributes:
        cameras: camera -> calibration at the delivered size, None where nothing is known.
        step: Recorded time between two sets, ns.
        length: Number of steps in a pass.
    """

    def __init__(
        self,
        tracks: dict[str, Track],
        calibration: dict[str, CameraCalibration],
        step: int | None,
        size: int,
    ) -> None:
        self._tracks = tracks
        self.step = step or min(track.period for track in tracks.values())
        self._size = size
        self._cache: list[ImageSet] = []
        self._complete = False  # the cache holds a whole pass
        stamps = [t.first_stamp for t in tracks.values() if t.first_stamp is not None]
        self._origin = min(stamps) if len(stamps) == len(tracks) else None
        for track in tracks.values():
            if isinstance(track, ImagesTrack) and self._origin is not None:
                track.start_at(self._origin)
        self.cameras: dict[str, CameraCalibration | None] = {}
        for name, track in tracks.items():
            known = calibration.get(name)
            self.cameras[name] = self._scaled(name, track, known) if known else None
        self.length = -(-max(track.end for track in tracks.values()) // self.step)

    def _scaled(self, name: str, track: Track, known: CameraCalibration) -> CameraCalibration:
        """The calibration for the size in which images are delivered."""
        image = track.read(0)
        track.rewind()
        if image is None:
            raise RecordingError(f"camera '{name}': its first image cannot be read")
        height, width = image.shape[:2]
        if known.width and (known.width, known.height) != (width, height):
            raise RecordingError(
                f"camera '{name}': images are {width}x{height}, its calibration is for "
                f"{known.width}x{known.height}; calibrate at the size of the recording"
            )
        w, h = delivered_size(width, height, self._size)
        K = resampling(w / width, h / height) @ known.K
        return dataclasses.replace(known, K=K, width=w, height=h)

    def play(self) -> Iterator[ImageSet]:
        """One pass from the beginning: a set every ``step``, empty sets left out."""
        if self._complete:
            yield from self._cache
            return
        self._cache.clear()
        for track in self._tracks.values():
            track.rewind()
        time, cached = 0, 0
        while not all(track.ended(time) for track in self._tracks.values()):
            images = {}
            for name, track in self._tracks.items():
                image = track.read(time)
                if image is not None:
                    images[name] = self._deliver(image)
            if images:
                stamp = None if self._origin is None else self._origin + time
                image_set = ImageSet(time, stamp, images)
                cached += image_set.nbytes
                if cached <= CACHE_BYTES:
                    self._cache.append(image_set)
                yield image_set
            time += self.step
        if cached <= CACHE_BYTES:
            self._complete = True
        else:
            self._cache.clear()

    def _deliver(self, bgr: Image) -> Image:
        size = delivered_size(bgr.shape[1], bgr.shape[0], self._size)
        if size != (bgr.shape[1], bgr.shape[0]):
            bgr = np.asarray(cv2.resize(bgr, size, interpolation=cv2.INTER_AREA), np.uint8)
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)

    def close(self) -> None:
        """Release the decoders."""
        for track in self._tracks.values():
            track.close()


def delivered_size(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) with the long side reduced to ``size``; 0 keeps, nothing is enlarged."""
    longest = max(width, height)
    if size <= 0 or longest <= size:
        return width, height
    return max(1, round(width * size / longest)), max(1, round(height * size / longest))


def open_recording(
    folder: str | Path,
    *,
    step: int | None = None,
    period: int = NANOSECONDS // 30,
    size: int = 0,
    cameras: Sequence[str] = (),
    report: Callable[[str], None],
) -> Recording:
    """Open the recording in a folder.

    Args:
        folder: See the module's description.
        step: Recorded time between two sets, ns; None: as between the images of a camera.
        period: Time between two images whose names carry no stamp, ns.
        size: Long side to reduce images to in pixels (K follows), 0 to keep them.
        cameras: Names of the cameras to play, all by default.
        report: Called with a sentence about what turned out unreadable while playing.

    Raises:
        RecordingError: The folder is missing, holds no cameras, or a video cannot be opened.
        CalibrationError: ``calibration.json`` is there and cannot be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RecordingError(f"{folder}: no such folder; name one with videos or camera folders")
    calibration = {}
    if (folder / "calibration.json").exists():
        calibration = load_calibration(folder / "calibration.json")
        sources = {n: folder / (known.video or n) for n, known in calibration.items()}
    else:
        sources = _uncalibrated(folder)
    unknown = sorted(set(cameras) - set(sources))
    if unknown:
        raise RecordingError(
            f"{folder}: no camera {', '.join(unknown)}; it has {', '.join(sources)}"
        )
    tracks: dict[str, Track] = {}
    for name, path in sources.items():
        if cameras and name not in cameras:
            continue
        if path.is_dir():
            tracks[name] = ImagesTrack(path, period, report)
        elif path.is_file():
            tracks[name] = VideoTrack(path, report)
        else:
            raise RecordingError(
                f"{path}: missing; camera '{name}' needs a video there (key 'video' of "
                "calibration.json) or a folder of images of its name"
            )
    return Recording(tracks, calibration, step, size)


def _uncalibrated(folder: Path) -> dict[str, Path]:
    entries = sorted(folder.iterdir())
    sources = {
        path.name: path
        for path in entries
        if path.is_dir() and any(p.suffix.lower() in IMAGE_SUFFIXES for p in path.iterdir())
    } or {path.stem: path for path in entries if path.suffix.lower() in VIDEO_SUFFIXES}
    if not sources:
        raise RecordingError(
            f"{folder}: holds no recording; expected calibration.json, a folder of images per "
            f"camera, or videos ({', '.join(VIDEO_SUFFIXES)})"
        )
    return sources
