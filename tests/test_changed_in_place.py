"""Laws whose tensors are changed in place: whatever was computed of them before follows, in models and copies too."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen.guidance import ExactClassifier
from sdegen.laws import Distribution, Units

D = torch.float64


def full(draws: torch.Generator, K: int, d: int) -> Tensor:
    A = torch.randn(K, d, d, dtype=D, generator=draws)
    return A @ A.mT + 0.5 * torch.eye(d, dtype=D)


def mixture(kind: str, draws: torch.Generator) -> sdegen.GaussianMixture:
    weights, means = torch.rand(3, dtype=D, generator=draws) + 0.2, 2 * torch.randn(3, 2, dtype=D, generator=draws)
    spread = {
        "full": lambda: full(draws, 3, 2),
        "diagonal": lambda: torch.rand(3, 2, dtype=D, generator=draws) + 0.3,
        "isotropic": lambda: torch.rand(3, dtype=D, generator=draws) + 0.3,
    }[kind]()
    return sdegen.GaussianMixture(weights / weights.sum(), means, spread)


def again(law: Any) -> Distribution:
    """The same law made anew of the numbers that it has now."""
    if isinstance(law, sdegen.Empirical):
        return sdegen.Empirical(law.data)
    return sdegen.GaussianMixture(law.weights, law.means, law.covariances)


def change(law: Any, draws: torch.Generator) -> None:
    """Change one of the tensors of a law, or all of them, in place."""
    names = ("data",) if isinstance(law, sdegen.Empirical) else ("weights", "means", "covariances")
    for name in names:
        if torch.rand((), generator=draws) < 0.7 or len(names) == 1:
            value = getattr(law, name)
            if name == "weights":
                value.copy_(value.flip(0))
            else:
                value.mul_(1 + torch.rand((), dtype=D, generator=draws))


LAWS: dict[str, Callable[[torch.Generator], Any]] = {
    "full": lambda draws: mixture("full", draws),
    "diagonal": lambda draws: mixture("diagonal", draws),
    "isotropic": lambda draws: mixture("isotropic", draws),
    "points": lambda draws: sdegen.Empirical(torch.randn(9, 2, dtype=D, generator=draws)),
}
UNITS = Units(torch.tensor([3.0, -1.0], dtype=D), torch.tensor([2.5, 0.7], dtype=D))
PROCESSES: dict[str, Callable[[], Any]] = {
    "VE": sdegen.VE,
    "VP in units": lambda: sdegen.VP().in_units(UNITS),
    "CLD": sdegen.CLD,
}
COPIES: dict[str, Callable[[Any], Any]] = {
    "itself": lambda thing: thing,
    "copy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
}


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize("seed", range(2))
def test_a_law_is_what_its_numbers_are_now(kind: str, copied: str, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    law, x = LAWS[kind](draws), torch.randn(4, 2, dtype=D, generator=draws)

    def said(law: Any) -> list[Tensor]:
        return [*law.observed(x, 0.7, 0.9), law.sample(5, torch.Generator().manual_seed(1)), *law.moments()]

    said(law)
    change(law, draws)
    for found, right in zip(said(COPIES[copied](law)), said(again(law)), strict=True):
        torch.testing.assert_close(found, right)


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("kind", LAWS)
def test_an_exact_model_is_of_its_law_as_it_is_now(kind: str, process: str, copied: str) -> None:
    draws = torch.Generator().manual_seed(len(kind) + 7 * len(process))
    law, sde = LAWS[kind](draws), PROCESSES[process]()
    model = sdegen.Exact(sde, law)

    def said(model: Any) -> list[Tensor]:
        x = sdegen.sample(model, 4, sampler=sdegen.samplers.Heun(3), seed=0)
        states = model.sde.marginal(0.3).Phi(model.sde.embed(model.sde.units.standardise(x)))
        return [x, model.score(states, 0.3), model.log_density(states, 0.3), *model.moments]

    said(model)
    for _ in range(2):
        change(law, draws)
        assert model.distribution is law
        for found, right in zip(said(COPIES[copied](model)), said(sdegen.Exact(sde, again(law))), strict=True):
            torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("process", PROCESSES)
def test_models_and_classifiers_of_several_laws_follow_each(process: str) -> None:
    draws = torch.Generator().manual_seed(3)
    laws, sde = [mixture("full", draws) for _ in range(3)], PROCESSES[process]()
    model, classifier = sdegen.ExactConditional(sde, laws[:2], laws[2]), ExactClassifier(sde, laws)
    x = torch.randn((5, 2, 2) if process == "CLD" else (5, 2), dtype=D, generator=draws)
    label = torch.tensor([0, 1, -1, 1, 0])
    model.score(x, 0.4, label=label), classifier(x, 0.4)
    for law in laws:
        change(law, draws)
    fresh = [again(law) for law in laws]
    right = sdegen.ExactConditional(sde, fresh[:2], fresh[2])
    torch.testing.assert_close(model.score(x, 0.4, label=label), right.score(x, 0.4, label=label))
    torch.testing.assert_close(classifier(x, 0.4), ExactClassifier(sde, fresh)(x, 0.4))
    for given in ({}, {"label": 1}, {"label": label}):
        for found, wanted in zip(model.conditional_moments(**given), right.conditional_moments(**given), strict=True):
            torch.testing.assert_close(found, wanted)


def test_moments_that_were_set_stay() -> None:
    for model in (
        sdegen.Exact(sdegen.VP(), law := mixture("full", torch.Generator().manual_seed(0))),
        sdegen.ExactConditional(sdegen.VP(), [law], law),
    ):
        own = sdegen.Moments(torch.ones(2, dtype=D), torch.eye(2, dtype=D))
        model.moments = own
        law.means.add_(1.0)
        assert model.moments is own
        model.moments = None
        assert model.moments is None


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda law: pickle.loads(pickle.dumps(law))], ids=["copied", "pickled"]
)
@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("after", range(1, 5))
def test_a_copy_follows_any_number_of_changes(before: int, after: int, copied: Callable[[Any], Any]) -> None:
    draws = torch.Generator().manual_seed(0)
    law, x = mixture("full", draws), torch.randn(5, 2, dtype=D, generator=draws)
    for _ in range(before):
        law.covariances.mul_(1.2)
    other = copied(law)
    for _ in range(after):
        other.covariances.mul_(1.5)
    torch.testing.assert_close(other.log_prob(x), again(other).log_prob(x))
    torch.testing.assert_close(law.log_prob(x), again(law).log_prob(x))


def test_a_law_that_was_changed_has_derivatives_after_a_call_in_inference_mode() -> None:
    draws = torch.Generator().manual_seed(0)
    law, x = mixture("full", draws), torch.randn(5, 2, dtype=D, generator=draws)
    law.covariances.mul_(1.5)
    with torch.inference_mode():
        law.log_prob(x)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(law.log_prob(x).sum(), [x])
    torch.testing.assert_close(slope, law.score(x.detach()))
