"""Reading body models: our own, and a user's SMPL, SMPL-H or SMPL-X files.

Files of that family are ``.npz`` or pickles; of those only numpy's arrays are made, and what chumpy
or scipy wrapped is unwrapped here: nothing in a file can run code (:mod:`hamst3r.pickles`).
The licence of a file is the user's matter; none is shipped or fetched.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from hamst3r.people.body import NUM_JOINTS, PARENTS, BodyModel, BodyModelError
from hamst3r.pickles import PickleError, Record, loads

_BODY = 22  # joints that all models of the family share, in the same order
# Joints of larger models -> first joint of each hand (15 joints; fingers of three), joints of the
# face.
_LARGER = {52: (22, 37, ()), 55: (25, 40, (22, 23, 24))}
_HAND_JOINTS = 15
_KNUCKLES = (0, 3, 6, 9)  # of the four fingers, among a hand's joints; their mean is SMPL's hand
_HEAD = 15
_KEYS = ("v_template", "shapedirs", "J_regressor", "weights", "kintree_table", "f")
_OPTIONAL = ("posedirs", "mirror")


def load_body_model(path: str | Path) -> BodyModel:
    """Read a body model in SMPL's layout: ``.npz``, or a pickle (``.pkl``), read as above.

    Of SMPL-H and SMPL-X the body is kept: 22 joints, and hands and face as rigid parts.

    Raises:
        BodyModelError: The file is missing, is neither, could run code, or lacks or misshapes an
            array; the message names the array.
    """
    path = Path(path)
    arrays, sha256 = read_arrays(path, _KEYS, _OPTIONAL)
    _check(path, arrays)
    joints = arrays["weights"].shape[1]
    if joints != NUM_JOINTS:
        arrays = _reduce(arrays, joints)
    if not np.any(arrays.get("posedirs", 0)):
        arrays.pop("posedirs", None)  # plain blend skinning then, which is faster
    return BodyModel(arrays, path.stem, sha256)


def read_arrays(
    path: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> tuple[dict[str, NDArray[Any]], str]:
    """Arrays of a body model's file, whatever held them there, and the file's sha256.

    Raises:
        BodyModelError: As :func:`load_body_model`, but for the arrays' shapes.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BodyModelError(f"{path}: cannot read the body model: {error}") from error
    raw = _read(path, data, (*required, *optional))
    missing = [key for key in required if key not in raw]
    if missing:
        raise BodyModelError(f"{path}: not a body model, {', '.join(missing)} missing")
    arrays = {key: _dense(path, key, raw[key]) for key in (*required, *optional) if key in raw}
    return arrays, hashlib.sha256(data).hexdigest()


def _read(path: Path, data: bytes, keys: Sequence[str]) -> dict[str, Any]:
    if data[:2] == b"PK":
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                return {key: file[key] for key in file.files if key in keys}
        except ValueError as error:
            raise BodyModelError(f"{path}: cannot read the body model: {error}") from error
        except Exception as error:  # a damaged zip raises many things
            raise BodyModelError(f"{path}: cannot read the body model: {error!r}") from error
    try:
        content = loads(data, ("chumpy", "scipy.sparse"))
    except PickleError as error:
        raise BodyModelError(f"{path}: cannot read the body model: {error}") from error
    if not isinstance(content, dict):
        raise BodyModelError(f"{path}: not a body model, holds a {type(content).__name__}")
    return content


def _dense(path: Path, key: str, value: object) -> NDArray[Any]:
    """An array, whatever record it was in."""
    try:
        if isinstance(value, Record):
            value = _unwrap(value)
        array = np.asarray(value)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BodyModelError(f"{path}: {key} is damaged: {error!r}") from error
    if array.dtype.kind not in "fiu":
        raise BodyModelError(f"{path}: {key} holds {array.dtype}, expected numbers")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BodyModelError(f"{path}: {key} holds numbers that are not finite")
    return array


def _unwrap(record: Record) -> NDArray[Any]:
    held, kind = vars(record), type(record).__name__
    if kind[:3] in ("csc", "csr"):
        make = sparse.csc_array if kind.startswith("csc") else sparse.csr_array
        shape = held.get("_shape", held.get("shape"))
        return make((held["data"], held["indices"], held["indptr"]), shape=shape).toarray()  # type: ignore[no-any-return]
    if "x" in held:  # chumpy.Ch
        return np.asarray(held["x"])
    if "a" in held and "idxs" in held:  # chumpy.reordering.Select
        source = held["a"]
        source = _unwrap(source) if isinstance(source, Record) else np.asarray(source)
        chosen = source.ravel()[np.asarray(held["idxs"])]
        return chosen.reshape(held.get("preferred_shape", chosen.shape))
    raise KeyError(f"a record with {', '.join(sorted(map(str, held))) or 'nothing'}")


def _check(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    V = len(arrays["v_template"])
    joints = arrays["weights"].shape[1] if arrays["weights"].ndim == 2 else 0
    if joints not in (NUM_JOINTS, *_LARGER):
        raise BodyModelError(
            f"{path}: weights has shape {arrays['weights'].shape}, expected ({V}, 24), or 52 or 55 "
            "joints (SMPL, SMPL-H, SMPL-X)"
        )
    shapes: dict[str, tuple[int | None, ...]] = {
        "v_template": (V, 3),
        "shapedirs": (V, 3, None),
        "J_regressor": (joints, V),
        "weights": (V, joints),
        "kintree_table": (2, joints),
        "f": (None, 3),
        "posedirs": (V, 3, 9 * (joints - 1)),
        "mirror": (V,),
    }
    for key, array in arrays.items():
        expected = shapes[key]
        fits = len(array.shape) == len(expected) and all(
            want is None or want == has for want, has in zip(expected, array.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in expected)
            raise BodyModelError(f"{path}: {key} has shape {array.shape}, expected ({wanted})")
    if arrays["shapedirs"].shape[2] < 10:
        raise BodyModelError(
            f"{path}: shapedirs has {arrays['shapedirs'].shape[2]} shapes, at least 10 are needed"
        )
    faces = arrays["f"]
    if faces.size and not 0 <= int(faces.min()) <= int(faces.max()) < V:
        raise BodyModelError(f"{path}: f names vertices that are not among the {V} there are")
    parents = arrays["kintree_table"][0].astype(np.int64)
    known = NUM_JOINTS if joints == NUM_JOINTS else _BODY
    if tuple(parents[1:known]) != PARENTS[1:known]:
        raise BodyModelError(f"{path}: kintree_table is not the kinematic tree of SMPL")


def _reduce(arrays: dict[str, NDArray[Any]], joints: int) -> dict[str, NDArray[Any]]:
    """SMPL-H or SMPL-X as 24 joints: each hand hangs on one joint, the face on the head."""
    left, right, face = _LARGER[joints]
    weights, regressor = arrays["weights"], arrays["J_regressor"]
    kept = np.zeros((len(weights), NUM_JOINTS))
    kept[:, :_BODY] = weights[:, :_BODY]
    kept[:, _HEAD] += weights[:, list(face)].sum(1)
    rows = [regressor[:_BODY]]
    for joint, first in ((22, left), (23, right)):
        kept[:, joint] = weights[:, first : first + _HAND_JOINTS].sum(1)
        rows.append(regressor[[first + knuckle for knuckle in _KNUCKLES]].mean(0, keepdims=True))
    reduced = dict(arrays, weights=kept, J_regressor=np.concatenate(rows))
    if "posedirs" in arrays:
        posedirs = np.zeros((len(weights), 3, 9 * (NUM_JOINTS - 1)))
        posedirs[..., : 9 * (_BODY - 1)] = arrays["posedirs"][..., : 9 * (_BODY - 1)]
        reduced["posedirs"] = posedirs
    return reduced
