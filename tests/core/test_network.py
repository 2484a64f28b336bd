"""The compact network: shapes, symmetry of positions, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hamst3r.network.blocks import apply_rope, rope_table
from hamst3r.network.config import PRESETS, NetworkConfig
from hamst3r.network.hamst3r import HAMSt3R

SMALL = NetworkConfig(
    stem_dim=8,
    encoder_dim=64,
    encoder_depth=2,
    encoder_heads=2,
    decoder_dim=64,
    decoder_depth=2,
    decoder_heads=2,
    queries=5,
    instance_layers=2,
    mask_dim=8,
)


PAPER = replace(SMALL, patch=14, stem_dim=0)  # tokens to pixels directly, no convolutions
DUNE = replace(
    PAPER,
    encoder="dinov2",
    position_grid=4,
    registers=4,
    token_eps=1e-5,
    head_tokens="decoded",
    instance_dim=32,
    mask_subpixels=2,
)
MAST3R = replace(
    SMALL,
    stem_dim=0,
    output_stride=1,
    decoder_depth=4,
    point_head="dpt",
    descriptor_head="mlp",
    descriptor_confidence=False,
    human_heads=False,
)
DUST3R = replace(MAST3R, point_head="linear", descriptor_head="linear", descriptor_dim=0)
FAMILY = {"stem": SMALL, "paper": PAPER, "dune": DUNE, "mast3r": MAST3R, "dust3r": DUST3R}


@pytest.fixture(scope="module", params=FAMILY.values(), ids=FAMILY)
def network(request) -> HAMSt3R:
    torch.manual_seed(0)
    return HAMSt3R(request.param).eval()


@pytest.mark.parametrize(
    ("size_i", "size_j"),
    [((4, 6), (4, 6)), ((6, 4), (4, 6)), ((2, 2), (5, 3))],
    ids=["equal", "portrait with landscape", "different"],
)
@torch.inference_mode()
def test_output_shapes(network, size_i, size_j):
    size_i, size_j = ([network.config.patch * n for n in size] for size in (size_i, size_j))
    output = network(torch.rand(2, 3, *size_i), torch.rand(2, 3, *size_j))
    config = network.config
    for view, size in ((output.i, size_i), (output.j, size_j)):
        grid = tuple(side // config.output_stride for side in size)
        assert view.points.shape == (2, *grid, 3)
        assert view.confidence.shape == (2, *grid)
        assert (view.confidence >= 1).all()
        if config.descriptor_dim:
            assert view.descriptors.shape == (2, *grid, config.descriptor_dim)
            assert view.descriptor_confidence.shape == (2, *grid)
            torch.testing.assert_close(view.descriptors.norm(dim=-1), torch.ones(2, *grid))
        else:
            assert view.descriptors is None is view.descriptor_confidence
        if config.human_heads:
            assert view.densepose.shape == (2, *grid, 3)
            assert view.body_logits.shape == (2, *grid)
        else:
            assert view.densepose is None is view.body_logits
    assert len(output.instances) == int(config.human_heads)  # all layers only while training
    cells = config.mask_subpixels or config.subpixels
    for last in output.instances:
        assert last.class_logits.shape == (2, config.queries, 2)
        for logits, size in ((last.mask_logits_i, size_i), (last.mask_logits_j, size_j)):
            grid = tuple(side // config.patch * cells for side in size)
            assert logits.shape == (2, config.queries, *grid)


@torch.inference_mode()
def test_images_paired_with_themselves_are_encoded_once(network, monkeypatch):
    images = torch.rand(2, 3, *[network.config.patch * n for n in (2, 3)])
    apart, encode, encoded = network(images, images.clone()), network.encode, []
    monkeypatch.setattr(network, "encode", lambda x: encoded.append(len(x)) or encode(x))
    together = network(images, images)
    assert encoded == [2]
    for one, other in ((apart.i, together.i), (apart.j, together.j)):
        torch.testing.assert_close(one.points, other.points)


def test_stride_one_is_the_papers_resolution():
    image = torch.rand(1, 3, 28, 42)
    output = HAMSt3R(replace(PAPER, output_stride=1))(image, image)
    assert output.i.points.shape == (1, 28, 42, 3)


def test_published_sizes():
    """Parameters counted in the public files (without what inference does not use)."""
    with torch.device("meta"):
        count = {
            name: sum(p.numel() for p in HAMSt3R(config).parameters()) / 1e6
            for name, config in PRESETS.items()
        }
    assert count["dust3r_vitlarge_linear"] == pytest.approx(303.1 + 0.8 + 226.9 + 1.6, abs=0.2)
    # 689 M in the file, less the unused unit of the coarsest fusion (1.2 M) in each head.
    assert count["mast3r_vitlarge"] == pytest.approx(688.6 - 2.4, abs=0.3)
    assert count["hamst3r_vitbase"] == pytest.approx(330, abs=15)


def test_learned_positions_keep_their_places_at_other_sizes():
    learned = HAMSt3R(replace(DUNE, position_grid=8)).encoder.learned
    with torch.no_grad():
        learned.positions[0, 1:] = torch.arange(8.0).repeat(8)[:, None]  # the column
    positions = learned._patch_positions((8, 16))[0, :, 0].unflatten(0, (8, 16))
    torch.testing.assert_close(positions, positions[:1].expand(8, -1))
    expected = (torch.arange(16) + 0.5) / (16.1 / 8) - 0.5  # DINOv2's tenth
    torch.testing.assert_close(positions[0, 5:11], expected[5:11], atol=0.06, rtol=0)
    torch.testing.assert_close(learned._patch_positions((8, 8))[0], learned.positions[0, 1:])


def test_rope_sees_relative_positions_only():
    cos, sin = rope_table(6, 7, 16, 100.0, torch.device("cpu"), torch.float32)
    torch.manual_seed(0)
    q, k = torch.randn(16), torch.randn(16)

    def score(a: int, b: int) -> torch.Tensor:
        turned_q = apply_rope(q[None, None, None], (cos[a][None], sin[a][None]))
        turned_k = apply_rope(k[None, None, None], (cos[b][None], sin[b][None]))
        return (turned_q * turned_k).sum()

    # (row, column) = (1, 2) and (3, 5), both moved by (2, 1).
    torch.testing.assert_close(score(1 * 7 + 2, 3 * 7 + 5), score(3 * 7 + 3, 5 * 7 + 6))
    assert not torch.isclose(score(0, 0), score(0, 8))


@pytest.mark.parametrize("config", FAMILY.values(), ids=FAMILY)
def test_gradients_reach_every_parameter(config):
    network = HAMSt3R(config)
    image = torch.rand(1, 3, 2 * config.patch, 3 * config.patch)
    output = network(image, image)
    dense = [part for view in (output.i, output.j) for part in view if torch.is_tensor(part)]
    loss = sum(part.sum() for part in dense)
    loss = loss + sum(part.square().sum() for layer in output.instances for part in layer)
    loss.backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None]
    assert silent == []


def test_wrong_image_size_names_the_patch():
    with pytest.raises(ValueError, match="multiple of the patch 16"):
        HAMSt3R(SMALL).encode(torch.rand(1, 3, 32, 42))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_stride": 3}, "divide patch"),
        ({"encoder_heads": 3}, "encoder"),
        ({"patch": 14}, "stem"),
        ({"output_stride": 8}, "stem"),
        ({"encoder": "cnn"}, "encoder must be one of"),
        ({"position_grid": 4}, "position_grid"),
        ({"stem_dim": 0, "point_head": "dpt"}, "dpt"),
        ({"encoder_depth": 10_000}, "encoder_depth"),
        ({"rope_base": -1.0}, "rope_base"),
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_config_round_trip_and_strangers():
    assert NetworkConfig.from_dict(SMALL.to_dict()) == SMALL
    with pytest.raises(ValueError, match="unknown network settings"):
        NetworkConfig.from_dict({"backdoor": 1})
    with pytest.raises(ValueError, match="must be a int"):
        NetworkConfig.from_dict({"patch": "__import__('os')"})
