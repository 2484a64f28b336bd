"""One dataclass describes every network of the family, from the compact to the full-size one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

# A checkpoint's metadata is a stranger's: no network of this family is larger than this.
MAX_SIZE, MAX_DEPTH = 8192, 64


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a HAMSt3R network; the defaults are the shipped compact one.

    Attributes:
        patch: Side of an image patch in pixels; image sizes are multiples of it.
        output_stride: Input pixels per output pixel; divides ``patch``. 1 in the paper.
        stem_dim: Width of a strided convolution before the patch embedding (0: none, as in the
            paper). Early convolutions let a small ViT learn from little data (arXiv 2106.14881).
        encoder_dim, encoder_depth, encoder_heads: The shared ViT.
        decoder_dim, decoder_depth, decoder_heads: Each of the two cross-attending decoders.
        rope_base: Base of the rotary position embedding ("RoPE100" = 100).
        descriptor_dim: Channels of the matching descriptors.
        queries, instance_layers, mask_dim: The human instance head over both views.
        image_size: Long side, in pixels, that the network was trained for.
    """

    patch: int = 14
    output_stride: int = 2
    stem_dim: int = 32
    encoder_dim: int = 192
    encoder_depth: int = 8
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
        if self.stem_dim and self.patch % 2:
            raise ValueError("a convolutional stem halves the image: patch must be even")

    @property
    def subpixels(self) -> int:
        """Output pixels along the side of one patch."""
        return self.patch // self.output_stride

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
