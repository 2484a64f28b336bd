"""One dataclass describes every network of the family, from the compact to the full-size one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

# A checkpoint's metadata is a stranger's: no network of this family is larger than this.
MAX_SIZE, MAX_DEPTH = 8192, 64
NECK_STRIDE = 4  # input pixels per cell of the maps that the heads read, where there is a stem


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a HAMSt3R network; the defaults are the shipped compact one.

    Attributes:
        patch: Side of an image patch in pixels; image sizes are multiples of it.
        output_stride: Input pixels per output pixel; divides ``patch``. 1 in the paper.
        stem_dim: Width of the convolutions at half the image's size, doubled with each halving
            down to the patch (0: none, as in the paper); see ``pyramid.py``.
        encoder_dim, encoder_depth, encoder_heads: The shared ViT.
        decoder_dim, decoder_depth, decoder_heads: Each of the two cross-attending decoders.
        rope_base: Base of the rotary position embedding ("RoPE100" = 100).
        descriptor_dim: Channels of the matching descriptors.
        queries, instance_layers, mask_dim: The human instance head over both views.
        image_size: Long side, in pixels, that the network was trained for.
    """

    patch: int = 16
    output_stride: int = 2
    stem_dim: int = 32
    encoder_dim: int = 192
    encoder_depth: int = 6
    encoder_heads: int = 3
    decoder_dim: int = 192
    decoder_depth: int = 4
    decoder_heads: int = 3
    rope_base: float = 100.0
    descriptor_dim: int = 24
    queries: int = 16
    instance_layers: int = 3
    mask_dim: int = 32
    image_size: int = 224

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "stem_dim" else 1
            most = MAX_DEPTH if field.name.endswith(("depth", "layers")) else MAX_SIZE
            if not least <= value <= most:
                raise ValueError(f"{field.name} must be in [{least}, {most}], got {value}")
        if self.patch % self.output_stride:
            raise ValueError(f"output_stride {self.output_stride} must divide patch {self.patch}")
        for name in ("encoder", "decoder"):
            dim, heads = getattr(self, f"{name}_dim"), getattr(self, f"{name}_heads")
            if dim % heads or (dim // heads) % 4:
                raise ValueError(
                    f"{name}: {heads} heads of 2-D RoPE do not fit into {dim} channels"
                )
        if self.stem_dim and (
            self.patch & (self.patch - 1) or self.patch < 8 or NECK_STRIDE % self.output_stride
        ):
            raise ValueError(
                "a convolutional stem halves the image: patch must be 8, 16, 32, ... and "
                f"output_stride 1, 2 or 4, got {self.patch} and {self.output_stride}"
            )

    @property
    def subpixels(self) -> int:
        """Output pixels along the side of one patch."""
        return self.patch // self.output_stride

    @property
    def stem_widths(self) -> tuple[int, ...]:
        """Channels of the stem at strides 2, 4, ..., patch / 2; empty without a stem."""
        steps = self.patch.bit_length() - 2
        return tuple(self.stem_dim << step for step in range(steps)) if self.stem_dim else ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetworkConfig:
        """The inverse of :meth:`to_dict`; unknown or wrongly typed entries raise ValueError."""
        types = {field.name: {"int": int, "float": float}[str(field.type)] for field in fields(cls)}
        unknown = sorted(set(values) - set(types))
        if unknown:
            raise ValueError(f"unknown network settings {unknown}; a newer version may read them")
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"network setting '{name}' must be a number, got {value!r}")
        return cls(**{name: types[name](value) for name, value in values.items()})
