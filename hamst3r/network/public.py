"""Public checkpoints in our network: what their descriptions mean, how their tensors are called.

DUSt3R and MASt3R (naver), and MASt3R's decoders on the encoder of DUNE. Facts from their papers
and from the files themselves; outputs are checked against ``../shared/parity`` by
``hamst3r parity``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hamst3r.network.config import PRESETS, NetworkConfig
from hamst3r.network.constructor import ConstructorError, parse_constructor
from hamst3r.network.hamst3r import HAMSt3R

DUNE_NAME = re.compile(r"dune_vit(small|base)_?14_(336|448)(_paper)?(_encoder)?")
DUNE_PREFIX, DECODER_PREFIX = "dune_backbone.", "mast3r."
# Left by training wrappers (DistributedDataParallel, torch.compile).
WRAPPERS = ("module.", "_orig_mod.")
# In the files, but not part of inference; DUNE's decoders do not use the encoders of MASt3R, and
# take DUNE's tokens before its last norm. ``scratch.layer_rn`` are second names.
UNUSED = re.compile(
    r"(mast3r\.)?(mask_token|prediction_head\..*|dec_pos_embed|enc_pos_embed)"
    r"|.*\.dpt\.scratch\.refinenet4\.resConfUnit1\..*"
    r"|mast3r\.(patch_embed|enc_norm)\..*"
    r"|dune_backbone\.(mask_token|norm\..*)"
    r"|(projectors|teacher_norms)\..*"
    r"|.*\.dpt\.scratch\.layer[1-4]_rn\.weight"
)
EXPONENTIAL = {
    "depth_mode": ("exp", -math.inf, math.inf),
    "conf_mode": ("exp", 1, math.inf),
    "desc_conf_mode": ("exp", 0, math.inf),
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PublicModel:
    """A public checkpoint's description.

    Attributes:
        config: Of our network.
        dune: The encoder is DUNE's, and names are those of MASt3R with a DUNE backbone.
    """

    config: NetworkConfig
    dune: bool


@dataclass(frozen=True, eq=False)
class Converted:
    """Tensors of a public checkpoint as ours.

    Attributes:
        config: Of the network they belong to. tensors: Its state, float32.
        unused: Tensors of the file that inference does not need. notes: What the file lacks.
    """

    config: NetworkConfig
    tensors: dict[str, Tensor]
    unused: tuple[str, ...]
    notes: tuple[str, ...]


def describe(meta: Mapping[str, Any]) -> PublicModel:
    """From a checkpoint's strings: ``model``, or ``mast3r_model_str`` and ``dune_backbone_name``.

    Raises:
        ConstructorError: A network that this family does not have.
    """
    if "mast3r_model_str" not in meta:
        return PublicModel(_config(meta.get("model", ""), None), dune=False)
    size, pixels, _ = _dune_name(str(meta.get("dune_backbone_name", "")))
    encoder = PRESETS[f"dunemast3r_vit{size}"]
    encoder = replace(encoder, position_grid=pixels // encoder.patch)
    return PublicModel(_config(meta["mast3r_model_str"], encoder), dune=True)


def encoder_file(backbone: str) -> str:
    """Public name of the file with a DUNE backbone, e.g. ``dune_vitbase14_448_paper.pth``."""
    size, pixels, suffix = _dune_name(backbone)
    return f"dune_vit{size}14_{pixels}{suffix}.pth"


def _dune_name(backbone: str) -> tuple[str, int, str]:
    match = DUNE_NAME.fullmatch(backbone)
    if match is None:
        raise ConstructorError(f"unknown DUNE backbone {backbone[:80]!r}")
    return match[1], int(match[2]), match[3] or ""


def _config(text: str, dune: NetworkConfig | None) -> NetworkConfig:
    name, values = parse_constructor(text)
    if name not in ("AsymmetricCroCo3DStereo", "AsymmetricMASt3R"):
        raise ConstructorError(f"unknown network {name!r}, expected DUSt3R's or MASt3R's")
    positions = re.fullmatch(r"RoPE(\d{1,6})", str(values.get("pos_embed", "")))
    if positions is None:
        raise ConstructorError(f"pos_embed must be RoPE<base>, got {values.get('pos_embed')!r}")
    for key, mode in EXPONENTIAL.items():
        if values.get(key, mode) != mode:
            raise ConstructorError(f"{key} must be {mode}, got {values[key]!r}")
    if values.get("two_confs") and "desc_conf_mode" not in values:
        raise ConstructorError("two_confs without desc_conf_mode is not known here")
    output = re.fullmatch(r"pts3d(?:\+desc(\d{1,4}))?", str(values.get("output_mode", "pts3d")))
    if output is None:
        raise ConstructorError(f"unknown output_mode {values['output_mode']!r}")
    head, channels = values.get("head_type"), int(output[1] or 0)
    if head not in (("catmlp+dpt",) if channels else ("linear", "dpt")):
        raise ConstructorError(f"unknown head_type {head!r} for {output[0]!r}")
    try:
        base = dune or replace(
            PRESETS["mast3r_vitlarge"],
            patch=values.get("patch_size", 16),
            encoder_dim=values["enc_embed_dim"],
            encoder_depth=values["enc_depth"],
            encoder_heads=values["enc_num_heads"],
        )
        size = values.get("img_size", base.image_size)
        return replace(
            base,
            decoder_dim=values["dec_embed_dim"],
            decoder_depth=values["dec_depth"],
            decoder_heads=values["dec_num_heads"],
            rope_base=float(positions[1]),
            point_head="linear" if head == "linear" else "dpt",
            descriptor_head="mlp" if channels else "linear",
            descriptor_dim=channels,
            descriptor_confidence=bool(values.get("two_confs", False)) if channels else True,
            image_size=max(size) if isinstance(size, tuple) else size,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConstructorError(f"incomplete or wrong model description: {error}") from error


def convert(model: PublicModel, state: Mapping[str, Tensor]) -> Converted:
    """Tensors of a public checkpoint under our names.

    Args:
        state: The file's tensors, an encoder from a second file included.

    Raises:
        ValueError: Missing tensors, unknown ones, or other shapes; the first ones are named.
    """
    state = {_unwrapped(key): value for key, value in state.items()}
    config, notes = model.config, []
    if config.descriptor_dim and not any("head_local_features" in key for key in state):
        config = replace(config, descriptor_dim=0, descriptor_head="linear")
        notes.append("no descriptors: their heads are not in the file")
    with torch.device("meta"):  # Shapes are compared before any memory is taken.
        shapes = {key: tuple(v.shape) for key, v in HAMSt3R(config).state_dict().items()}
    chosen = {key: _first(public_names(key, model.dune), state) for key in shapes}
    found = {name: tuple(value.shape) for name, value in state.items()}
    rest = sorted(found.keys() - set(chosen.values()))
    wrong = [
        f"{name}: expected {shapes[key]}, found {found.get(name, 'nothing')}"
        for key, name in chosen.items()
        if found.get(name) != shapes[key]
    ]
    wrong += [f"{name}: not expected" for name in rest if not UNUSED.fullmatch(name)]
    if wrong:
        raise ValueError(
            f"{len(wrong)} tensors do not fit the model description, first: {'; '.join(wrong[:3])}"
        )
    tensors = {key: _arranged(key, state[name].float(), config) for key, name in chosen.items()}
    if model.dune:
        _fold_normalisation(tensors)
    if any(".blocks2." in key and "dec_blocks2" not in name for key, name in chosen.items()):
        notes.append("one decoder in the file: both views start from it")
    return Converted(config, tensors, tuple(rest), tuple(notes))


def _unwrapped(key: str) -> str:
    while key.startswith(WRAPPERS):
        key = key.split(".", 1)[1]
    return key


def _first(names: Sequence[str], state: Mapping[str, Tensor]) -> str:
    return next((name for name in names if name in state), names[0])


def public_names(key: str, dune: bool) -> tuple[str, ...]:
    """What a tensor of our network is called in a public file; the first one there counts."""
    decoder = DECODER_PREFIX if dune else ""
    part, _, rest = key.partition(".")
    if part == "encoder":
        return (_encoder_name(rest, dune),)
    if part == "decoder":
        part, _, rest = rest.partition(".")
        name = (
            f"{decoder}dec_{part}.{rest}" if part != "embed" else f"{decoder}decoder_embed.{rest}"
        )
        # A file with one decoder starts both from it.
        return (name, name.replace("dec_blocks2", "dec_blocks")) if part == "blocks2" else (name,)
    branch, _, rest = rest.partition(".head.")
    return tuple(f"{decoder}downstream_head{int(branch) + 1}.{name}" for name in _head_names(rest))


def _encoder_name(rest: str, dune: bool) -> str:
    part, _, inner = rest.partition(".")
    if not dune:
        return f"{'' if part == 'patch_embed' else 'enc_'}{rest}"
    if part == "norm":  # The one that the decoders were trained behind, not DUNE's own.
        return rest
    if part == "blocks":
        return f"{DUNE_PREFIX}blocks.0.{inner}"
    learned = {"class_token": "cls_token", "positions": "pos_embed", "registers": "register_tokens"}
    return DUNE_PREFIX + (learned[inner] if part == "learned" else rest)


def _head_names(rest: str) -> tuple[str, ...]:
    part, _, inner = rest.partition(".")
    number, _, last = inner.partition(".")
    if part == "proj":
        return (rest if inner in ("weight", "bias") else f"head_local_features.{inner}",)
    if part in ("project", "resample"):
        return (f"dpt.act_postprocess.{number}.{int(part == 'resample')}.{last}",)
    if part == "level":  # One tensor of two names.
        level = int(number)
        return (f"dpt.scratch.layer_rn.{level}.{last}", f"dpt.scratch.layer{level + 1}_rn.{last}")
    if part == "fusion":
        unit, _, last = last.partition(".")
        unit = {"finer": "resConfUnit1", "both": "resConfUnit2", "out": "out_conv"}[unit]
        return (f"dpt.scratch.refinenet{int(number) + 1}.{unit}.{last}",)
    return (f"dpt.head.{ {'narrow': 0, 'smooth': 2, 'out': 4}[part] }.{inner}",)


def _arranged(key: str, value: Tensor, config: NetworkConfig) -> Tensor:
    """Rows of pixel heads: (channel, subpixel) there, (subpixel, channel) here."""
    if re.search(r"\.head\.proj\.(fc2\.)?(weight|bias)$", key):
        return value.unflatten(0, (-1, config.patch**2)).transpose(0, 1).flatten(0, 1)
    return value


def _fold_normalisation(tensors: dict[str, Tensor]) -> None:
    """Let the first layer take images in [-1, 1], where DUNE takes ImageNet's normalisation."""
    weight, bias = "encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias"
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    tensors[bias] = tensors[bias] + (tensors[weight] * ((0.5 - mean) / std)).sum((1, 2, 3))
    tensors[weight] = tensors[weight] * (0.5 / std)
