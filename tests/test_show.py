"""Every object that a person meets shows in a line what it is and what it was made with."""

from __future__ import annotations

import base64
import html
import io
import re
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import sdegen
from sdegen import baselines, grids, guidance, measurements, metrics, nets, samplers, testing
from sdegen.models import foreign, parametrizations
from sdegen.processes import times
from sdegen.show import show_call, show_value
from sdegen.training import losses, weightings

BIG = torch.arange(1000.0, dtype=torch.float64).reshape(500, 2) / 1000


def catalogue() -> dict[str, tuple[Any, list[str]]]:
    """Objects by a name, and what their lines have to say besides the name of the class."""
    ring, vp = sdegen.data.gaussian_ring(), sdegen.VP(beta_max=15.0)
    exact, net = sdegen.Exact(vp, ring), nets.MLP(2, width=16, depth=1, classes=4)
    model, images = sdegen.Model(net, vp), sdegen.data.sprites().train
    mask = measurements.Mask(torch.tensor([True, False]), std=0.25)
    measured = guidance.DPS(model, mask, scale=0.75)
    x = torch.randn(300, 2, dtype=torch.float64)
    score_models = [
        (exact, ["VP(", "GaussianMixture("]),
        (model, ["MLP(", " weights)", "beta_max=15", "EDMParametrization("]),
        (sdegen.DirectModel(net, sdegen.DoubleWell()), ["MLP(", "DoubleWell("]),
        (sdegen.LearnedVariance(nets.MLP(2, width=8, depth=1, out=4), sdegen.DDPM()), ["DDPM("]),
        (sdegen.Conditioned(model, label=3), ["Model(", "label=3"]),
        (sdegen.ExactConditional(vp, [ring, ring], null=ring), ["GaussianMixture("]),
        (guidance.ClassifierFree(model, 1.5), ["Model(", "scale=1.5"]),
        (guidance.Clipped(model, -1, 1), ["low=-1", "high=1"]),
        (guidance.Rescaled(guidance.ClassifierFree(model, 2.0)), ["ClassifierFree(", "rescale=0.7"]),
        (guidance.EpsilonScaling(model, 1.01), ["scale="]),
        (measured, ["Mask(", "std=0.25", "scale=0.75"]),
        (guidance.Autoguidance(model, model, 2.0, interval=(0.2, 0.8)), ["interval=(0.2, 0.8)"]),
    ]
    processes = [
        (vp, ["beta_min=0.1", "beta_max=15"]),
        (sdegen.DDPM(), []),
        (sdegen.DDPM(BIG[:100, 0] * 0.1 + 0.001), ["float64[100]"]),
        (sdegen.SubVP(), ["beta_max=20"]),
        (sdegen.VE(), ["sigma_max=50"]),
        (sdegen.OU(), ["rate=1"]),
        (sdegen.CLD(), ["gamma=0.04"]),
        (sdegen.EDM(), ["sigma_max=80"]),
        (sdegen.Cosine(), []),
        (sdegen.Rectified(), []),
        (sdegen.DoubleWell(), ["stiffness=1"]),
        (sdegen.LearnedSchedule(), ["degree=12"]),
        (vp.reverse(exact, eta=0.5), ["VP(", "Exact(", "eta=0.5"]),
        (vp.marginal(torch.tensor(0.5)), ["Scale("]),
        (sdegen.Matrix(torch.eye(2)), ["[[1, 0], [0, 1]]"]),
        (vp.marginal(torch.linspace(0.1, 1, 90)), ["float64[90]"]),
    ]
    runs = [
        (samplers.DDIM(), ["steps=50", "eta=0"]),
        (samplers.Heun(18, grids.Karras(rho=5.0)), ["steps=18", "Karras(rho=5)"]),
        (samplers.Multistep(9, order=2), ["steps=9", "order=2"]),
        (samplers.ExponentialSDE(7, eta=0.8), ["steps=7", "eta=0.8"]),
        (samplers.Ancestral(100), ["steps=100"]),
        (samplers.ProbabilityFlow(), ["rtol=1e-05"]),
        (samplers.Restart(), ["Heun(steps=18)"]),
        (samplers.PredictorCorrector(samplers.ReverseDiffusion(50)), ["ReverseDiffusion(", "steps=50"]),
        (samplers.default(exact, 10), ["steps=10"]),
        (samplers.SampleNoise(3), ["seed=3"]),
        (samplers.Normal(0.5), ["variance=0.5"]),
        (grids.Angle(end=0.01), ["end=0.01"]),
        (grids.Given(torch.linspace(1, 0, 20)), ["float64[20]"]),
    ]
    trainings = [
        (weightings.LikelihoodWeighting(), []),
        (weightings.MinSNRWeighting(), ["gamma=5"]),
        (losses.Denoising(), []),
        (times.LogNormalTimes(), ["mean=-1.2"]),
        (parametrizations.EDMParametrization(detail=0.1), ["detail=0.1"]),
        (sdegen.training.Settings(steps=7), ["steps=7", "batch_size=512"]),
        (foreign.StepIndex(1000), ["1000"]),
    ]
    laws = [
        (ring, ["8", "2"]),
        (sdegen.Empirical(BIG), ["float64[500, 2]"]),
        (sdegen.moments_of(x), ["mean=[", "covariance=[["]),
        (images, ["16"]),
        (images.split(), ["train=", "test="]),
        (images.scaled(), ["Images(", "low=-1"]),
        (mask, ["std=0.25"]),
        (sdegen.DoubleWell().prior(ring.moments()), ["stiffness=1"]),
        (sdegen.derivatives.Hutchinson(8), ["probes=8"]),
        (baselines.Hellinger(), []),
        (baselines.Gaussian(0.5), ["std=0.5"]),
    ]
    answers = [
        (metrics.Estimate(0.123456789, 0.01), ["value=0.123457", "stderr=0.01"]),
        (metrics.FeatureEstimate(3.25, 0.5, "FID", "mnist-cnn-v1"), ["value=3.25", "metric='FID'", "mnist-cnn-v1"]),
        (
            metrics.Accuracy(metrics.FeatureEstimate(0.9, 0.01), {k: metrics.Estimate(0.9, 0.1) for k in range(10)}),
            ["overall=", "…"],
        ),
        (metrics.knn_kl(x, x + 0.1), ["stderr="]),
        (sdegen.likelihood.LogProb(x[:, 0], x[:, 1], 52), ["value=float64[300]", "evaluations=52"]),
        (sdegen.Density(exact), ["Exact("]),
        (sdegen.elbo(exact, x[:9], generator=torch.Generator().manual_seed(0)), ["[9]"]),
        (testing.check_sde(vp), ["VP", "laws hold"]),
        (metrics.KernelDensity(x, 0.3), ["float64[300, 2]", "h=0.3"]),
    ]
    everything = [*score_models, *processes, *runs, *trainings, *laws, *answers]
    return {f"{i}-{type(thing).__name__}": (thing, says) for i, (thing, says) in enumerate(everything)}


CATALOGUE = catalogue()


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_line_names_the_class_and_its_settings(name: str) -> None:
    thing, says = CATALOGUE[name]
    line = repr(thing)
    assert line.startswith(f"{type(thing).__name__}(")
    assert len(line) < 400 and "\n" not in line and " object at 0x" not in line and "tensor(" not in line
    assert [text for text in says if text not in line] == []


def test_a_call_that_is_shown_makes_the_object_again() -> None:
    things = [
        sdegen.VP(beta_max=3.0),
        sdegen.OU(),
        samplers.Heun(7, grids.Karras(rho=5.0)),
        samplers.Multistep(9, order=2),
    ]
    names = {name: getattr(chapter, name) for chapter in (sdegen, samplers, grids) for name in dir(chapter)}
    for thing in things:
        assert repr(eval(repr(thing), names)) == repr(thing)


def test_an_object_of_the_user_is_shown_too() -> None:
    class Mine(sdegen.ScalarSDE):
        def __init__(self, rate: float, kept_elsewhere: Tensor, *more: str, **words: int) -> None:
            self.rate, self.more, self.words = rate, more, words

        def f(self, t: Tensor) -> Tensor:
            return -self.rate * t

        def g(self, t: Tensor) -> Tensor:
            return 1 + t

    assert repr(Mine(0.5, torch.zeros(3), "a", seen=2)) == "Mine(rate=0.5, 'a', seen=2)"


def test_networks_are_shown_by_their_weights_and_functions_by_name() -> None:
    assert show_value(nn.Linear(3, 2)) == "Linear(8 weights)"
    assert show_value(torch.relu) == "relu" and show_value(lambda x: x) == "<lambda>" and show_value(Tensor) == "Tensor"
    assert show_value({"label": torch.zeros(9)}) == "{'label': float32[9]}"
    assert show_value([1.0] * 5) == "[1, 1, 1, 1, …]" and show_value((1,)) == "(1,)"


def test_what_is_long_is_cut_to_its_class() -> None:
    inner = samplers.Restart(samplers.Heun(18), [samplers.Interval(0.1 + i / 10, 0.2 + i / 10) for i in range(4)])
    assert "Restart(…)" in show_call(samplers.PredictorCorrector(inner))


def test_a_run_is_shown_in_six_lines_and_as_a_curve() -> None:
    model = sdegen.Model(nets.MLP(2, width=16, depth=1), sdegen.VP())
    run = sdegen.fit(model, sdegen.data.gaussian_ring(), steps=30, batch_size=32, seed=0, progress=False)
    lines = repr(run).splitlines()
    assert len(lines) == 6 and max(map(len, lines)) < 200
    assert lines[0].startswith("Run: 30 steps in ") and "Model(MLP(" in lines[1] and "seed=0" in lines[-1]
    half = [sum(part) / 15 for part in (run.loss[:15], run.loss[15:])]
    assert f"{half[0]:.4g}, then {half[1]:.4g} (means of the first and the last 15 steps)" in lines[2]
    size, shades = picture_in(run)
    assert size == (500, 250) and shades > 10
    assert len(repr(sdegen.Run()).splitlines()) == 2


def test_images_are_shown_as_pictures_of_the_first_of_them() -> None:
    images = sdegen.data.Images(torch.arange(40 * 3 * 5 * 5).reshape(40, 3, 5, 5).to(torch.uint8))
    assert picture_in(images)[0] == (12 * 16 * 5, 12 * 2 * 5)
    grey = sdegen.data.Images(torch.tensor([[[[0, 16]]]], dtype=torch.uint8), levels=17)
    assert picture_in(grey)[1] == 2


def test_reports_and_budgets_are_shown_as_they_are_printed() -> None:
    report = testing.check_sde(sdegen.OU())
    assert report._repr_html_() == f"<pre>{html.escape(str(report))}</pre>"
    broken = testing.report.Report("OU", [testing.report.Result("roots_solve_their_equation", False, "1 < 2")])
    assert repr(broken) == "Report(OU: 0 of 1 laws hold; broken: roots_solve_their_equation)"
    assert "1 &lt; 2" in broken._repr_html_()


def picture_in(thing: Any) -> tuple[tuple[int, int], int]:
    """Width and height of the picture that a notebook shows, and how many colours it has."""
    shown = thing._repr_html_()
    assert html.escape(repr(thing)) in shown
    found = re.search(r'src="data:image/png;base64,([^"]+)"', shown)
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as picture:
        return picture.size, len(picture.convert("RGB").getcolors(picture.width * picture.height) or ())
