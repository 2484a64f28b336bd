"""Reading and writing weights: nothing in a file is unpickled freely or evaluated.

Three formats are read: ours (safetensors), and the public ones of DUSt3R / MASt3R and of MASt3R on
DUNE (``torch.save`` files, see ``public.py``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import re
import sysconfig
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hamst3r.network.config import NetworkConfig
from hamst3r.network.hamst3r import HAMSt3R
from hamst3r.network.public import DUNE_PREFIX, Converted, convert, describe, encoder_file

FORMAT = "hamst3r-1"


class CheckpointError(ValueError):
    """A weights file that cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A network with what is known of its file.

    Attributes:
        network: In eval mode, float32, on the CPU.
        path, sha256: The file.
        format: "hamst3r", "dust3r" (and MASt3R) or "dune-mast3r".
        notes: What the writer recorded (training steps, data), plain strings.
        remarks: What the file lacks of its network, and what else it holds; one line each.
    """

    network: HAMSt3R
    path: Path
    sha256: str
    format: str
    notes: dict[str, str]
    remarks: tuple[str, ...] = ()


def shipped_weights() -> Path:
    """The compact network's file: in the repository, or where ``pip install`` puts it."""
    name = Path("weights") / "hamst3r_compact.safetensors"
    user = sysconfig.get_path("data", sysconfig.get_preferred_scheme("user"))
    installed = (Path(data) / "share" / "hamst3r" for data in (sysconfig.get_path("data"), user))
    places = (Path(__file__).parents[2], *installed)
    return next((place / name for place in places if (place / name).is_file()), places[0] / name)


def save_checkpoint(
    network: HAMSt3R, path: str | Path, notes: dict[str, str] | None = None
) -> None:
    """Write a network's weights in bfloat16 with its configuration beside them."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().to("cpu", torch.bfloat16).contiguous()
        for name, value in network.state_dict().items()
    }
    metadata = {
        "format": FORMAT,
        "network": json.dumps(network.config.to_dict()),
        "notes": json.dumps(notes or {}),
    }
    # Written beside and renamed: a reader never sees half a file.
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata=metadata)
    partial.replace(path)


def load_checkpoint(path: str | Path, encoder: str | Path | None = None) -> Checkpoint:
    """Read weights of any known format.

    Args:
        path: A file that :func:`save_checkpoint` wrote, or a public one.
        encoder: File of DUNE's encoder, for decoders that come without; None = where such a file
            lies beside ``path`` under its public name.

    Raises:
        CheckpointError: Missing, truncated, unknown, hostile, or not matching its description.
    """
    path = Path(path).expanduser()
    _require_file(path)
    try:
        if _is_safetensors(path):
            checkpoint = _load_ours(path)
        else:
            checkpoint = _load_public(path, None if encoder is None else Path(encoder).expanduser())
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    broken = [k for k, v in checkpoint.network.state_dict().items() if not torch.isfinite(v).all()]
    if broken:
        raise CheckpointError(f"{path}: values that are not finite in {', '.join(broken[:3])}")
    return checkpoint


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such weights file; the shipped weights are weights/"
            "hamst3r_compact.safetensors in the repository (parameter model.weights)"
        )


def _is_safetensors(path: Path) -> bool:
    """A length of 8 bytes and the JSON header it announces; everything else is torch's."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (len(start) == 9 and start[8:] == b"{")


def _load_ours(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path}: format is {metadata.get('format')!r}, expected {FORMAT!r}"
                )
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error
    try:
        config = NetworkConfig.from_dict(json.loads(metadata["network"]))
        notes = {str(key): str(value) for key, value in json.loads(metadata["notes"]).items()}
        with torch.device("meta"):  # Shapes are compared before any memory is taken.
            network = HAMSt3R(config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: its configuration is not usable: {error}") from error
    _check_shapes(path, network, tensors)
    return Checkpoint(_filled(network, tensors), path, sha256_of(path), "hamst3r", notes)


def _load_public(path: Path, encoder: Path | None) -> Checkpoint:
    file = _read_torch(path)
    model = _tensors(path, file, "model")
    if "mast3r_model_str" in file:
        description: Mapping[str, Any] = file
        name = "dune-mast3r"
        if not any(DUNE_PREFIX in key for key in model):
            encoder = encoder or _encoder_beside(path, str(file.get("dune_backbone_name", "")))
            model = {**model, **_dune_encoder(encoder)}
    elif any(key.startswith("encoder.cls_token") for key in model):
        raise CheckpointError(
            f"{path}: DUNE's encoder alone; it belongs beside DUNE-MASt3R's decoders (parameter "
            "model.encoder_weights)"
        )
    elif isinstance(file.get("args"), argparse.Namespace):
        description, name = {"model": getattr(file["args"], "model", None)}, "dust3r"
    else:
        raise CheckpointError(
            f"{path}: neither 'args' nor 'mast3r_model_str' describes its network; known are our "
            "safetensors, DUSt3R's and MASt3R's files, and DUNE-MASt3R's"
        )
    converted = convert(describe(description), model)
    with torch.device("meta"):
        network = HAMSt3R(converted.config)
    network = _filled(network, converted.tensors)
    return Checkpoint(network, path, sha256_of(path), name, {}, _remarks(converted))


def _read_torch(path: Path) -> dict[str, Any]:
    """The dictionary in a ``torch.save`` file, of tensors, plain values and Namespaces only."""
    mmap = zipfile.is_zipfile(path)  # files from before torch 1.6 cannot be mapped
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # about pickle protocols; errors come as errors
            file = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (pickle.UnpicklingError, LookupError) as error:
        # torch's own text recommends loading such a file without protection.
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted is None:
            raise CheckpointError(f"{path}: not a readable weights file") from error
        raise CheckpointError(
            f"{path}: refused, it asks for '{wanted[1]}'; a weights file holds tensors, plain "
            "values and argparse.Namespace only"
        ) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{path}: not a readable weights file: {reason}") from error
    if not isinstance(file, dict):
        raise CheckpointError(f"{path}: holds a {type(file).__name__}, expected a dictionary")
    return file


def _tensors(path: Path, file: Mapping[str, Any], key: str) -> dict[str, Tensor]:
    state = file.get(key)
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path}: no tensors under '{key}'")
    wrong = [str(k) for k, v in state.items() if not isinstance(v, Tensor) or v.is_sparse]
    if wrong:
        raise CheckpointError(f"{path}: '{wrong[0]}' is not a tensor")
    return {str(k): v for k, v in state.items()}


def _dune_encoder(path: Path) -> dict[str, Tensor]:
    """DUNE's own file: the encoder among what it was distilled with."""
    _require_file(path)
    state = _tensors(path, _read_torch(path), "model")
    prefix = "encoder."
    found = {key.split(prefix, 1)[1]: value for key, value in state.items() if prefix in key}
    if not found:
        raise CheckpointError(f"{path}: no tensors of an encoder ('{prefix}...') in it")
    return {DUNE_PREFIX + key: value for key, value in found.items()}


def _encoder_beside(path: Path, backbone: str) -> Path:
    name = encoder_file(backbone)
    if (path.parent / name).is_file():
        return path.parent / name
    raise CheckpointError(
        f"{path}: these are decoders only; put DUNE's encoder ({name}) beside the file or name "
        "it (parameter model.encoder_weights)"
    )


def _remarks(converted: Converted) -> tuple[str, ...]:
    remarks = list(converted.notes)
    if not converted.config.human_heads:
        remarks.append("no human heads: geometry only")
    if converted.unused:
        remarks.append(f"{len(converted.unused)} tensors are not needed")
    return tuple(remarks)


def _filled(network: HAMSt3R, tensors: dict[str, Tensor]) -> HAMSt3R:
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _check_shapes(path: Path, network: HAMSt3R, tensors: dict[str, Tensor]) -> None:
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    wrong = [
        f"{key}: expected {expected.get(key, 'nothing')}, found {found.get(key, 'nothing')}"
        for key in sorted(expected.keys() | found.keys())
        if expected.get(key) != found.get(key)
    ]
    if wrong:
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors do not fit the network, first: {'; '.join(wrong[:3])}"
        )
