"""What cannot be right is refused in one sentence that names argument, value and remedy: data, samplers and calls."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from refusals import Refusals, check_refusal
from torch.utils.data import TensorDataset

import sdegen
from sdegen import (
    VP,
    Cosine,
    Exact,
    Rectified,
    fit,
    grids,
    guidance,
    log_prob,
    measurements,
    sample,
    samplers,
)

RING = sdegen.data.gaussian_ring()
NAN = math.nan
THREE = torch.tensor([0.1, 0.2, 0.3])

bad = Refusals()


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
    r"^data is empty",
    r"at least one row",
)
bad(
    "three columns, fit",
    TypeError,
    fitted(lambda w: TensorDataset(w.x, w.x, w.x)),
    r"yields 3 values",
    r"a datum and a label",
)
bad(
    "a setting of no name, fit",
    TypeError,
    fitted(law, momentum=5),
    r"no setting 'momentum'",
    r"has steps, .*batch_size",
)
bad(
    "epochs, fit",
    TypeError,
    fitted(law, epochs=5),
    r"no setting 'epochs'",
    r"give steps, of which an epoch has len\(data\)",
)
bad(
    "an array, log_prob",
    TypeError,
    lambda w: log_prob(w.model(), w.x.cpu().numpy()),
    r"^x is an ndarray",
    r"torch.from_numpy\(x\)",
)
bad(
    "samples, kl",
    TypeError,
    lambda w: sdegen.metrics.kl(w.x, RING),
    r"^generated is a Tensor",
    r"Density\(model\) .* knn_kl",
)
bad(
    "a function, DPS",
    TypeError,
    lambda w: sdegen.guidance.DPS(Exact(VP(), RING), torch.relu),
    r"^measurement is a",
    r"measurements.Nonlinear\(function, std\)",
)
bad(
    "the entries of a table",
    TypeError,
    lambda w: sdegen.data.Table({"age": [30, 40]}),
    r"^columns\['age'\] is a list",
    r"Table.of\(frame\)",
)
bad(
    "an array, fit", TypeError, fitted(lambda w: w.x.cpu().numpy()), r"^data is an ndarray", r"torch.from_numpy\(data\)"
)
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
    TypeError,
    fitted(lambda w: (w.x, torch.zeros(5, dtype=torch.long, device=w.device))),
    r"^the data has the condition 'label'",
    r"which takes none",
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
    r"one for each of 4",
)
for name, value in {"steps": 0, "seconds": -1.0, "batch_size": 0, "lr": -1e-3, "clip": 0.0, "ema": 0.5}.items():
    bad(
        f"{name} of {value}",
        ValueError,
        fitted(law, **{name: value}),
        rf"^{name} = {value};",
        r"must be positive|at least 1|between 0 and 0.28",
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
            r"whole number",
        )
bad("steps of True", ValueError, lambda w: samplers.DDIM(True), r"^steps = True")
bad("sample in 0 steps", ValueError, lambda w: sample(w.exact, 3, steps=0), r"^steps = 0;", r"whole number")
for value in (-0.1, 1.1, NAN):
    bad(
        f"DDIM eta of {value}",
        ValueError,
        lambda w, v=value: samplers.DDIM(eta=v),
        rf"^eta = {value};",
        r"finite|between 0 .*and 1",
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
bad("n of 0", ValueError, lambda w: sample(w.exact, 0), r"^n = 0", r"at least 1")
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


def told(mean, covariance):
    """Return a call of `sample` by a model that is told these moments."""

    def call(w):
        model = w.model(moments=False)
        model.moments = sdegen.Moments(mean, covariance)
        return sample(model, 3)

    return call


for shape in ((), (1,), (3,), (3, 3), (2, 3), (1, 2, 2)):
    bad(
        f"a covariance of shape {shape}",
        ValueError,
        told(torch.zeros(2), torch.ones(shape)),
        rf"^the covariance of the moments has shape {re.escape(str(shape))} and their mean \(2,\)",
        r"give variances \(2,\) or a covariance \(2, 2\)",
    )
bad(
    "a variance that is a number", TypeError, told(torch.zeros(2), 0.7), r"^moments is Moments", r"both of them tensors"
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
    r"^divergence is a str",
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

bad("a tolerance with steps of one size", ValueError, lambda w: log_prob(w.exact, w.x, method="rk4", steps=4, tolerance=1e-3),
    r"^tolerance = 0.001 with steps = 4", r"give one of them")  # fmt: skip
SEEDS = {"beyond 64 bits": 2**64, "far beyond": 10**30, "below": -(2**63) - 1, "a generator": torch.Generator()}
SEEDED = {
    "sample": lambda w, seed: sample(w.exact, 2, steps=2, seed=seed),
    "fit": lambda w, seed: fit(w.model(), RING, steps=1, batch_size=4, seed=seed),
    "kl": lambda w, seed: sdegen.metrics.kl(RING, RING, 10, seed=seed),
    "random_mixture": lambda w, seed: sdegen.data.random_mixture(2, seed=seed),
}
for _name, _seed in SEEDS.items():
    for _door, _call in SEEDED.items():
        bad(
            f"a seed {_name}, {_door}",
            ValueError if isinstance(_seed, int) else TypeError,
            lambda w, s=_seed, c=_call: c(w, s),
            r"^seed = ",
            r"whole number",
        )
for _name, _value in {"negative": -1.0, "NaN": NAN, "a word": "x", "nothing": None}.items():
    bad(
        f"a schedule that gives {_name}",
        ValueError if isinstance(_value, float) else TypeError,
        fitted(law, schedule=lambda done, v=_value: v),
        r"^schedule\(0\) = ",
        r"at least 0",
    )
for _shape in ((5, 3), (5, 1), (5, 1, 2, 2)):
    bad(
        f"validation data of shape {_shape}",
        ValueError,
        lambda w, s=_shape: fit(w.model(), w.x * 3 + 1, steps=1, batch_size=4, validation=torch.zeros(s).to(w.x)),
        r"shape \(",
    )
NO_LOGITS = {"flat": lambda x: x[:, 0], "NaN": lambda x: x * NAN, "None": lambda x: None, "fewer": lambda x: x[:1]}
for _name, _net in NO_LOGITS.items():
    bad(
        f"logits, {_name}",
        ValueError,
        lambda w, net=_net: sdegen.metrics.accuracy(w.x, torch.zeros(5).long(), net),
        r"net gives",
        r"logits",
    )
STANDARD = sdegen.Moments(torch.zeros(2), torch.eye(2))
for _name, _matrix in {"negative": -torch.eye(2), "not symmetric": torch.tensor([[1.0, 0.9], [0.0, 1.0]])}.items():
    bad(
        f"a covariance, {_name}",
        ValueError,
        lambda w, C=_matrix: sdegen.metrics.frechet_distance(STANDARD._replace(covariance=C), STANDARD),
        r"^p has a covariance",
    )


for _shape in ((2, 2, 4, 4), (2, 4, 4, 4), (0, 1, 4, 4), (1, 4, 4)):
    bad(
        f"pictures of shape {_shape}",
        ValueError,
        lambda w, s=_shape: sdegen.data.save_pngs(torch.zeros(s), "pngs"),
        r"shape \(\d, .*; expected \(N, 1, H, W\) or \(N, 3, H, W\)\.$",
    )
NO_WEIGHTS = {
    "in a column": (torch.zeros(3, 1), r"\(3, 1\); give \(n,\), n at least 2"),
    "of one draw": (torch.zeros(1), r"\(1,\); give \(n,\), n at least 2"),
    "without an axis": (torch.zeros(()), r"\(\); give \(n,\), n at least 2"),
    "with NaN": (torch.tensor([0.0, NAN]), "holds NaN or inf, or all weights vanish"),
    "with infinity": (torch.tensor([0.0, math.inf, -math.inf]), "holds NaN or inf, or all weights vanish"),
    "all zero": (torch.tensor([-math.inf, -math.inf]), "holds NaN or inf, or all weights vanish"),
}
for _name, (_value, _says) in NO_WEIGHTS.items():
    for _call in (sdegen.metrics.effective_share, sdegen.plots.weights):
        bad(
            f"{_call.__name__}, weights {_name}",
            ValueError,
            lambda w, call=_call, value=_value: call(value),
            "^log_weights",
            _says,
        )


@pytest.mark.parametrize(("call", "error", "says"), bad.rows)
def test_bad_calls_are_refused_in_a_sentence(w, call, error, says):
    check_refusal(w, call, error, says)


PROCESSES = {
    "scalar": sdegen.VP,
    "lifted": sdegen.CLD,
    "known": sdegen.processes.CIR,
    "simulated": sdegen.DoubleWell,
    "transformed": lambda: sdegen.processes.Transformed(sdegen.processes.CIR(), sdegen.processes.CIR().free),
}
NOISES: dict[str, tuple[dict[str, Any], str]] = {
    "generator for noise": ({"z": torch.Generator()}, "z is a Generator; .* generator="),
    "number for noise": ({"z": 0.0}, "z is a float"),
    "whole noise": ({"z": torch.ones(3, 2, dtype=torch.long)}, "z has dtype"),
    "noise of one row": ({"z": torch.ones(1, 2)}, r"z has shape \(1, 2\) for states of shape \(3, "),
    "seed for generator": ({"generator": 3}, "generator is an int"),
    "list": ({"x_0": [1.0, 2.0]}, "data is a list"),
    "whole numbers": ({"x_0": torch.ones(3, 2, dtype=torch.long)}, "x_0 has dtype"),
}


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("case", NOISES)
def test_states_are_noised_by_noise_alone(process: str, case: str) -> None:
    wrong, sentence = NOISES[case]
    sde = PROCESSES[process]()
    sde.lag = 0.05
    with pytest.raises((TypeError, ValueError), match=sentence):
        sde.perturb(**{"x_0": torch.ones(3, 2), "t": 0.1} | wrong)


def of_arrays() -> dict[str, Callable[[Any], Any]]:
    """Methods of public objects that take data, as a function of these."""
    ring, A, scaling = sdegen.data.gaussian_ring(), measurements.Linear(torch.ones(1, 2), 0.5), sdegen.data.Scaling()
    particles = guidance.Particles(torch.rand(6, 2), torch.full((6,), 1 / 6), 0, 1)
    return {
        "GaussianMixture.log_prob": ring.log_prob,
        "GaussianMixture.score": ring.score,
        "GaussianMixture.component_log_prob": ring.component_log_prob,
        "KernelDensity.log_prob": sdegen.metrics.KernelDensity(torch.rand(5, 2), 0.3).log_prob,
        "FeatureMoments.update": sdegen.metrics.FeatureMoments().update,
        "Measurement.measure": A.measure,
        "Measurement.sample": A.sample,
        "Measurement.log_prob": lambda x: A.log_prob(torch.zeros(6, 1), x),
        "Scaling.inverse": scaling.inverse,
        "Scaling.middles": scaling.middles,
        "Scaling.bits_per_dim": lambda x: scaling.bits_per_dim(x, 4),
        "Particles.mean": particles.mean,
    }


@pytest.mark.parametrize("name", of_arrays())
@pytest.mark.parametrize(
    "given", [np.zeros((6, 2)), [[0.0, 1.0]] * 6, None, "data"], ids=["array", "list", "None", "word"]
)
def test_methods_say_that_they_take_tensors(name: str, given: Any) -> None:
    if name == "Particles.mean" and given is None:
        pytest.skip("None is the mean of the data themselves")
    with pytest.raises(TypeError, match=r"give a tensor|give torch\.Tensor|a Tensor|a tensor"):
        of_arrays()[name](given)


def test_particles_are_drawn_in_whole_numbers_and_pooled_of_runs() -> None:
    particles = guidance.Particles(torch.rand(6, 2), torch.full((6,), 1 / 6), 0, 1)
    for n in (2.5, 0, -1, math.nan):
        with pytest.raises(ValueError, match=rf"^n = {n}; it must be a whole number"):
            particles.sample(n)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^of has shape \(5,\); give values \(n, \*\) of the 6 particles"):
        particles.mean(torch.rand(5))
    with pytest.raises(TypeError, match=r"^a run .* give Particles"):
        guidance.Particles.pooled([1, 2])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"^other "):
        sdegen.metrics.FeatureMoments().merge(torch.rand(3, 2))  # type: ignore[arg-type]


def test_what_was_seen_may_be_an_array_and_data_have_axes() -> None:
    A, x = measurements.Linear(torch.ones(1, 2), 0.5), torch.rand(3, 2)
    assert torch.equal(A.log_prob(np.ones((3, 1)), x), A.log_prob(torch.ones(3, 1), x))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^x has no axes; give data \(B, \*\), a row for each"):
        A.sample(torch.tensor(1.0))
