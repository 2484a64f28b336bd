"""The losses: perfect predictions cost nothing, and optimising them learns a pair by heart."""

from __future__ import annotations

import numpy as np
import torch
from test_network import SMALL

from hamst3r.network.hamst3r import Features, HAMSt3R, PairOutput, ViewOutput
from hamst3r.network.heads import InstanceOutput
from hamst3r.people.body import anny24
from hamst3r.training.losses import LossWeights, PairTarget, ViewTarget, log_warp, total_loss


def target(batch: int = 2, height: int = 16, width: int = 24) -> PairTarget:
    """Random but consistent truth with two people, one of them in view i only."""
    generator = torch.Generator().manual_seed(3)
    views = []
    for side in range(2):
        instances = torch.zeros(batch, height, width, dtype=torch.long)
        instances[:, 2:9, 3:8] = 1
        if side == 0:
            instances[:, 4:12, 12:18] = 2
        views.append(
            ViewTarget(
                points=torch.rand(batch, height, width, 3, generator=generator) * 2 + 0.5,
                valid=torch.rand(batch, height, width, generator=generator) < 0.9,
                instances=instances,
                densepose=torch.rand(batch, height, width, 3, generator=generator),
                body=instances > 0,
            )
        )
    flat = torch.randperm(height * width, generator=generator)[:40]
    rows = torch.stack([flat, flat.flip(0)], 1).expand(batch, -1, -1)
    return PairTarget(views[0], views[1], torch.cat([rows, torch.full((batch, 7, 2), -1)], 1))


def perfect(truth: PairTarget, queries: int = 4) -> PairOutput:
    views = []
    for view in (truth.i, truth.j):
        batch, height, width = view.valid.shape
        descriptors = torch.zeros(batch, height, width, 24)
        views.append(
            ViewOutput(
                view.points,
                torch.ones(batch, height, width),
                descriptors,
                torch.ones(batch, height, width),
                view.densepose.clone(),
                torch.where(view.body, 30.0, -30.0),
                Features(torch.empty(0), (height, width)),
            )
        )
    masks = []
    for view in (truth.i, truth.j):
        logits = torch.full((len(view.instances), queries, *view.instances.shape[1:]), -30.0)
        for person, query in ((1, 3), (2, 0)):
            logits[:, query][view.instances == person] = 30.0
        masks.append(logits)
    classes = torch.tensor([[-30.0, 30], [30, -30], [30, -30], [-30, 30]]).expand(
        len(masks[0]), -1, -1
    )
    nothing = Features(torch.empty(0), (0, 0))
    last = InstanceOutput(classes, masks[0], masks[1])
    return PairOutput(views[0], views[1], [last], (nothing, nothing))


def test_perfect_prediction_costs_nothing():
    truth = target()
    _, parts = total_loss(perfect(truth), truth, LossWeights(), np.random.default_rng(0))
    for name in ("points", "instance", "densepose", "body"):
        assert abs(parts[name]) < 1e-3, name
    # Descriptors that are all alike cost the logarithm of the number of candidates.
    assert abs(parts["match"] - np.log(40)) < 1e-3


def test_merged_people_cost_more_than_separate_ones():
    truth = target()
    merged = perfect(truth)
    last = merged.instances[0]
    both = last.mask_logits_i.clone()
    both[:, 3] = torch.maximum(both[:, 3], both[:, 0])
    merged = merged._replace(instances=[last._replace(mask_logits_i=both)])
    _, parts = total_loss(merged, truth, LossWeights(), np.random.default_rng(0))
    assert parts["instance"] > 0.5


def test_log_warp_undoes_expm1():
    points = torch.tensor([[0.3, -2.0, 5.0]])
    norm = points.norm()
    assert torch.allclose(log_warp(points).norm(), torch.log1p(norm))
    assert torch.allclose(log_warp(points) / log_warp(points).norm(), points / norm)


def test_body_coordinates_cost_metres_on_the_template():
    """A tenth of the depth of a body is less than a tenth of its height, by the body's measures."""
    truth = target()
    template = anny24().v_template
    extent = template.amax(0) - template.amin(0)
    for axis in range(3):
        output = perfect(truth)
        for view in (output.i, output.j):
            view.densepose[..., axis] += 0.1
        _, parts = total_loss(output, truth, LossWeights(), np.random.default_rng(0))
        torch.testing.assert_close(parts["densepose"], 0.1 * extent[axis], rtol=1e-3, atol=0)


def test_empty_truth_gives_a_finite_loss():
    truth = target()
    nothing = PairTarget(
        *(
            ViewTarget(
                view.points,
                torch.zeros_like(view.valid),
                torch.zeros_like(view.instances),
                view.densepose,
                torch.zeros_like(view.body),
            )
            for view in (truth.i, truth.j)
        ),
        torch.full_like(truth.matches, -1),
    )
    network = HAMSt3R(SMALL)
    output = network(torch.rand(2, 3, 32, 48), torch.rand(2, 3, 32, 48))
    loss, _ = total_loss(output, nothing, LossWeights(), np.random.default_rng(0))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_a_network_learns_one_pair_by_heart():
    torch.manual_seed(0)
    truth = target(batch=1)
    network = HAMSt3R(SMALL)
    images = torch.rand(2, 1, 3, 32, 48) * 2 - 1
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    rng = np.random.default_rng(0)
    history = []
    for _ in range(60):
        loss, parts = total_loss(network(*images), truth, LossWeights(), rng)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(parts)
    for name in ("points", "instance", "densepose", "body"):
        assert history[-1][name] < 0.6 * history[0][name], name
