"""Reading and writing weights: safetensors only, nothing is unpickled or evaluated."""

from __future__ import annotations

import hashlib
import json
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hamst3r.network.config import NetworkConfig
from hamst3r.network.hamst3r import HAMSt3R

FORMAT = "hamst3r-1"


class CheckpointError(ValueError):
    """A weights file that cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A network with what is known of its file.

    Attributes:
        network: In eval mode, float32, on the CPU.
        path, sha256: The file.
        notes: What the writer recorded (training steps, data), plain strings.
    """

    network: HAMSt3R
    path: Path
    sha256: str
    notes: dict[str, str]


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


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file that :func:`save_checkpoint` wrote.

    Raises:
        CheckpointError: Missing, truncated, of another format, or not matching its configuration.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such weights file; the shipped weights are weights/"
            "hamst3r_compact.safetensors in the repository (parameter model.weights)"
        )
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
    _check_tensors(path, network, tensors)
    network.load_state_dict(tensors, assign=True)
    network.eval().requires_grad_(False)
    return Checkpoint(network, path, hashlib.sha256(path.read_bytes()).hexdigest(), notes)


def _check_tensors(path: Path, network: HAMSt3R, tensors: dict[str, torch.Tensor]) -> None:
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
    broken = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise CheckpointError(f"{path}: values that are not finite in {', '.join(broken[:3])}")
