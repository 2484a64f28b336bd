"""One dataclass describes every network of the family, from the compact to the full-size ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

# A checkpoint's metadata is a stranger's: no network of this family is larger than this.
MAX_SIZE, MAX_DEPTH = 8192, 64
NECK_STRIDE = 4  # input pixels per cell of the maps that the heads read, where there is a stem
CHOICES = {
    "encoder": ("rope", "dinov2"),
    "point_head": ("linear", "dpt"),
    "descriptor_head": ("linear", "mlp"),
    "head_tokens": ("joint", "decoded"),
}
MAY_BE_ZERO = (
    "stem_dim",
    "position_grid",
    "registers",
    "descriptor_dim",
    "instance_dim",
    "mask_subpixels",
    "closeup_side",
)


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a network; the defaults are the shipped compact one, ``PRESETS`` has others.

    Attributes:
        patch: Side of an image patch in pixels; image sizes are multiples of it.
        output_stride: Input pixels per output pixel; divides ``patch``. 1 in the papers.
        stem_dim: Width of the convolutions at half the image's size, doubled with each halving
            down to the patch (0: none, as in the papers); see ``pyramid.py``.
        encoder: "rope" (rotary positions, CroCo v2) or "dinov2" (class token, registers, learned
            positions, layer scale: DINOv2 with registers, arXiv 2309.16588, as in DUNE).
        encoder_dim, encoder_depth, encoder_heads: The shared ViT.
        position_grid: Side of the grid of learned positions ("dinov2" only).
        registers: Register tokens ("dinov2" only).
        token_eps: Epsilon of the norm of the encoder's tokens.
        decoder_dim, decoder_depth, decoder_heads: Each of the two cross-attending decoders.
        rope_base: Base of the rotary position embedding ("RoPE100" = 100).
        head_tokens: What linear heads read: "decoded" tokens, or "joint" with the encoder's.
        point_head: Pointmap and confidence by one "linear" layer, or by convolutions ("dpt").
        descriptor_head: Descriptors by one "linear" layer, or by MASt3R's "mlp" on joint tokens.
        descriptor_dim: Channels of the matching descriptors; 0 = none.
        descriptor_confidence: Descriptors have a confidence of their own, else the pointmap's.
        human_heads: DensePose, body mask and instances.
        queries, instance_layers, instance_dim, mask_dim: The human instance head over both views;
            instance_dim 0 = decoder_dim.
        mask_subpixels: Cells of its masks along the side of a patch; 0 = as many as output pixels.
        image_size: Long side, in pixels, that the network was trained for.
        closeup_side: Side, in pixels, of the close-ups that a network of their own sees
            (``closeup.py``); 0 = there is none.
    """

    patch: int = 16
    output_stride: int = 2
    stem_dim: int = 32
    encoder: str = "rope"
    encoder_dim: int = 192
    encoder_depth: int = 6
    encoder_heads: int = 3
    position_grid: int = 0
    registers: int = 0
    token_eps: float = 1e-6
    decoder_dim: int = 192
    decoder_depth: int = 4
    decoder_heads: int = 3
    rope_base: float = 100.0
    head_tokens: str = "joint"
    point_head: str = "linear"
    descriptor_head: str = "linear"
    descriptor_dim: int = 24
    descriptor_confidence: bool = True
    human_heads: bool = True
    queries: int = 16
    instance_layers: int = 3
    instance_dim: int = 0
    mask_dim: int = 32
    mask_subpixels: int = 0
    image_size: int = 224
    closeup_side: int = 0

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        for field in fields(self):
            if field.type == "int":
                value, least = getattr(self, field.name), int(field.name not in MAY_BE_ZERO)
                most = MAX_DEPTH if field.name.endswith(("depth", "layers")) else MAX_SIZE
                if not least <= value <= most:
                    raise ValueError(f"{field.name} must be in [{least}, {most}], got {value}")
        for name in ("token_eps", "rope_base"):
            if not 0 < getattr(self, name) < 1e9:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.patch % self.output_stride:
            raise ValueError(f"output_stride {self.output_stride} must divide patch {self.patch}")
        for name in ("encoder", "decoder"):
            dim, heads = getattr(self, f"{name}_dim"), getattr(self, f"{name}_heads")
            if dim % heads or (dim // heads) % 4:
                raise ValueError(
                    f"{name}: {heads} heads of 2-D RoPE do not fit into {dim} channels"
                )
        if self.instance_width % self.instance_heads:
            raise ValueError("instance_dim must be a multiple of the width of a decoder's head")
        if (self.encoder == "dinov2") != (self.position_grid > 0):
            raise ValueError("position_grid belongs to the encoder 'dinov2', and only to it")
        if self.stem_dim and (
            self.patch & (self.patch - 1) or self.patch < 8 or NECK_STRIDE % self.output_stride
        ):
            raise ValueError(
                "a convolutional stem halves the image: patch must be 8, 16, 32, ... and "
                f"output_stride 1, 2 or 4, got {self.patch} and {self.output_stride}"
            )
        if self.closeup_side % 16:
            raise ValueError(f"closeup_side must be a multiple of 16, got {self.closeup_side}")
        if self.mask_subpixels and (self.stem_dim or self.mask_subpixels > self.subpixels):
            raise ValueError("mask_subpixels: at most the output's, and 0 with a stem")
        plain = self.point_head == self.descriptor_head == "linear" and self.encoder == "rope"
        if self.stem_dim and not (plain and self.head_tokens == "joint"):
            raise ValueError("a convolutional stem needs the rope encoder and joint linear heads")
        if self.point_head == "dpt" and (self.output_stride != 1 or self.decoder_depth < 4):
            raise ValueError("a dpt head needs output_stride 1 and 4 decoder layers or more")

    @property
    def subpixels(self) -> int:
        """Output pixels along the side of one patch."""
        return self.patch // self.output_stride

    @property
    def instance_width(self) -> int:
        """Channels of the instance head's queries."""
        return self.instance_dim or self.decoder_dim

    @property
    def instance_heads(self) -> int:
        """Attention heads of the instance head, as wide as the decoder's."""
        return max(1, self.instance_width * self.decoder_heads // self.decoder_dim)

    @property
    def stem_widths(self) -> tuple[int, ...]:
        """Channels of the stem at strides 2, 4, ..., patch / 2; empty without a stem."""
        steps = self.patch.bit_length() - 2
        return tuple(self.stem_dim << step for step in range(steps)) if self.stem_dim else ()

    @property
    def taps(self) -> tuple[int, ...]:
        """Decoder layers (1 = first) whose tokens the heads read besides the last one's."""
        depth = self.decoder_depth
        return (depth // 2, depth * 3 // 4) if self.point_head == "dpt" else ()

    @property
    def provides(self) -> tuple[str, ...]:
        """What the network predicts: "pointmaps", "descriptors", "humans"."""
        optional = {"descriptors": self.descriptor_dim > 0, "humans": self.human_heads}
        return ("pointmaps", *(name for name, there in optional.items() if there))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetworkConfig:
        """The inverse of :meth:`to_dict`; unknown or wrongly typed entries raise ValueError."""
        types = {field.name: str(field.type) for field in fields(cls)}
        unknown = sorted(set(values) - set(types))
        if unknown:
            raise ValueError(f"unknown network settings {unknown}; a newer version may read them")
        accepted: dict[str, tuple[type, ...]] = {
            "int": (int,),
            "float": (int, float),
            "str": (str,),
            "bool": (bool,),
        }
        for name, value in values.items():
            kind = types[name]
            if not isinstance(value, accepted[kind]) or isinstance(value, bool) != (kind == "bool"):
                raise ValueError(f"network setting '{name}' must be a {kind}, got {value!r}")
        return cls(**values)


_BASE = NetworkConfig(
    stem_dim=0,
    output_stride=1,
    decoder_dim=768,
    decoder_depth=12,
    decoder_heads=12,
    head_tokens="decoded",
    human_heads=False,
)


def _dune(dim: int, **changes: Any) -> NetworkConfig:
    values = _BASE.to_dict() | {
        "patch": 14,
        "encoder": "dinov2",
        "encoder_dim": dim,
        "encoder_depth": 12,
        "encoder_heads": dim // 64,
        "position_grid": 32,
        "registers": 4,
        "token_eps": 1e-5,
        "image_size": 518,
    }
    return NetworkConfig(**(values | changes))


def _large(**changes: Any) -> NetworkConfig:
    values = _BASE.to_dict() | {
        "encoder_dim": 1024,
        "encoder_depth": 24,
        "encoder_heads": 16,
        "image_size": 512,
    }
    return NetworkConfig(**(values | changes))


_HAMST3R = {
    "human_heads": True,
    "queries": 100,
    "instance_layers": 6,
    "instance_dim": 256,
    "mask_dim": 128,
    "mask_subpixels": 4,
}
_MAST3R = {"point_head": "dpt", "descriptor_head": "mlp"}

# The published networks. HAMSt3R's instance head is not described in full (arXiv 2508.16433 says
# "inspired by Mask2Former"): here it has Mask2Former's queries and width, on one scale.
PRESETS: dict[str, NetworkConfig] = {
    "compact": NetworkConfig(),
    "hamst3r_vitsmall": _dune(384, **_HAMST3R),
    "hamst3r_vitbase": _dune(768, **_HAMST3R),
    "dunemast3r_vitsmall": _dune(384, **_MAST3R),
    "dunemast3r_vitbase": _dune(768, **_MAST3R),
    "mast3r_vitlarge": _large(**_MAST3R),
    "dust3r_vitlarge_dpt": _large(descriptor_dim=0, point_head="dpt"),
    "dust3r_vitlarge_linear": _large(descriptor_dim=0),
}
