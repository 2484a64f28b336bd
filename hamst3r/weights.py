"""Known checkpoints: where they come from, under which licence, and what they provide.

Nothing here is downloaded unless :func:`fetch` is called for it.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hamst3r.network.checkpoint import CheckpointError, sha256_of, shipped_weights

NON_COMMERCIAL = "CC BY-NC-SA 4.0 (non-commercial), and the terms of its training data"
DUNE_LICENCE = "NLE DUNE licence by NAVER (non-commercial, not transferable)"
_NAVER = "https://download.europe.naverlabs.com/"
TIMEOUT = 30.0
BLOCK = 1 << 20


@dataclass(frozen=True)
class KnownWeights:
    """A checkpoint that we know.

    Attributes:
        name: What ``hamst3r weights`` calls it. file: Its file's name.
        licence: In one line. provides: As ``NetworkConfig.provides``.
        megabytes: About how large it is. url: Empty for what is shipped with us.
        sha256: Empty where its publisher has not stated one.
        needs: Names of others without which it cannot be used.
    """

    name: str
    file: str
    licence: str
    provides: tuple[str, ...]
    megabytes: int
    url: str = ""
    sha256: str = ""
    needs: tuple[str, ...] = field(default=())


def _naver(name: str, folder: str, file: str, megabytes: int, *provides: str, needs=()):
    licence = DUNE_LICENCE if folder == "dune" else NON_COMMERCIAL
    return KnownWeights(
        name, file, licence, provides, megabytes, f"{_NAVER}{folder}/{file}", needs=needs
    )


_MAST3R, _DUST3R = "ComputerVision/MASt3R", "ComputerVision/DUSt3R"
_LARGE = "ViTLarge_BaseDecoder"
KNOWN: dict[str, KnownWeights] = {
    known.name: known
    for known in (
        KnownWeights(
            "compact",
            "hamst3r_compact.safetensors",
            "Apache-2.0 (ours, trained on our own synthetic data)",
            ("pointmaps", "descriptors", "humans"),
            27,
            sha256="323af9f3b356487be488d2a3ef7e7639c29ac7b55564b90a0c00aef48aafdd96",
        ),
        _naver("dune_vitbase_paper", "dune", "dune_vitbase14_448_paper.pth", 420, "encoder"),
        _naver("dune_vitbase", "dune", "dune_vitbase14_448.pth", 420, "encoder"),
        _naver("dune_vitsmall", "dune", "dune_vitsmall14_448.pth", 110, "encoder"),
        _naver(
            "dunemast3r_vitbase",
            "dune",
            "dunemast3r_cvpr25_vitbase.pth",
            1400,
            "pointmaps",
            "descriptors",
            needs=("dune_vitbase_paper",),
        ),
        _naver(
            "dunemast3r_vitsmall",
            "dune",
            "dunemast3r_cvpr25_vitsmall.pth",
            1300,
            "pointmaps",
            "descriptors",
            needs=("dune_vitsmall",),
        ),
        _naver(
            "mast3r_vitlarge",
            _MAST3R,
            f"MASt3R_{_LARGE}_512_catmlpdpt_metric.pth",
            2750,
            "pointmaps",
            "descriptors",
        ),
        _naver("dust3r_dpt", _DUST3R, f"DUSt3R_{_LARGE}_512_dpt.pth", 2290, "pointmaps"),
        _naver("dust3r_512_linear", _DUST3R, f"DUSt3R_{_LARGE}_512_linear.pth", 2130, "pointmaps"),
        _naver("dust3r_224_linear", _DUST3R, f"DUSt3R_{_LARGE}_224_linear.pth", 2130, "pointmaps"),
    )
}


def cache_folder() -> Path:
    """Where fetched files go: ``$XDG_CACHE_HOME/hamst3r``, by default in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hamst3r"


def known(name: str) -> KnownWeights:
    """By name; ValueError says which there are."""
    if name not in KNOWN:
        raise ValueError(f"no known weights '{name}', expected one of {', '.join(KNOWN)}")
    return KNOWN[name]


def location(weights: KnownWeights, folder: Path | None = None) -> Path:
    """Where its file is, or would be after fetching it."""
    return (folder or cache_folder()) / weights.file if weights.url else shipped_weights()


def fetch(
    weights: KnownWeights,
    folder: Path | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Path:
    """Download a file, or what is missing of it, and check it.

    Args:
        folder: Where to; None = :func:`cache_folder`.
        progress: Called with bytes there, and bytes in all if the server tells.

    Raises:
        CheckpointError: No connection, a download that ends early (call again: it goes on), or
            a file that is not the published one.
    """
    path = location(weights, folder)
    if path.is_file():
        return path
    if not weights.url:
        raise CheckpointError(f"{path}: shipped with the repository, but not there")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        _download(weights.url, partial, progress)
    except (urllib.error.URLError, OSError) as error:
        kept = "; what has come is kept, run the command again to go on"
        raise CheckpointError(
            f"{weights.url}: {error}{kept if partial.exists() else ''}"
        ) from error
    if weights.sha256 and sha256_of(partial) != weights.sha256:
        partial.unlink()
        raise CheckpointError(f"{weights.url}: not the published file (sha256), it was deleted")
    partial.replace(path)
    return path


def _download(url: str, partial: Path, progress: Callable[[int, int | None], None]) -> None:
    """Append to ``partial`` what it lacks."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # Nothing is missing, or it is another file by now.
            if error.headers.get("Content-Range", "") == f"bytes */{have}":
                return
            partial.unlink()
            return _download(url, partial, progress)
        raise
    with response:
        if have and response.status != 206:  # A server that cannot go on starts anew.
            have = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        with partial.open("ab" if have else "wb") as file:
            progress(have, total)
            while block := response.read(BLOCK):
                file.write(block)
                have += len(block)
                progress(have, total)
    if total is not None and have < total:
        raise OSError(f"ended after {have} of {total} bytes")
