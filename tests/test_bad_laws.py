"""What cannot be right is refused in one sentence that names argument, value and remedy: times, laws and processes."""

from __future__ import annotations

import math

import pytest
import torch
from refusals import Refusals, check_refusal

import sdegen
from sdegen import (
    CLD,
    DDPM,
    OU,
    VP,
    Cosine,
    DoubleWell,
    Empirical,
    Exact,
    GaussianMixture,
    LearnedVariance,
    Model,
    Rectified,
    fit,
    models,
    nets,
    sample,
    samplers,
)

RING = sdegen.data.gaussian_ring()
NAN = math.nan
HALF = torch.full((2,), 0.5)
MEANS = torch.tensor([[0.0, 1.0], [2.0, 3.0]])

bad = Refusals()


# --- times -----------------------------------------------------------------------------------------------------------

INSIDE = r"pass times within"
bad("t after T", ValueError, lambda w: VP().marginal(2.0), r"^t = 2 ", r"\[0, 1\]", INSIDE)
bad("t before 0", ValueError, lambda w: OU().marginal(-0.1), r"^t = -0.1 ", r"\[0, 5\]", INSIDE)
bad("t NaN", ValueError, lambda w: VP().marginal(NAN), r"^t = nan", INSIDE)
bad(
    "one t of many",
    ValueError,
    lambda w: VP().perturb(w.x, torch.tensor([0.1, 0.2, 0.3, 7.0, 0.5])),
    r"^t = 7 ",
    INSIDE,
)
bad(
    "t two-dimensional",
    ValueError,
    lambda w: VP().marginal(torch.zeros(5, 1)),
    r"^t has shape \(5, 1\)",
    r"\(\) or \(B,\)",
)
bad("s outside", ValueError, lambda w: VP().transition(-1.0, 0.5), r"^s = -1 ", INSIDE)
bad("t of a score", ValueError, lambda w: w.model().score(w.x, 1.5), r"^t = 1.5 ", INSIDE)
bad("t of the truth", ValueError, lambda w: w.exact.score(w.x, NAN), r"^t = nan ", INSIDE)
bad(
    "t of a nonlinear kernel", ValueError, lambda w: DoubleWell().kernel(w.x, 0.0, 9.0), r"^t = 9 ", r"\[0, 8\]", INSIDE
)
bad("t of Langevin", ValueError, lambda w: sample(w.exact, 3, sampler=samplers.Langevin(2, t=3.0)), r"t = 3 ", INSIDE)
for sde in (VP(), CLD()):
    bad(
        f"s after t, {type(sde).__name__}",
        ValueError,
        lambda w, sde=sde: sde.transition(0.5, 0.2),
        r"s must not lie after t",
        r"swap the arguments|s <= t",
    )
    bad(
        f"s after t by how much, {type(sde).__name__}",
        ValueError,
        lambda w, sde=sde: sde.transition(0.5, 0.2),
        r"0\.5|-0\.3",
    )
bad(
    "s after t, nonlinear",
    ValueError,
    lambda w: DoubleWell().kernel(w.x, 0.5, 0.2),
    r"s must not lie after t",
    r"-0\.3",
)


# --- lengths that do not belong together ----------------------------------------------------------------------------

THREE = torch.tensor([0.1, 0.2, 0.3])
LENGTH = (r"\(3,\)", r"\(5,\)|\(5, 2\)", r"t of shape \(\) or \(B,\)")
bad("t for other rows, perturb", ValueError, lambda w: VP().perturb(w.x, THREE), *LENGTH)
bad("t for other rows, score", ValueError, lambda w: w.model().score(w.x, THREE), *LENGTH)
bad("t for other rows, truth", ValueError, lambda w: w.exact.score(w.x, THREE), *LENGTH)
bad("many t for one row", ValueError, lambda w: VP().perturb(w.x[:1], THREE), r"\(3,\)", r"\(1, 2\)")
bad("t for other rows, CLD", ValueError, lambda w: CLD().perturb(w.x, THREE), r"shape \(\) or \(B,\)")
bad(
    "t for other rows, truth of CLD",
    ValueError,
    lambda w: Exact(CLD(), RING).score(CLD().lift(w.x), THREE),
    r"shape \(\) or \(B,\)",
)
bad("t for other rows, nonlinear", ValueError, lambda w: DoubleWell().perturb(w.x, THREE), r"\(\) or \(B,\)")
bad("s and t of two lengths", ValueError, lambda w: VP().transition(THREE, THREE[:2] + 0.5), r"s.*t")
bad(
    "noise for other rows",
    ValueError,
    lambda w: VP().perturb(w.x, 0.5, z=w.x[:1]),
    r"^z has shape \(1, 2\)",
    r"\(5, 2\)",
)
bad(
    "data of other width, mixture",
    ValueError,
    lambda w: RING.log_prob(w.x[:, :1]),
    r"^x has shape \(5, 1\)",
    r"\(B, 2\)",
)
bad("data without width, mixture", ValueError, lambda w: RING.score(w.x[:, 0]), r"^x has shape \(5,\)", r"\(B, 2\)")
bad(
    "data of other width, empirical",
    ValueError,
    lambda w: Exact(VP(), Empirical(w.x)).score(w.x[:, :1], 0.5),
    r"^x has shape \(5, 1\)",
    r"\(B, 2\)",
)
bad(
    "states that are not lifted",
    ValueError,
    lambda w: w.model(CLD()).score(w.x[:, [0, 1, 1]], 0.5),
    r"^x has shape \(5, 3\)",
    r"lift the data first with sde\.lift",
)
bad(
    "states that are not lifted, truth",
    ValueError,
    lambda w: Exact(CLD(), sdegen.data.random_mixture(3)).score(w.x[:, [0, 1, 1]], 0.5),
    r"sde\.lift",
)
bad(
    "a net of another size",
    ValueError,
    lambda w: fit(w.model(), w.x[:, [0, 1, 1]], steps=1, seed=0),
    r"shape \(\d+, 3\)",
    r"dim = 2",
)
bad(
    "a net that returns another shape",
    ValueError,
    lambda w: Model(nets.MLP(2, width=8, out=4), VP()).to(w.x).score(w.x, 0.5),
    r"^net returned shape \(5, 4\) for a state of shape \(5, 2\)",
)
bad(
    "learned variances of another shape",
    ValueError,
    lambda w: LearnedVariance(nets.MLP(2, width=8), VP()).to(w.x).score(w.x, 0.5),
    r"^net returned shape \(5, 2\)",
    r"twice the channels",
)


# --- laws ------------------------------------------------------------------------------------------------------------

KIND = (r"floating-point",)
bad(
    "integer weights",
    TypeError,
    lambda w: GaussianMixture(torch.ones(1).long(), MEANS[:1], HALF[:1]),
    r"^weights.*int64",
    *KIND,
)
bad(
    "integer means",
    TypeError,
    lambda w: GaussianMixture(HALF, MEANS.long(), HALF),
    r"^means has dtype torch.int64",
    *KIND,
)
bad("NaN means", ValueError, lambda w: GaussianMixture(HALF, MEANS * NAN, HALF), r"^means holds NaN", r"finite")
bad(
    "infinite covariance",
    ValueError,
    lambda w: GaussianMixture(HALF, MEANS, HALF / 0),
    r"^covariances holds .*infinite",
)
bad(
    "weights too heavy",
    ValueError,
    lambda w: GaussianMixture(2 * HALF, MEANS, HALF),
    r"^weights sum to 2 ",
    r"divide them",
)
bad(
    "a negative weight",
    ValueError,
    lambda w: GaussianMixture(torch.tensor([1.5, -0.5]), MEANS, HALF),
    r"minimum of -0.5",
)
bad(
    "weights of another number",
    ValueError,
    lambda w: GaussianMixture(HALF, MEANS[:1], HALF),
    r"\(2,\)",
    r"\(1, 2\)",
    r"same K",
)
bad(
    "no component",
    ValueError,
    lambda w: GaussianMixture(HALF[:0], MEANS[:0], HALF[:0]),
    r"weights has shape \(0,\)",
    r"K >= 1",
)
POSITIVE = (r"not positive definite", r"add a positive value")
bad(
    "a variance of 0",
    ValueError,
    lambda w: GaussianMixture(HALF, MEANS, HALF * torch.tensor([1, 0])),
    r"\[1\]",
    r"0\)",
    *POSITIVE,
)
bad("a negative variance", ValueError, lambda w: GaussianMixture(HALF, MEANS, -MEANS - 1), r"eigenvalue -2", *POSITIVE)
FULL = torch.tensor([[1.0, 2.0], [2.0, 1.0]]).expand(2, 2, 2)
bad(
    "an indefinite covariance",
    ValueError,
    lambda w: GaussianMixture(HALF, MEANS, FULL),
    r"\[0\]",
    r"value -1\)",
    *POSITIVE,
)
bad(
    "a lopsided covariance",
    ValueError,
    lambda w: GaussianMixture(HALF, MEANS, FULL.tril()),
    r"not symmetric",
    r"\(C \+ C\.mT\) / 2",
)
bad(
    "covariances of another shape",
    ValueError,
    lambda w: GaussianMixture(HALF, MEANS, torch.ones(2, 3)),
    r"\(2, 3\)",
    r"isotropic",
)
bad(
    "integer data, Empirical",
    TypeError,
    lambda w: Empirical(w.x.long()),
    r"^data has dtype torch.int64",
    r"data.double",
)
bad("NaN data, Empirical", ValueError, lambda w: Empirical(w.x * NAN), r"^data of shape \(5, 2\)", r"NaN or infinite")
bad("empty data, Empirical", ValueError, lambda w: Empirical(w.x[:0]), r"^data of shape \(0, 2\) is empty")
bad(
    "integer x, mixture",
    TypeError,
    lambda w: RING.log_prob(torch.ones(5, 2, dtype=torch.long)),
    r"^x has dtype torch.int64",
)
bad(
    "an Empirical law without noise",
    ValueError,
    lambda w: Exact(VP(), Empirical(w.x)).score(w.x, 0.0),
    r"sigma = 0",
    r"sigma\(t\) > 0",
)


# --- processes and models -------------------------------------------------------------------------------------------

for value in (0.0, 1.0, 1.5, NAN):
    bad(
        f"beta of {value}",
        ValueError,
        lambda w, v=value: DDPM(torch.tensor([0.1, v])),
        r"^betas holds NaN" if value != value else rf"^betas.* reach {value:g};",
        r"remove or replace" if value != value else r"between 0 and 1",
    )
bad("one beta", ValueError, lambda w: DDPM(torch.tensor([0.1])), r"^betas of shape \(1,\)", r"at least two")
for sde in (Cosine, Rectified):
    for asked in (models.NoiseParametrization, models.ScoreParametrization):
        bad(
            f"{asked.__name__} on {sde.__name__}",
            ValueError,
            lambda w, sde=sde, asked=asked: Model(nets.MLP(2), sde(), asked()),
            rf"^{sde.__name__} has alpha\(T\) = 0",
            r"use the velocity or EDM",
        )
bad(
    "Model on DoubleWell",
    TypeError,
    lambda w: Model(nets.MLP(2), DoubleWell()),
    r"^sde is a DoubleWell; give a linear SDE",
    r"DirectModel\(",
)
bad(
    "Exact on DoubleWell",
    TypeError,
    lambda w: Exact(DoubleWell(), RING),
    r"^sde is a DoubleWell; give a linear SDE",
    r"simulate",
)
LINEAR = {
    "LearnedVariance": lambda sde: LearnedVariance(nets.MLP(4), sde),
    "ExactConditional": lambda sde: sdegen.ExactConditional(sde, [RING], RING),
    "ExactClassifier": lambda sde: sdegen.guidance.ExactClassifier(sde, [RING]),
    "NoisyClassifier": lambda sde: sdegen.guidance.NoisyClassifier(nets.MLP(2), sde),
    "from_network": lambda sde: models.from_network(nets.MLP(2), sde),
    "from_denoiser": lambda sde: models.from_denoiser(nets.MLP(2), sde=sde),
    "StepCosts": lambda sde: samplers.StepCosts(sde, torch.tensor([1.0, 0.5]), torch.ones(1, 2, 1, 1)),
    "prior_gap": lambda sde: sdegen.metrics.prior_gap(sde, RING),
    "observed_order": lambda sde: sdegen.testing.observed_order(samplers.Heun, sde),
    "sampler_cases": lambda sde: sdegen.testing.sampler_cases(samplers.Heun, sde),
    "parametrization_cases": lambda sde: sdegen.testing.parametrization_cases(models.DataParametrization(), sde),
}
for name, door in LINEAR.items():
    bad(
        f"{name} on DoubleWell",
        TypeError,
        lambda w, door=door: door(DoubleWell()),
        r"^sde is a DoubleWell; give a linear SDE",
    )
bad(
    "a model that is not exact",
    TypeError,
    lambda w: sdegen.testing.gaussian_error(w.model()),
    r"^model is a Model; give an exact model, such as Exact\(",
)
bad(
    "LearnedVariance on CLD",
    TypeError,
    lambda w: LearnedVariance(nets.MLP(4), CLD()),
    r"^CLD is not scalar",
)
bad(
    "the denoiser of DoubleWell",
    TypeError,
    lambda w: w.well().denoise(w.x, 0.5),
    r"^DoubleWell is not linear",
    r"Use score\(x, t\)",
)
bad("std of 0", ValueError, lambda w: models.VelocityParametrization(std=0.0), r"^std = 0.0", r"positive")
bad("delta of 0", ValueError, lambda w: models.DataParametrization(delta=0.0), r"^delta = 0.0", r"positive")
bad("detail below 0", ValueError, lambda w: models.EDMParametrization(detail=-1.0), r"^detail = -1.0", r"at least 0")


@pytest.mark.parametrize(("call", "error", "says"), bad.rows)
def test_bad_calls_are_refused_in_a_sentence(w, call, error, says):
    check_refusal(w, call, error, says)
