"""Error measures of videos: a person's joints and a camera's path over time.

W- and WA-MPJPE are those of SLAHMR (Ye et al., CVPR 2023), WHAM (Shin et al., CVPR 2024) and JOSH:
the video is cut into chunks of 100 frames, and a similarity per chunk brings the predicted joints
to the true ones. RTE is WHAM's. ATE is that of Sturm et al., IROS 2012. Frames without truth (NaN)
are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hamst3r.evaluation.metrics import known_joints, mpjpe, registration
from hamst3r.geometry import lengths, transform

F64 = NDArray[np.float64]

CHUNK = 100  # frames


def chunks(count: int, size: int = CHUNK) -> Iterator[slice]:
    """Slices of ``size`` frames; the last one may be shorter, but not of a single frame."""
    for start in range(0, count, size):
        if count - start > 1:
            yield slice(start, min(start + size, count))


def w_mpjpe(predicted: NDArray, true: NDArray, size: int = CHUNK) -> F64:
    """(T,) metres, after a similarity per chunk found from its first two frames with truth.

    Args:
        predicted, true: (T, J, 3) joints of one person.
    """
    return _chunked(predicted, true, size, frames=2)


def wa_mpjpe(predicted: NDArray, true: NDArray, size: int = CHUNK) -> F64:
    """(T,) metres, after a similarity per chunk found from all of its frames."""
    return _chunked(predicted, true, size, frames=None)


def _chunked(predicted: NDArray, true: NDArray, size: int, frames: int | None) -> F64:
    predicted, true = np.asarray(predicted, float), np.asarray(true, float)
    known = known_joints(predicted, true)
    errors = np.full(len(true), np.nan)
    for part in chunks(len(true), size):
        used = np.flatnonzero(known[part].any(1))[:frames] + part.start
        if len(used) < 2:
            continue
        T = registration(predicted[used][known[used]], true[used][known[used]], scale=True)
        errors[part] = mpjpe(transform(T, predicted[part]), true[part])
    return errors


def trajectory_errors(predicted: NDArray, true: NDArray, scale: bool = False) -> F64:
    """(T,) metres between camera centres (T, 3) after the best rigid motion (or similarity).

    Their root mean square is the ATE of Sturm et al. and evo; JOSH reports their mean.
    """
    predicted, true = np.asarray(predicted, float), np.asarray(true, float)
    known = known_joints(predicted, true)
    errors = np.full(len(true), np.nan)
    if known.sum() >= 2:
        T = registration(predicted[known], true[known], scale)
        errors[known] = lengths(transform(T, predicted[known]) - true[known])
    return errors


def root_translation_error(predicted: NDArray, true: NDArray) -> float:
    """RTE: mean error of root positions (T, 3) after the best rigid motion, as a share of the way.

    The way is the length of the true path. NaN where there is none.
    """
    predicted, true = np.asarray(predicted, float), np.asarray(true, float)
    known = known_joints(predicted, true)
    way = float(lengths(np.diff(true[known], axis=0)).sum())
    if known.sum() < 2 or way < 1e-9:
        return np.nan
    return float(trajectory_errors(predicted, true)[known].mean() / way)
