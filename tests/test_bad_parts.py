"""What cannot be right is refused in one sentence that names argument, value and remedy: bounds and shapes of what models, data,
laws and measures are made of, and answers of what users have written.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from refusals import Refusals, check_refusal
from torch import Tensor, nn

import sdegen
from sdegen import VP, Model, baselines, data, guidance, laws, likelihood, metrics, nets, plots, samplers
from sdegen.data.readers import from_arrays
from sdegen.guidance.noises import PoissonNoise, QuantisedNoise
from sdegen.likelihood.bits import middles
from sdegen.likelihood.container import Header
from sdegen.processes.matrix_panels import MatrixPanels
from sdegen.training import Settings

RING = sdegen.data.gaussian_ring()
EXACT = sdegen.Exact(VP(), RING)
bad = Refusals()


# --- data -------------------------------------------------------------------------------------------------------------

X = torch.zeros(4, 2)


def few(w: Any) -> Model:
    return Model(nets.MLP(2, width=4, depth=1, conditions={"c": nets.Vector(1)}), VP())


def once(model: Any, *given: Any, **settings: Any) -> Any:
    return sdegen.fit(model, *given, steps=1, batch_size=2, seed=0, progress=False, **settings)


bad(
    "rows of a condition",
    ValueError,
    lambda w: once(few(w), (X, {"c": torch.zeros(3, 1)})),
    r"'c'.* has 3 rows for 4 rows",
)
bad("a table of no columns", ValueError, lambda w: data.Table({}), "^a table of no columns; give one")
bad(
    "levels that are lists",
    TypeError,
    lambda w: data.CategoryColumn([[1], [2]]),
    r"^levels holds \[1\]; give words, numbers or truth values",
)
bad(
    "times as numbers",
    ValueError,
    lambda w: data.Table({"a": data.NumberColumn()}).encode({"a": np.array(["2024-01-01"], dtype="datetime64[D]")}),
    r"^column 'a' holds .*; give numbers, of times such as days",
)
bad("no rings", ValueError, lambda w: data.Rings(radii=()), "^radii is empty; give the radius of one ring")
bad(
    "sprites of 8 pixels",
    ValueError,
    lambda w: data.sprites(0, images=np.zeros((3, 8, 8, 3), np.uint8), labels=np.zeros(3, int)),
    "expected sprites",
)
bad(
    "rows that are not one-hot",
    ValueError,
    lambda w: from_arrays(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([[1, 1], [0, 1]])),
    r"^labels of shape \(2, 2\) are not one-hot; give rows with a single 1",
)


def broken(folder: Path) -> Path:
    """A folder with an image that is none."""
    (folder / "a.png").write_bytes(b"no image")
    return folder


bad(
    "a mode of colours",
    ValueError,
    lambda w: data.from_folder(w, mode="CMYK"),
    r"^mode = 'CMYK'; choose \"L\", \"RGB\" or \"RGBA\"",
)
bad(
    "a folder without images",
    FileNotFoundError,
    lambda w: data.from_folder(w),
    "holds no images; put image files there",
)
bad(
    "an image that is none",
    ValueError,
    lambda w: data.from_folder(broken(w)),
    r"a.png cannot be read: .*; replace or remove",
)
bad(
    "titles over images",
    ValueError,
    lambda w: sdegen.animation.animation(torch.zeros(2, 1, 1, 4, 4), w / "a.gif", titles=["a", "b"]),
    "^titles are drawn above points; images have none",
)


# --- laws, processes and samplers -------------------------------------------------------------------------------------


class Lost(sdegen.models.VelocityParametrization):
    def target(self, at: Any) -> Any:
        return 1.0, at.R


both = "both must be positive"
bad(
    "W without an inverse",
    ValueError,
    lambda w: laws.coordinates.Whitening(torch.zeros(2), torch.ones(2, 2)),
    "^W has no inverse",
)
bad(
    "a diagonal of one number", ValueError, lambda w: laws.Diagonal(torch.tensor(2.0)), r"needs its rows, .* take Scale"
)
bad(
    "units of two shapes",
    ValueError,
    lambda w: laws.Units(torch.zeros(2), torch.ones(3)),
    r"^mean has shape \(2,\) and std \(3,\)",
)
bad(
    "a product of no laws", ValueError, lambda w: laws.multiply_laws([]), r" is empty; give a .* and its power at least"
)
bad("rate of 0", ValueError, lambda w: sdegen.OU(rate=0.0), r"^rate = 0.0, T = ", both)
bad("T of 0, OU", ValueError, lambda w: sdegen.OU(T=0.0), r", T = 0.0", both)
bad(
    "beta_min of 0", ValueError, lambda w: VP(0.0, 20.0), r"^beta_min = 0.0, beta_max = 20.0; expected 0 < beta_min <= "
)
bad(
    "beta that falls", ValueError, lambda w: VP(3.0, 2.0), r"^beta_min = 3.0, beta_max = 2.0; expected 0 < beta_min <= "
)
bad("sigma of 0", ValueError, lambda w: sdegen.GeometricBrownianMotion(sigma=0.0), r"^sigma = 0.0, T = ", both)
bad("T of 0, geometric", ValueError, lambda w: sdegen.GeometricBrownianMotion(T=0.0), r", T = 0.0", both)
bad("delta of 0", ValueError, lambda w: sdegen.SquaredBessel(0.0), r"^delta = 0.0, T = ", both)
bad("T of 0, Bessel", ValueError, lambda w: sdegen.SquaredBessel(T=0.0), r", T = 0.0", both)
bad(
    "levels of churn",
    ValueError,
    lambda w: samplers.Churn(5, S_min=2.0, S_max=1.0),
    r"^S_min = 2.0, S_max = 1.0; expected 0 <=",
)
bad(
    "a level of churn below 0",
    ValueError,
    lambda w: samplers.Churn(5, S_min=-1.0),
    r"^S_min = -1.0, S_max = inf; expected 0 <=",
)
bad(
    "eta above 1",
    ValueError,
    lambda w: samplers.DDIM(5, eta=1.5),
    r"^eta = 1.5; DDIM's noise level lies between 0 .* and 1",
)
bad(
    "eta below 0",
    ValueError,
    lambda w: samplers.DDIM(5, eta=-0.5),
    r"^eta = -0.5; DDIM's noise level lies between 0 .* and 1",
)
bad(
    "order 4 with noise",
    ValueError,
    lambda w: samplers.ExponentialSDE(5, order=4),
    r"^order = 4; .* has order 1, 2 or 3",
)
bad(
    "order 1 of single steps",
    ValueError,
    lambda w: samplers.Singlestep(5, order=1),
    r"^order = 1; .* have order 2 or 3",
)
for part in ((1, 1), (-1, 2)):
    bad(
        f"part {part}",
        ValueError,
        lambda w, p=part: sdegen.sample(EXACT, 4, steps=2, seed=0, part=p),
        r"^part = \(.*\); give \(rank, number\), whole numbers with 0 <= rank < number",
    )
bad(
    "final",
    ValueError,
    lambda w: sdegen.sample(EXACT, 2, steps=2, final="mean"),
    r"^final = 'mean'; expected \"denoise\" or",
)
bad(
    "final of a fit",
    ValueError,
    lambda w: samplers.fit_solver(EXACT, steps=2, final="mean"),
    r"^final = 'mean'; expected \"denoise\" or",
)
bad(
    "the path and log-probabilities",
    ValueError,
    lambda w: sdegen.sample(EXACT, 2, sampler=samplers.DDIM(2, eta=1.0), return_path=True, return_log_prob=True),
    "^return_log_prob and return_path were both given",
)
bad(
    "guesses and log-probabilities",
    ValueError,
    lambda w: sdegen.sample(EXACT, 2, sampler=samplers.DDIM(2, eta=1.0), parallel=2, return_log_prob=True),
    "^return_log_prob and parallel were both given",
)
for times in ([0.5, 0.0], [0.0, 0.5]):
    bad(
        f"costs of steps to {times}",
        ValueError,
        lambda w, t=times: samplers.StepCosts(VP(), torch.tensor(t).double(), torch.ones(1, 2, 1, 1).double()),
        r"^times reach t = 0, where VP has no noise and a step costs infinitely many nats; end later",
    )
bad(
    "panels of words",
    TypeError,
    lambda w: MatrixPanels(lambda t: "F", lambda t: torch.ones(len(t), 1, 1), 0.0, 1.0),  # type: ignore[arg-type,return-value]
    r"^F\(t\) .* of no real numbers; give matrices of them",
)
bad(
    "a target of numbers",
    TypeError,
    lambda w: Model(nets.MLP(2, width=4), VP(), Lost()).score(X, 0.5),
    r"^Lost.target returned a float and a \w+; give operators, as at.Phi",
)


class Still(sdegen.MatrixSDE):
    """A process that begins with noise of a covariance that is none."""

    def __init__(self, Sigma_0: Any) -> None:
        self.Sigma_0 = Sigma_0

    def F(self, t: Tensor) -> Tensor:
        return torch.zeros(*t.shape, 2, 2, dtype=torch.float64)

    def G(self, t: Tensor) -> Tensor:
        return torch.eye(2, dtype=torch.float64).expand(*t.shape, 2, 2)


ONE = torch.eye(2, dtype=torch.float64)
for what, given, error, said in (
    (
        "single",
        ONE.float(),
        ValueError,
        r"^Still.Sigma_0 is torch.float32 of shape \(2, 2\); give a float64 tensor \(k, k\)",
    ),
    ("a row", ONE[:1], ValueError, r"^Still.Sigma_0 is torch.float64 of shape \(1, 2\)"),
    (
        "one-sided",
        ONE + torch.tensor([[0.0, 0.5], [0.0, 0.0]]),
        ValueError,
        r"is no covariance; give a symmetric matrix",
    ),
    ("infinite", ONE / 0, ValueError, r"is no covariance; give a symmetric matrix of finite"),
    ("negative", -ONE, ValueError, r"^Still.Sigma_0 has the eigenvalue -1; a covariance has none below 0"),
    ("a number", 1.0, TypeError, r"^Still.Sigma_0 is a float; give a float64 tensor"),
):
    bad(f"Sigma_0, {what}", error, lambda w, v=given: sdegen.Exact(Still(v), RING), said)


class Unset(sdegen.SDE):
    """A process without a law at its end."""

    T = 1.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x.pow(3)

    def diffusion(self, x: Tensor, t: Tensor) -> Any:
        return torch.ones(3)


bad(
    "no prior",
    NotImplementedError,
    lambda w: Unset().prior(RING.moments()),
    r"^Unset has no closed-form law at T; define prior\(moments\)",
)
bad(
    "noise of three rows for two",
    ValueError,
    lambda w: sdegen.simulate(Unset(), torch.zeros(2, 2), 0.0, 0.5, steps=2),
    r"returned shape \(3,\) of torch.float32 for 1 rows; it must return a number",
)
# --- likelihoods ------------------------------------------------------------------------------------------------------


bad(
    "a chain of no steps",
    ValueError,
    lambda w: likelihood.discrete_elbo(EXACT, X.double(), 0),
    r"^steps = 0; a chain has at least one",
)
for times in ([0.5, 0.5], [0.3, 0.6], []):
    bad(
        f"a hierarchy of {times}",
        ValueError,
        lambda w, t=times: likelihood.diffusion_hierarchy(EXACT, torch.tensor(t).double()),
        r"^times = \[.*\]; give falling times \(L,\), one at least",
    )
bad(
    "bytes beyond the levels",
    ValueError,
    lambda w: middles(torch.full((1, 1, 2, 2), 17, dtype=torch.uint8), SimpleNamespace(levels=17, __repr__=None)),  # type: ignore[arg-type]
    r"^images hold 17, and .* has 17 levels; give the scaling of training",
)
header = Header(["torch 2"], ("a", "b"), "", [], 0)
bad(
    "a file of other settings",
    ValueError,
    lambda w: header.compare(["torch 2"], ("a", "c")),
    "^the images were written with other settings",
)
bad(
    "a file of another model",
    ValueError,
    lambda w: header.compare(["torch 2"], ("c", "b")),
    "^the images were written by another model",
)
bad(
    "a file from elsewhere",
    ValueError,
    lambda w: header.compare(["torch 3"], ("a", "b")),
    "^the images were written by torch 2, and here is torch 3",
)


# --- measures ---------------------------------------------------------------------------------------------------------


class Answer(nn.Module):
    """A network with one answer."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer


def accuracy(answer: Any) -> Any:
    return metrics.accuracy(
        torch.zeros(3, 1, 4, 4), torch.zeros(3, dtype=torch.long), Answer(answer).eval(), batch_size=3
    )


for answer in (torch.zeros(3), torch.zeros(3, 1), torch.zeros(2, 2), None):
    what = "None" if answer is None else tuple(answer.shape)
    bad(
        f"logits {what}",
        ValueError,
        lambda w, a=answer: accuracy(a),
        r"^what net gives for 3 samples .*; expected logits, \(3, classes\)",
    )
bad(
    "logits that are NaN",
    ValueError,
    lambda w: accuracy(torch.full((3, 2), math.nan)),
    "^net gives logits that are NaN",
)
bad(
    "shares of other samples",
    ValueError,
    lambda w: metrics.mode_shares(torch.zeros(5, 3), RING),
    "^x has 3 numbers a sample, the law 2",
)
bad(
    "units of one code",
    ValueError,
    lambda w: baselines.active_units(torch.zeros(1, 2)),
    "^codes has 1 rows; give two at least",
)


bad(
    "a flow in no steps",
    ValueError,
    lambda w: baselines.ContinuousFlow(nets.MLP(2), (2,), steps=0),
    r"^steps = 0, tolerance = ",
    both,
)
bad(
    "a flow without tolerance",
    ValueError,
    lambda w: baselines.ContinuousFlow(nets.MLP(2), (2,), tolerance=0.0),
    r", tolerance = 0.0; ",
    both,
)
bad(
    "one draw in a picture",
    ValueError,
    lambda w: plots.marginals(torch.zeros(1, 2)),
    r"^theta has shape \(1, 2\); give draws \(N, d\), two at least",
)


# --- guidance and training --------------------------------------------------------------------------------------------


class Two(guidance.Tilted):
    """Guidance that leaves the gradient out."""

    def tilted(self, x: Tensor, t: Any, /, **cond: Any) -> Any:
        return x, x


bad(
    "guidance of two answers",
    TypeError,
    lambda w: Two(EXACT).score(X.double(), 0.5),
    r"^Two.tilted returned no tuple of three; give",
)
bad(
    "a count of half",
    ValueError,
    lambda w: PoissonNoise().check_seen(torch.tensor([2.0, -1.0])),
    r"^y holds -1, which PoissonNoise never gives; it gives .*: look at what was measured",
)
bad(
    "a number between levels",
    ValueError,
    lambda w: QuantisedNoise(0.5, 0.1).check_seen(torch.tensor([0.5, 0.7])),
    r"^y holds 0.7, which .* never gives; it gives .*: look at what was measured, or give step and offset",
)
bad(
    "autocast to half",
    ValueError,
    lambda w: Settings(autocast=torch.float16),
    "^autocast = torch.float16; give torch.bfloat16",
)
bad(
    "a factor of no parameter",
    ValueError,
    lambda w: once(Model(nets.MLP(2, width=4), VP()), X, lr_factors={"nett": 2.0}),
    "no parameter begins with 'nett'; there are",
)
bad(
    "a process in training, by its scores",
    ValueError,
    lambda w: sdegen.losses.Denoising()(Model(nets.MLP(2, width=4), sdegen.processes.LearnedSchedule()), X),
    r"has parameters, and score matching cannot train a process. Take losses.Variational",
)


@pytest.mark.parametrize(("call", "error", "says"), bad.rows)
def test_bad_parts_are_refused_in_a_sentence(call: Any, error: Any, says: Any, tmp_path: Path) -> None:
    check_refusal(tmp_path, call, error, says)
