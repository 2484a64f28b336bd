"""``hamst3r align``: save what the network says of pairs of images, and align what was saved."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hamst3r.alignment.incremental import AlignerConfig, Alignment
from hamst3r.alignment.saved import SavedPairs, load_pairs, residuals, save_pairs
from hamst3r.frames import Frame, FrameSet
from hamst3r.image import prepare
from hamst3r.pairs import Pairing, choose_pairs

# Relative residual that is shown in the warmest colour.
WARMEST = 0.2
TILE, MARGIN = 240, 24


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    save = actions.add_parser("save", help="predict pairs of images, and write them to a file")
    save.add_argument("file", type=Path, metavar="FILE", help="archive to write (.npz)")
    save.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="one per camera")
    save.add_argument("--weights", type=Path, metavar="FILE", help="default: the shipped ones")
    save.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    save.add_argument("--pairing", choices=[p.value for p in Pairing], default="complete")
    solve = actions.add_parser("solve", help="align the pairs in a file")
    solve.add_argument("file", type=Path, metavar="FILE", help="archive of pairs (.npz)")
    solve.add_argument("--plot", type=Path, metavar="PNG", help="draw the residuals of all pairs")
    solve.add_argument("--json", type=Path, metavar="FILE", help="write cameras and scores there")
    solve.add_argument("--polish", type=int, metavar="N", help="rounds after the pose graph")


def run(options: argparse.Namespace) -> int:
    """Do what was asked for."""
    {"save": _save, "solve": _solve}[options.action](options)
    return 0


def _save(options: argparse.Namespace) -> None:
    from hamst3r.engine import PairEngine
    from hamst3r.network.checkpoint import shipped_weights

    names = [path.stem for path in options.images]
    if len(set(names)) < len(names):
        names = [str(path) for path in options.images]
    frames = FrameSet(
        0,
        tuple(Frame(n, 0, _read(path)) for n, path in zip(names, options.images, strict=True)),
    )
    weights = options.weights or shipped_weights()
    engine = PairEngine.from_checkpoint(weights, options.device, "auto")
    images = [prepare(f, engine.image_size, engine.patch, engine.stride) for f in frames.frames]
    predictions = engine.predict(images, choose_pairs(len(images), options.pairing))
    save_pairs(options.file, images, frames, predictions)
    print(f"{options.file}: {len(predictions)} pairs of {len(images)} images")


def _read(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: not an image that can be read")
    return np.ascontiguousarray(image[..., ::-1], np.uint8)


def _solve(options: argparse.Namespace) -> None:
    saved = load_pairs(options.file)
    if options.polish is not None and options.polish < 0:
        raise ValueError(f"--polish must be 0 or more, got {options.polish}")
    config = (
        AlignerConfig() if options.polish is None else AlignerConfig(polish_rounds=options.polish)
    )
    alignment = saved.align(config)
    maps = [residuals(alignment, prediction) for prediction in saved.predictions]
    _report(saved, alignment, maps)
    if options.json is not None:
        document = _document(saved, alignment, maps)
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        picture = draw_residuals(saved, alignment, maps)
        if not cv2.imwrite(str(options.plot), picture[..., ::-1]):
            raise ValueError(f"{options.plot}: cannot be written; use a folder that is there, .png")


def _median(residual: NDArray) -> float | None:
    valid = residual[np.isfinite(residual)]
    return float(np.median(valid)) if len(valid) else None


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _report(saved: SavedPairs, alignment: Alignment, maps: Sequence) -> None:
    print(f"{'camera':16} {'placed':>6} {'agrees':>7} {'focal':>8}  position")
    for view, name in enumerate(saved.cameras):
        position = " ".join(f"{x:8.3f}" for x in alignment.T_world_cam[view][:3, 3])
        print(
            f"{name:16} {'yes' if alignment.placed[view] else 'no':>6} "
            f"{alignment.camera_confidence[view]:7.2f} {alignment.K[view][0, 0]:8.1f}  {position}"
        )
    print(
        f"{'pair':24} {'score':>6} {'used':>5} {'median relative residual, first and second':>44}"
    )
    for prediction, pair in zip(saved.predictions, maps, strict=True):
        score, used = _score(alignment, prediction.i, prediction.j)
        name = f"{saved.cameras[prediction.i]}-{saved.cameras[prediction.j]}"
        medians = "  ".join(_share(_median(residual)) for residual in pair)
        print(f"{name:24} {_share(score):>6} {used:>5} {medians:>44}")
    print(f"scale: {alignment.scale_source.name.lower()}, relative std {alignment.scale_std:.2f}")
    for note in alignment.notes:
        print(f"note: {note}")


def _score(alignment: Alignment, i: int, j: int) -> tuple[float | None, str]:
    for pair in alignment.scores:
        if (pair.i, pair.j) == (i, j):
            return pair.score, "yes" if pair.used else "no"
    return None, "-"


def _document(saved: SavedPairs, alignment: Alignment, maps: Sequence) -> dict:
    return {
        "cameras": {
            name: {
                "placed": bool(alignment.placed[view]),
                "confidence": float(alignment.camera_confidence[view]),
                "K": alignment.K[view].tolist(),
                "T_world_cam": alignment.T_world_cam[view].tolist(),
            }
            for view, name in enumerate(saved.cameras)
        },
        "pairs": [
            {
                "first": saved.cameras[p.i],
                "second": saved.cameras[p.j],
                "score": _score(alignment, p.i, p.j)[0],
                "residuals": [_median(residual) for residual in pair],
            }
            for p, pair in zip(saved.predictions, maps, strict=True)
        ],
        "scale_source": alignment.scale_source.name.lower(),
        "scale_std": alignment.scale_std,
        "notes": list(alignment.notes),
    }


def draw_residuals(saved: SavedPairs, alignment: Alignment, maps: Sequence) -> NDArray[np.uint8]:
    """One row per pair, its first view left and its second right; black where nothing is known.

    Colours go from blue (fits) to red (off by a fifth of the depth, or more).
    """
    tall = max((TILE * r.shape[0] // max(r.shape) for pair in maps for r in pair), default=0)
    rows = []
    for prediction, pair in zip(saved.predictions, maps, strict=True):
        score, used = _score(alignment, prediction.i, prediction.j)
        tiles = []
        for view, residual in zip((prediction.i, prediction.j), pair, strict=True):
            level = np.nan_to_num(residual / WARMEST, nan=0).clip(0, 1)
            tile = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
            tile = np.where(np.isfinite(residual)[..., None], tile, 0).astype(np.uint8)
            scale = TILE / max(residual.shape)
            size = (int(residual.shape[1] * scale), int(residual.shape[0] * scale))
            canvas = np.zeros((tall + MARGIN, TILE, 3), np.uint8)
            canvas[MARGIN : MARGIN + size[1], : size[0]] = cv2.resize(
                tile, size, interpolation=cv2.INTER_NEAREST
            )
            text = f"{saved.cameras[view][:12]} {_share(_median(residual))}"
            if view == prediction.i:
                text = f"{text}  score {_share(score)}, used: {used}"
            white = (255, 255, 255)
            cv2.putText(
                canvas, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.38, white, 1, cv2.LINE_AA
            )
            tiles.append(canvas)
        rows.append(np.concatenate(tiles, 1))
    if not rows:
        return np.zeros((MARGIN, TILE, 3), np.uint8)
    # Several columns of rows make a picture that fits a screen.
    columns = max(1, round(np.sqrt(len(rows) / 2)))
    height = -(-len(rows) // columns)
    rows += [np.zeros_like(rows[0])] * (columns * height - len(rows))
    return np.concatenate(
        [np.concatenate(rows[k * height : (k + 1) * height]) for k in range(columns)], 1
    )
