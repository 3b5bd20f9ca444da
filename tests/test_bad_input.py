"""What cannot be right is refused at once, in one sentence that names the argument, its value and the remedy."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import sdegen
from sdegen import (
    CLD,
    DDPM,
    OU,
    VP,
    Cosine,
    DirectModel,
    DoubleWell,
    Empirical,
    Exact,
    GaussianMixture,
    LearnedVariance,
    Model,
    NonFiniteLoss,
    Rectified,
    fit,
    grids,
    log_prob,
    models,
    nets,
    sample,
    samplers,
)

RING = sdegen.data.gaussian_ring()
NAN = math.nan
HALF = torch.full((2,), 0.5)
MEANS = torch.tensor([[0.0, 1.0], [2.0, 3.0]])


@pytest.fixture
def w(device, dtype):
    """Small models and data on the suite's device, in its dtype."""
    torch.manual_seed(0)

    def model(sde=None, moments=True, **net):
        built = Model(nets.MLP(2, width=8, depth=1, **net), VP() if sde is None else sde).to(device, dtype)
        built.moments = RING.moments() if moments else None
        return built

    def well():
        built = DirectModel(nets.MLP(2, width=8, depth=1), DoubleWell(T=1.0)).to(device, dtype)
        built.moments = RING.moments()
        return built

    x = RING.sample(5, torch.Generator().manual_seed(0)).to(device, dtype)
    other = torch.float32 if dtype == torch.float64 else torch.float64
    return SimpleNamespace(model=model, well=well, x=x, other=x.to(other), exact=Exact(VP(), RING), device=device)


TABLE = []


def bad(name, error, call, *says):
    """One row: `call` raises `error` with a sentence that matches all of `says`."""
    TABLE.append(pytest.param(call, error, says, id=name))


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
bad("integer data, Empirical", TypeError, lambda w: Empirical(w.x.long()), r"^data has dtype torch.int64", r"convert")
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
        rf"^betas.* reach {value:g};",
        r"between 0 and 1",
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
    r"^DoubleWell is not linear",
    r"DirectModel\(",
)
bad("Exact on DoubleWell", TypeError, lambda w: Exact(DoubleWell(), RING), r"^DoubleWell is not linear", r"simulate it")
bad(
    "LearnedVariance on CLD",
    TypeError,
    lambda w: LearnedVariance(nets.MLP(4), CLD()),
    r"^CLD moves matrices",
    r"scalar process",
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

# --- data of a run --------------------------------------------------------------------------------------------------


def fitted(data, **settings):
    return lambda w: fit(w.model(), data(w), **({"steps": 1, "batch_size": 4, "seed": 0} | settings))


law = lambda w: RING
MOVE = r"move one to the other"
bad("integer data, fit", TypeError, fitted(lambda w: w.x.long()), r"^data has dtype torch.int64", r"/ 127.5 - 1")
bad(
    "NaN data, fit",
    ValueError,
    fitted(lambda w: torch.cat([w.x, w.x * NAN])),
    r"^data holds NaN",
    r"row 5",
    r"remove or replace",
)
bad(
    "data of another dtype, fit",
    ValueError,
    fitted(lambda w: w.other),
    r"^data is torch.float",
    r"the model torch.float",
    MOVE,
)
bad("empty data, fit", ValueError, fitted(lambda w: w.x[:0]), r"^data is empty", r"at least one row")
bad(
    "empty Dataset, fit",
    ValueError,
    fitted(lambda w: TensorDataset(w.x[:0])),
    r"^data is an empty Dataset",
    r"at least one row",
)
bad(
    "three columns, fit",
    TypeError,
    fitted(lambda w: TensorDataset(w.x, w.x, w.x)),
    r"yields 3 values",
    r"a datum and a label",
)
bad("an array, fit", TypeError, fitted(lambda w: w.x.cpu().numpy()), r"^data is a ndarray", r"give a tensor")
bad(
    "conditions of another number",
    ValueError,
    fitted(lambda w: (w.x, THREE)),
    r"^condition 'label' has 3 rows for 5",
    r"one each",
)
bad(
    "named conditions of another number",
    ValueError,
    fitted(lambda w: (w.x, {"mask": THREE})),
    r"^condition 'mask' has 3 rows for 5",
)
bad(
    "conditions that are a list",
    TypeError,
    fitted(lambda w: (w.x, {"label": [0] * 5})),
    r"condition 'label' is a list",
)
bad(
    "one condition for all",
    ValueError,
    fitted(lambda w: (w.x, torch.tensor(1))),
    r"condition 'label'",
)
bad("a number for data", ValueError, fitted(lambda w: w.x[0, 0]), r"^data .*\(\)")
bad(
    "a label without classes",
    ValueError,
    fitted(lambda w: (w.x, torch.zeros(5, dtype=torch.long, device=w.device))),
    r"^a label was given to a network without classes",
    r"classes=N",
)
bad(
    "label too large",
    ValueError,
    lambda w: sample(w.model(classes=3), 4, steps=2, label=3),
    r"^label reaches 3",
    r"0 to 2",
)
bad(
    "labels of another number",
    ValueError,
    lambda w: sample(w.model(classes=3), 4, steps=2, label=torch.tensor([0, 1])),
    r"^label .*\(2,\)",
    r"\(\) or \(4,\)",
)
for name, value in {"steps": 0, "seconds": -1.0, "batch_size": 0, "lr": -1e-3, "clip": 0.0, "ema": 0.5}.items():
    bad(
        f"{name} of {value}",
        ValueError,
        fitted(law, **{name: value}),
        rf"^{name} = {value};",
        r"must be positive|between 0 and 0.28",
    )
bad("lr of NaN", ValueError, fitted(law, lr=NAN), r"^lr = nan; it must be positive")
bad("steps of 1.5", ValueError, fitted(law, steps=1.5), r"^steps = 1.5")
bad("batch_size of 2.5", ValueError, fitted(law, batch_size=2.5), r"^batch_size = 2.5")
bad("warmup below 0", ValueError, fitted(law, warmup=-1), r"^warmup = -1")
bad(
    "nothing to train",
    ValueError,
    lambda w: fit(w.model().requires_grad_(False), RING, steps=1),
    r"has no parameters to train",
)
bad("the truth, fit", TypeError, lambda w: fit(w.exact, RING, steps=1), r"Exact", r"nn\.Module")

# --- samplers -------------------------------------------------------------------------------------------------------

SAMPLERS = [
    samplers.DDIM,
    samplers.Ancestral,
    samplers.EulerMaruyama,
    samplers.Heun,
    samplers.ProbabilityFlow,
    samplers.Langevin,
]
for kind in SAMPLERS:
    for value in (0, -3, 2.5):
        bad(
            f"{kind.__name__} of {value} steps",
            ValueError,
            lambda w, k=kind, v=value: k(v),
            rf"^steps = {value};",
            r"positive whole number",
        )
bad("steps of True", ValueError, lambda w: samplers.DDIM(True), r"^steps = True")
bad("sample in 0 steps", ValueError, lambda w: sample(w.exact, 3, steps=0), r"^steps = 0;", r"positive whole number")
for value in (-0.1, 1.1, NAN):
    bad(
        f"DDIM eta of {value}",
        ValueError,
        lambda w, v=value: samplers.DDIM(eta=v),
        rf"^eta = {value};",
        r"between 0 .*and 1",
    )
bad(
    "Euler eta below 0",
    ValueError,
    lambda w: sample(w.exact, 3, sampler=samplers.EulerMaruyama(2, eta=-1.0)),
    r"^eta = -1",
    r"at least 0",
)
bad("Langevin h of 0", ValueError, lambda w: samplers.Langevin(h=0.0), r"^h = 0.0", r"positive")
bad("repeats of 0", ValueError, lambda w: samplers.AnnealedLangevin(repeats=0), r"^repeats = 0", r"at least one")
for kind in (samplers.DDIM, samplers.Ancestral):
    bad(
        f"{kind.__name__} on DoubleWell",
        TypeError,
        lambda w, k=kind: sample(w.well(), 3, sampler=k(4)),
        rf"^{kind.__name__} needs the posterior mean",
        r"DoubleWell use EulerMaruyama, Heun or ProbabilityFlow",
    )
    bad(
        f"{kind.__name__} on DoubleWell, uniform grid",
        TypeError,
        lambda w, k=kind: sample(w.well(), 3, sampler=k(4, grid=grids.Uniform())),
        rf"^{kind.__name__} needs the posterior mean",
        r"DoubleWell use EulerMaruyama, Heun or ProbabilityFlow",
    )
for grid in (grids.LogSNR, grids.Karras, grids.Angle):
    bad(
        f"{grid.__name__} grid on DoubleWell",
        TypeError,
        lambda w, g=grid: sample(w.well(), 3, sampler=samplers.EulerMaruyama(4, grid=g())),
        r"DoubleWell",
        r"Uniform",
    )
for sde in (Rectified, Cosine):
    bad(
        f"EulerMaruyama on {sde.__name__}",
        ValueError,
        lambda w, sde=sde: sample(Exact(sde(), RING), 3, sampler=samplers.EulerMaruyama(5)),
        rf"coefficient of {sde.__name__} is infinite at t = 1;",
        r"start the grid at t_max = 0\.999|use DDIM",
    )
bad(
    "a variance that was not learned",
    TypeError,
    lambda w: sample(w.model(), 3, sampler=samplers.Ancestral(4, variance=samplers.learned_variance)),
    r"^Model has no learned variance",
    r"use LearnedVariance\(net, sde\)",
)
bad(
    "a grid of another length",
    ValueError,
    lambda w: sample(w.exact, 3, sampler=samplers.DDIM(5, grid=grids.Given(1 - THREE))),
    r"5 times, the grid has 3",
    r"set steps",
)
bad("a grid the wrong way round", ValueError, lambda w: grids.Given(THREE), r"^times = \[0\.1", r"strictly decreasing")
bad("a grid outside", ValueError, lambda w: grids.Uniform(start=3.0)(VP(), 5), r"^start = 3.0", r"<= T = 1")
bad(
    "a grid upside down",
    ValueError,
    lambda w: grids.Angle(start=0.2, end=0.4)(VP(), 5),
    r"^start = 0.2, end = 0.4",
    r"end < start",
)
bad(
    "a Karras grid from no signal",
    ValueError,
    lambda w: grids.Karras()(Rectified(), 5),
    r"infinite at t = 1.0 of Rectified",
    r"earlier start",
)
bad("rho of 0", ValueError, lambda w: grids.Karras(rho=0.0), r"^rho = 0.0", r"positive")

# --- sample and log_prob --------------------------------------------------------------------------------------------

bad("n and x_T", ValueError, lambda w: sample(w.exact, 5, x_T=w.x), r"^give either n", r"or x_T")
bad("neither n nor x_T", ValueError, lambda w: sample(w.exact), r"^give either n", r"or x_T")
bad("n of 0", ValueError, lambda w: sample(w.exact, 0), r"^n = 0", r"at least one")
bad("n of 2.5", ValueError, lambda w: sample(w.exact, 2.5), r"^n = 2.5")
bad(
    "seed and generator",
    ValueError,
    lambda w: sample(w.exact, 3, seed=0, generator=torch.Generator()),
    r"seed and generator",
    r"one .*is enough",
)
bad(
    "steps and sampler",
    ValueError,
    lambda w: sample(w.exact, 3, steps=4, sampler=samplers.Heun(4)),
    r"^steps = 4 and a sampler",
    r"set the steps in the sampler",
)
bad(
    "an unknown final",
    ValueError,
    lambda w: sample(w.exact, 3, final="mean"),
    r"^final = 'mean'",
    r'"denoise" or "sample"',
)
bad(
    "a denoiser that is not",
    TypeError,
    lambda w: sample(w.well(), 3, final="denoise"),
    r"^DoubleWell is not linear",
    r'final="sample"',
)
bad(
    "no moments, sample",
    ValueError,
    lambda w: sample(w.model(moments=False), 3),
    r"does not know its data's moments",
    r"set model.moments|pass x_T",
)
bad(
    "no moments, log_prob",
    ValueError,
    lambda w: log_prob(w.model(moments=False), w.x),
    r"does not know its data's moments",
    r"pass prior",
)
bad(
    "integer x_T",
    TypeError,
    lambda w: sample(w.exact, x_T=w.x.long()),
    r"^x_T has dtype torch.int64",
    r"floating-point",
)
bad("NaN x_T", ValueError, lambda w: sample(w.exact, x_T=w.x * NAN), r"^x_T holds NaN", r"finite")
bad(
    "x_T of another dtype",
    ValueError,
    lambda w: sample(w.model(), x_T=w.other),
    r"^x is torch.float",
    r"the model torch.float",
    MOVE,
)
bad(
    "an unknown divergence",
    TypeError,
    lambda w: log_prob(w.exact, w.x, divergence="exakt"),
    r"^divergence = 'exakt'",
    r"give ExactDivergence",
)
bad(
    "no probes",
    ValueError,
    lambda w: log_prob(w.exact, w.x, divergence=sdegen.derivatives.Hutchinson(0)),
    r"^probes = 0",
    r"at least one",
)
bad(
    "a negative tolerance",
    ValueError,
    lambda w: log_prob(w.exact, w.x, tolerance=-1.0),
    r"^tolerance = -1",
)
bad(
    "integer x, log_prob",
    TypeError,
    lambda w: log_prob(w.exact, w.x.long()),
    r"^x has dtype torch.int64",
    r"floating-point",
)
bad("NaN x, log_prob", ValueError, lambda w: log_prob(w.exact, w.x * NAN), r"^x holds NaN", r"remove")
bad(
    "x of another dtype, log_prob",
    ValueError,
    lambda w: log_prob(w.model(), w.other),
    r"^x is torch.float",
    r"the model torch.float",
    MOVE,
)
bad("x of another dtype, score", ValueError, lambda w: w.model().score(w.other, 0.5), r"^x is torch.float", MOVE)
bad("integer x, score", TypeError, lambda w: w.model().score(w.x.long(), 0.5), r"^x has dtype torch.int64", r"convert")
bad(
    "x of another width, log_prob",
    ValueError,
    lambda w: log_prob(w.exact, w.x[:, :1]),
    r"^x has shape \(5, 1\)",
    r"\(B, 2\)",
)


@pytest.mark.parametrize(("call", "error", "says"), TABLE)
def test_bad_calls_are_refused_in_a_sentence(w, call, error, says):
    with pytest.raises(error) as caught:
        call(w)
    assert type(caught.value) is error
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 300
    for pattern in says:
        assert re.search(pattern, message), f"{pattern!r} is not in {message!r}"


# --- remedies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler",
    [
        samplers.EulerMaruyama(4),
        samplers.Heun(4),
        samplers.ProbabilityFlow(),
        samplers.Langevin(4, t=0.5),
    ],
    ids=lambda s: type(s).__name__,
)
def test_the_samplers_that_the_refusal_names_work_on_a_nonlinear_process(sampler, generator):
    class AtRest(sdegen.ScoreModel):
        """Data that have the stationary law of the process already: the flow stands still."""

        sde, moments = DoubleWell(T=1.0), RING.moments()

        def score(self, x, t, **cond):
            return self.sde.prior(self.moments).score(x)

    x_T = AtRest.sde.prior(AtRest.moments).sample(6, generator)
    x = sample(AtRest(), x_T=x_T, sampler=sampler, seed=0)
    assert x.isfinite().all()
    assert torch.allclose(x, x_T, atol=1e-8) == isinstance(sampler, samplers.Heun | samplers.ProbabilityFlow)


@pytest.mark.parametrize("sde", [Rectified(), Cosine()], ids=lambda s: type(s).__name__)
def test_the_remedies_of_an_infinite_coefficient_work(sde):
    model = Exact(sde, RING)
    late = samplers.EulerMaruyama(50, grid=grids.Uniform(start=sde.t_max))
    for sampler in (late, samplers.DDIM(20, eta=1.0)):
        assert sample(model, 4, sampler=sampler, seed=0).norm(dim=1).max() < 10  # on the ring, not far out


# --- what turns non-finite ------------------------------------------------------------------------------------------


class Failing(nn.Module):
    """A network that returns NaN from its `last`-th call on, for one row of the batch."""

    def __init__(self, last):
        super().__init__()
        self.line, self.last, self.calls = nn.Linear(2, 2), last, 0

    def forward(self, x, level):
        self.calls += 1
        out = self.line(x)
        if self.calls >= self.last:
            out = out * torch.where(torch.arange(len(x), device=x.device) == 2, NAN, 1.0).to(x)[:, None]
        return out


flat = lambda model: torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_loss_that_turns_non_finite_stops_the_run_and_keeps_the_last_weights(dtype):
    """On a CPU, which has the numbers at hand; an accelerator's are read later, and without the time."""
    torch.manual_seed(0)
    model, kept = Model(Failing(last=6), VP()).to(dtype), []
    with pytest.raises(NonFiniteLoss) as caught:
        fit(
            model,
            RING,
            steps=20,
            batch_size=8,
            lr=0.1,
            warmup=1,
            seed=0,
            callbacks=[lambda s: kept.append(flat(s.model))],
        )
    message = str(caught.value)
    assert re.search(r"^training stopped in step 6: the loss is not finite at t = 0\.\d+ \(1 of 8 rows\)\.", message)
    assert re.search(r"keeps the weights of step 5; lower lr", message)
    assert len(kept) == 5 and torch.equal(flat(model), kept[-1]) and flat(model).isfinite().all()
    assert not torch.equal(kept[-1], kept[0]) and not model.training


def test_the_time_that_is_named_is_that_of_the_bad_row(dtype, generator):
    class At(sdegen.weightings.UniformTimes):
        def sample(self, sde, n, generator=None):
            return torch.linspace(0.1, 0.8, n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)

    model = Model(Failing(last=1), VP()).to(dtype)
    loss = sdegen.losses.Denoising(times=At())
    with pytest.raises(NonFiniteLoss, match=r"at t = 0\.3 \(1 of 8 rows\)"):
        loss(model, RING.sample(8, generator).to(dtype), generator=generator)


def test_a_rate_out_of_all_measure_stops_the_run_with_finite_weights(w, dtype):
    model, kept = w.model(), []
    settings = {"lr": torch.finfo(dtype).max ** 0.25, "warmup": 1}  # 4e9 in float32: a few layers of it overflow
    look = [lambda s: kept.append(flat(s.model))]
    says = r"^training stopped in step \d+: .*keeps the weights of step \d+; lower lr"
    with pytest.raises(NonFiniteLoss, match=says) as caught:
        fit(model, RING, steps=50, batch_size=8, seed=0, callbacks=look, **settings)
    assert f"keeps the weights of step {len(kept)};" in str(caught.value) and len(kept) >= 1
    assert torch.equal(flat(model), kept[-1]) and flat(model).isfinite().all()


def test_a_gradient_that_turns_non_finite_stops_the_run(device, dtype):
    class Cusp(nn.Module):
        """Finite values; at its start an infinite slope."""

        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.zeros(()))

        def forward(self, x, level):
            return self.a.abs().sqrt() * x

    model = Model(Cusp(), VP()).to(device, dtype)
    with pytest.raises(
        NonFiniteLoss, match=r"stopped in step 1: loss [\d.]+, gradient norm (nan|inf)\. .*weights of step 0"
    ):
        fit(model, RING, steps=3, batch_size=8, seed=0)
    assert flat(model).tolist() == [0.0]


@pytest.mark.parametrize("final", ["denoise", "sample"])
def test_a_state_that_turns_non_finite_is_named_by_step_and_time(final):
    class Broken(sdegen.ScoreModel):
        sde, moments = VP(), RING.moments()

        def score(self, x, t, **cond):
            return torch.where(torch.as_tensor(t) < 0.45, NAN, -1.0).to(x) * x

    sampler = samplers.DDIM(10)
    times = sampler.times(Broken.sde, final == "denoise")
    first = next(i for i, t in enumerate(times.tolist()) if t < 0.45)
    expected = (
        rf"^the state turned non-finite in step {first + 1} of 10, from t = {times[first].item():.6g}; take more steps"
    )
    with pytest.raises(ValueError, match=expected):
        sample(Broken(), 3, sampler=sampler, seed=0, final=final)


def test_a_last_move_that_turns_non_finite_is_named_too():
    class Broken(sdegen.ScoreModel):
        sde, moments = VP(), RING.moments()

        def score(self, x, t, **cond):
            return torch.where(torch.as_tensor(t) < 1e-4, NAN, -1.0).to(x) * x

    with pytest.raises(ValueError, match=rf"in step 10 of 10, from t = {VP().t_min:.6g};"):
        sample(Broken(), 3, steps=10, seed=0)
