"""Guided digits by weighted runs: the bound on their normaliser, and evaluations, on models that are known."""

from __future__ import annotations

import math

import pytest
import torch

import sdegen
from benchmarks.weighted_digits import guided, plain, weigh
from sdegen.laws import GaussianMixture

LAW = GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]]), torch.ones(3))
MODES = [GaussianMixture(torch.ones(1), mean[None], torch.ones(1)) for mean in LAW.means]


@pytest.mark.parametrize("w", [1.25, 2.0])
def test_the_normaliser_of_guidance_is_below_that_of_classes_which_do_not_overlap(w: float) -> None:
    """The mean of ``P(c | x)^(w − 1)`` over the class is at most 1."""
    drawn = MODES[1].sample(100_000, torch.Generator().manual_seed(1))
    share = LAW.component_log_prob(drawn).softmax(1)[:, 1] ** (w - 1)
    most = (1 - w) * math.log(0.3)
    found = weigh(sdegen.ExactConditional(sdegen.VP(), MODES, LAW), 1, w, 500, 40, 0)
    assert found.log_evidence is not None and found.evidence_error is not None
    assert abs(found.log_evidence - most - share.mean().log().item()) < 4 * found.evidence_error + 0.02
    assert share.mean() < 0.95 and found.log_evidence < most


def test_images_with_weights_and_without_cost_as_many_evaluations() -> None:
    torch.manual_seed(0)
    net, rows = sdegen.nets.MLP(2, width=8, depth=1, classes=3), []
    model = sdegen.Model(net, sdegen.DDPM(), end=0.02)
    model.moments = LAW.moments()
    net.register_forward_pre_hook(lambda net, inputs: rows.append(len(inputs[0])))
    x = plain(model, 2, 1.5, 6, 7, 0)
    without = sum(rows)
    rows.clear()
    found = weigh(model, 2, 1.5, 6, 7, 0)
    assert sum(rows) == without == 2 * 6 * 7 and found.x.shape == x.shape


def test_guidance_of_scale_one_is_the_class() -> None:
    model, x = sdegen.ExactConditional(sdegen.VP(), MODES, LAW), torch.randn(5, 2)
    torch.testing.assert_close(guided(model, 1, 1.0).score(x, 0.4), model.score(x, 0.4, label=1))
