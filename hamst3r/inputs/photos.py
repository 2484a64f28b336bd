"""Photos and the images of one moving camera: one place, one frame set."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from hamst3r.frames import Frame, FrameSet
from hamst3r.inputs.source import (
    NANOSECONDS,
    InputError,
    InputOptions,
    Original,
    Report,
    check_calibrated_size,
    check_size,
    reduced_frame,
    thinned,
    unique_names,
)
from hamst3r.recording import IMAGE_SUFFIXES, VideoTrack

PHOTO_SUFFIXES = (*IMAGE_SUFFIXES, ".heic", ".heif", ".avif")
FULL_FRAME_DIAGONAL = 43.267  # mm; "focal length in 35 mm film" relates to it (CIPA DCG-001)
VIDEO_STEP = NANOSECONDS // 2


class Photos:
    """Image files, all of one frame set.

    Args:
        files: The images. strict: Those of them that the user named: a bad one is an error; of
            the others, found in folders, it is reported and left out.
    """

    ordered = False
    sets = 1

    def __init__(
        self, files: Sequence[Path], strict: set[Path], options: InputOptions, report: Report
    ) -> None:
        chosen = [files[k] for k in thinned(len(files), options.max_images)]
        if len(chosen) < len(files):
            report(f"of {len(files)} images {len(chosen)} are used, evenly spread (--max-images)")
        self.title = f"{len(chosen)} photos" if len(chosen) > 1 else str(chosen[0])
        self.originals: dict[str, Original] = {}
        self._files = dict(zip(unique_names(chosen), chosen, strict=True))
        self._strict, self._options, self._report = strict, options, report
        unknown = sorted(set(options.calibration) - set(self._files))
        if options.calibration and len(unknown) == len(options.calibration):
            raise InputError(
                f"the calibration knows {', '.join(unknown)}, but no image is called so; "
                "name images like the calibration's cameras"
            )

    def frame_sets(self) -> Iterator[FrameSet]:
        """The one set of all images."""
        frames = []
        for name, path in self._files.items():
            try:
                frames.append(self._frame(name, path))
            except InputError as error:
                if path in self._strict:
                    raise
                self._report(f"{error}; left out")
        if not frames:
            raise InputError("none of the images can be used")
        yield FrameSet(0, tuple(frames))

    def _frame(self, name: str, path: Path) -> Frame:
        rgb, focal = read_photo(path)
        height, width = rgb.shape[:2]
        check_size(str(path), width, height)
        options = self._options
        known = options.calibration.get(name)
        if known is not None:
            check_calibrated_size(str(path), known, width, height)
        self.originals[name] = Original(str(path), width, height)
        K = assumed_intrinsics(width, height, options, focal if options.exif else None)
        return reduced_frame(name, 0, rgb, options.side, K, known)


class MovingCamera:
    """The video of one camera that moves, every so often an image; all of one frame set."""

    ordered = True
    sets = 1

    def __init__(self, path: Path, options: InputOptions, report: Report) -> None:
        self.title = str(path)
        self.originals: dict[str, Original] = {}
        self._path, self._options, self._report = path, options, report
        self._track = VideoTrack(path, self._broke_off)

    def frame_sets(self) -> Iterator[FrameSet]:
        """The one set of all images; a video that breaks off ends there."""
        track, options = self._track, self._options
        times = np.arange(0, track.end, options.step or VIDEO_STEP)
        track.rewind()
        frames: list[Frame] = []
        for time in times[thinned(len(times), options.max_images)].tolist():
            bgr = track.read(time)
            if bgr is None:
                continue
            height, width = bgr.shape[:2]
            check_size(str(self._path), width, height)
            name = f"{self._path.stem}_{time // 1_000_000:07d}"
            self.originals[name] = Original(str(self._path), width, height)
            K = assumed_intrinsics(width, height, options)
            rgb = np.ascontiguousarray(bgr[..., ::-1])
            frames.append(reduced_frame(name, int(time), rgb, options.side, K))
        track.close()
        if not frames:
            raise InputError(f"{self._path}: no image of the video can be read; is it complete?")
        yield FrameSet(0, tuple(frames))

    def _broke_off(self, sentence: str) -> None:
        self._report(f"{sentence.split(';')[0]}; what came before is used")


def assumed_intrinsics(
    width: int, height: int, options: InputOptions, exif_focal: float | None = None
) -> NDArray[np.float64] | None:
    """(3, 3) from the user's focal length or that of the EXIF data (pixels); None without."""
    focal = options.focal or exif_focal
    if focal is None:
        return None
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])


def read_photo(path: Path) -> tuple[NDArray[np.uint8], float | None]:
    """(H, W, 3) uint8 RGB, upright, and its focal length in pixels if the EXIF data tells.

    Raises:
        InputError: Not an image, a broken one, or a kind whose library is missing.
    """
    if path.suffix.lower() in (".heic", ".heif"):
        _register_heif(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                size, exif = image.size, image.getexif()
                focal = exif_focal(exif.get_ifd(ExifTags.IFD.Exif), *size)
                upright = ImageOps.exif_transpose(image)
                return _rgb(upright), focal
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image that can be read") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image: {error}") from error


def _register_heif(path: Path) -> None:
    try:
        import pillow_heif
    except ImportError:
        raise InputError(
            f"{path}: HEIC images need pillow-heif; install it: pip install 'hamst3r[heif]'"
        ) from None
    pillow_heif.register_heif_opener()


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # Pillow would cut these off at 255.
        values = np.asarray(image, np.float64)
        top = 65535.0 if image.mode != "F" else max(float(values.max()), 1e-12)
        grey = np.clip(255 * values / top, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, 2)
    return np.array(image.convert("RGB"), np.uint8)


def exif_focal(exif: dict, width: int, height: int) -> float | None:
    """Focal length in pixels of an image of this size; None where the tags do not tell.

    Args:
        exif: The Exif directory: tag -> value.
    """
    diagonal = float(np.hypot(width, height))
    film = _number(exif.get(ExifTags.Base.FocalLengthIn35mmFilm))
    focal = film / FULL_FRAME_DIAGONAL * diagonal
    if focal <= 0:
        length = _number(exif.get(ExifTags.Base.FocalLength))
        density = _number(exif.get(ExifTags.Base.FocalPlaneXResolution))
        millimetres = {2: 25.4, 3: 10.0}.get(
            int(_number(exif.get(ExifTags.Base.FocalPlaneResolutionUnit, 2))), 0.0
        )
        # The density is of the sensor as it was read, not of a photo reduced afterwards.
        taken = _number(exif.get(ExifTags.Base.ExifImageWidth)) or width
        if not (length > 0 and density > 0 and millimetres):
            return None
        focal = length * density / millimetres * width / taken
    # A tag of nonsense is worse than none.
    return focal if 0.2 * diagonal < focal < 20 * diagonal else None


def _number(value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return number if np.isfinite(number) else 0.0
