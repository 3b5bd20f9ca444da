"""Where torch's default device is meta, calls give numbers or say in a sentence that there are none."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import grids, guidance, measurements, metrics, nets, samplers

RING, VP = sdegen.data.gaussian_ring(), sdegen.VP()
EXACT = sdegen.Exact(VP, RING)
NET = sdegen.Model(nets.MLP(2, width=4, depth=1), VP)
NET.moments = RING.moments()
FLOW = sdegen.baselines.RealNVP((2,))
PRIOR = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
X = RING.sample(40, torch.Generator().manual_seed(0))
MANY = X.repeat(4, 1) + torch.linspace(0, 1, 160)[:, None]

DOORS: dict[str, Callable[[], Any]] = {
    "sample": lambda: sdegen.sample(EXACT, 3, steps=2),
    "sample of a network": lambda: sdegen.sample(NET, 3, steps=2),
    "sample from x_T": lambda: sdegen.sample(EXACT, x_T=X, steps=2),
    "fit a new model": lambda: sdegen.fit(sdegen.Model(nets.MLP(2, width=4), VP), X, steps=1),
    "log_prob": lambda: sdegen.log_prob(EXACT, X[:2]),
    "elbo": lambda: sdegen.elbo(EXACT, X[:2], draws=2),
    "simulate": lambda: sdegen.simulate(VP, X, 0.0, 1.0, steps=2),
    "encode": lambda: samplers.encode(EXACT, X, steps=2),
    "edit": lambda: sdegen.edit(EXACT, X, 0.5, steps=2),
    "mmd": lambda: metrics.mmd(X, X.flip(0)),
    "kl": lambda: metrics.kl(RING, RING, n=10),
    "knn_kl": lambda: metrics.knn_kl(MANY, MANY.flip(0) + 0.01),
    "sliced": lambda: metrics.sliced_wasserstein(X, X.flip(0)),
    "marginal": lambda: VP.marginal(0.3).snr,
    "marginal of times": lambda: VP.marginal(torch.rand(3)).snr,
    "time": lambda: VP.time(0.1),
    "grid": lambda: grids.Angle()(VP, 5),
    "score": lambda: EXACT.score(X, 0.5),
    "score of a network": lambda: NET.score(X.float(), 0.5),
    "law": lambda: sdegen.data.gaussian_ring().sample(3),
    "model": lambda: sdegen.Model(nets.MLP(2, width=4), VP),
    "process": lambda: sdegen.CLD().marginal(0.2).snr,
    "moments": lambda: sdegen.moments_of(X),
    "fit": lambda: sdegen.fit(deepcopy(NET), RING, steps=1, progress=False),
    "fit with a seed": lambda: sdegen.fit(deepcopy(NET), RING, steps=1, seed=0, progress=False),
    "fit rows": lambda: sdegen.fit(sdegen.Model(deepcopy(NET.net), VP), MANY.float(), steps=1, progress=False),
    "fit a flow": lambda: sdegen.fit(deepcopy(FLOW), MANY.float(), steps=1, progress=False),
    "posterior": lambda: sdegen.inference.fit_posterior(PRIOR, (MANY.float(), MANY.float()), steps=1, progress=False),
    "double well": lambda: sdegen.DoubleWell().prior(RING.moments()).sample(2),
}


def said(call: Callable[[], Any]) -> str:
    """What is said of a call on the device meta; nothing where it gives numbers."""
    with torch.device("meta"):
        try:
            found = call()
        except (TypeError, ValueError, RuntimeError) as refused:
            return str(refused)
    return "meta" if isinstance(found, Tensor) and found.is_meta else ""


@pytest.mark.parametrize("door", DOORS)
def test_calls_on_the_device_meta_give_numbers_or_a_sentence(door: str) -> None:
    assert re.fullmatch(r"(.*\bmeta\b.*\.)?", said(DOORS[door]))


def test_a_network_is_made_on_the_device_meta() -> None:
    with torch.device("meta"):
        net = nets.MLP(2, width=4)
    empty = sdegen.Model(net, VP)
    empty.moments = RING.moments()
    with pytest.raises(TypeError, match="the model's first weight is on the device meta"):
        sdegen.sample(empty, 2, steps=2)
    model = sdegen.Model(net.to_empty(device="cpu"), VP)
    assert model.like is not None and model.like.device.type == "cpu"


class Shifted(nn.Module):
    """A network that adds a condition that it does not declare."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor, level: Tensor, c: Tensor) -> Tensor:
        return self.layer(x) + c


def shifted(net: nn.Module) -> sdegen.Model:
    model = sdegen.Model(net, VP)
    model.moments = RING.moments()
    return model


EMPTY, BARE = torch.empty(4, 2, device="meta"), shifted(Shifted())
DECLARED = shifted(nets.MLP(2, width=4, depth=1, conditions={"c": nets.Vector(2)}))
ROWS: dict[str, Any] = {"steps": 1, "batch_size": 2, "progress": False}

# By what an error calls the tensor that is there.
ON_META: dict[str, list[Callable[[], Any]]] = {
    "c": [
        lambda: sdegen.sample(BARE, 4, steps=2, c=EMPTY),
        lambda: sdegen.sample(DECLARED, 4, steps=2, c=EMPTY),
        lambda: sdegen.log_prob(BARE, X[:4].float(), c=EMPTY),
        lambda: sdegen.elbo(BARE, X[:4].float(), c=EMPTY),
        lambda: samplers.encode(DECLARED, X[:4].float(), c=EMPTY),
        lambda: sdegen.sample(sdegen.models.Conditioned(BARE, c=EMPTY), 4, steps=2),
    ],
    "y": [
        lambda: sdegen.sample(guidance.PiGDM(EXACT, measurements.Linear(torch.ones(2, 2), 0.1)), 4, steps=2, y=EMPTY)
    ],
    "condition 'c'": [
        lambda: sdegen.fit(BARE, (X[:4].float(), {"c": EMPTY}), **ROWS),
        lambda: sdegen.fit(DECLARED, (X[:4].float(), {"c": EMPTY}), **ROWS),
    ],
    "null['c']": [
        lambda: sdegen.fit(BARE, (X[:4].float(), {"c": X[:4].float()}), p_uncond=0.5, null={"c": EMPTY[0]}, **ROWS)
    ],
    "a part of the moments": [lambda: sdegen.sample(with_moments(sdegen.Moments(EMPTY[0], EMPTY[0])), 4, steps=2)],
    "the weight net.layer.weight": [lambda: sdegen.save(deepcopy(BARE).to("meta"), "model.safetensors")],
}


def with_moments(moments: sdegen.Moments) -> sdegen.Model:
    model = deepcopy(NET)
    model.moments = moments
    return model


@pytest.mark.parametrize("name", ON_META)
def test_conditions_moments_and_weights_on_the_device_meta_are_named(name: str) -> None:
    for call in ON_META[name]:
        with pytest.raises(
            TypeError, match=rf"^{re.escape(name)} is on the device meta, where tensors hold no numbers; give"
        ):
            call()
