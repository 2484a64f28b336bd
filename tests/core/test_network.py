"""The compact network: shapes, symmetry of positions, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hamst3r.network.blocks import apply_rope, rope_table
from hamst3r.network.config import NetworkConfig
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


@pytest.fixture(scope="module", params=[SMALL, PAPER], ids=["stem", "paper"])
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
    for view, size in ((output.i, size_i), (output.j, size_j)):
        grid = tuple(side // SMALL.output_stride for side in size)
        assert view.points.shape == (2, *grid, 3)
        assert view.densepose.shape == (2, *grid, 3)
        assert view.descriptors.shape == (2, *grid, SMALL.descriptor_dim)
        for plane in (view.confidence, view.descriptor_confidence, view.body_logits):
            assert plane.shape == (2, *grid)
        assert (view.confidence >= 1).all()
        torch.testing.assert_close(view.descriptors.norm(dim=-1), torch.ones(2, *grid))
    last = output.instances[-1]
    assert len(output.instances) == SMALL.instance_layers + 1
    assert last.class_logits.shape == (2, SMALL.queries, 2)
    assert last.mask_logits_i.shape[1:] == (SMALL.queries, size_i[0] // 2, size_i[1] // 2)
    assert last.mask_logits_j.shape[1:] == (SMALL.queries, size_j[0] // 2, size_j[1] // 2)


def test_stride_one_is_the_papers_resolution():
    image = torch.rand(1, 3, 28, 42)
    output = HAMSt3R(replace(PAPER, output_stride=1))(image, image)
    assert output.i.points.shape == (1, 28, 42, 3)


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


@pytest.mark.parametrize("config", [SMALL, PAPER], ids=["stem", "paper"])
def test_gradients_reach_every_parameter(config):
    network = HAMSt3R(config)
    image = torch.rand(1, 3, 2 * config.patch, 3 * config.patch)
    output = network(image, image)
    loss = sum(part.sum() for view in (output.i, output.j) for part in view)
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
    ],
)
def test_impossible_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_config_round_trip_and_strangers():
    assert NetworkConfig.from_dict(SMALL.to_dict()) == SMALL
    with pytest.raises(ValueError, match="unknown network settings"):
        NetworkConfig.from_dict({"backdoor": 1})
    with pytest.raises(ValueError, match="must be a number"):
        NetworkConfig.from_dict({"patch": "__import__('os')"})
