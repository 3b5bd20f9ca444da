"""Densities of what samplers without noise make of latents, against laws that are known and runs that are differentiated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_flow_maps import a_map, gaussian

import sdegen
from sdegen import samplers
from sdegen.likelihood import decode_with_log_prob
from sdegen.models import Conditioned
from sdegen.samplers import DDIM, Heun, Jumps, Multistep, encode_with_error

d64 = torch.float64
LAW = gaussian(torch.tensor([[2.0, 1.2], [1.2, 1.0]], dtype=d64))


def latents(model: sdegen.ScoreModel, n: int, seed: int = 0) -> torch.Tensor:
    return model.sde.prior(model.state_moments()).sample(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", ["VP", "VE", "OU", "EDM", "Rectified", "Cosine"])
def test_of_an_exact_map_it_is_the_density_of_the_data_in_their_own_units(name: str, steps: int) -> None:
    """Smoothed as at 0; the latents have their own law, so that the gap of the prior is not in it."""
    model = a_map(getattr(sdegen, name)(), LAW, size=0.0)
    sde, x = model.sde, LAW.sample(7, torch.Generator().manual_seed(1))
    z, error = encode_with_error(model, x, sampler=Jumps(steps), progress=False)
    again, log_q = decode_with_log_prob(model, z, sampler=Jumps(steps), prior=sde.diffused(LAW, sde.T))
    wanted = sde.diffused(LAW, 0.0).log_prob(sde.standardise(x)) - sde.units.std.expand(2).log().sum()
    assert error.max() < 1e-10
    assert torch.allclose(again, x, atol=1e-9)
    assert torch.allclose(log_q, wanted, atol=1e-7)


@pytest.mark.parametrize(
    "sampler", [Jumps(1), Jumps(3), Heun(3), Multistep(4), DDIM(3)], ids=lambda s: type(s).__name__ + str(s.steps)
)
def test_densities_are_those_of_the_samples_themselves(sampler: Any) -> None:
    """``E p(x) / q(x) = 1`` for every density `p`, of samples of a map of any weights in few steps."""
    model, n = a_map(sdegen.VP(), LAW, size=0.15), 4000
    z = latents(model, n)
    x, log_q = decode_with_log_prob(model, z, sampler=sampler)
    assert torch.allclose(x, samplers.decode(model, z, sampler=sampler, progress=False))
    narrow = sdegen.GaussianMixture(torch.ones(1, dtype=d64), x.mean(0, keepdim=True), 0.3 * x.mT.cov()[None])
    ratio = (narrow.log_prob(x) - log_q).exp()
    assert (ratio.mean() - 1).abs() < 4.5 * ratio.std() / n**0.5
    assert ratio.std() / n**0.5 < 0.05


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_is_the_same_where_nothing_else_is_differentiated(mode: Any) -> None:
    model = a_map(sdegen.VP(), LAW, size=0.15)
    z = latents(model, 3)
    x, log_q = decode_with_log_prob(model, z, sampler=Jumps(2))
    with mode():
        again, log_q_again = decode_with_log_prob(model, z.clone(), sampler=Jumps(2))
    assert torch.equal(again, x) and torch.equal(log_q_again, log_q)
    assert not (x.requires_grad or log_q.requires_grad or z.requires_grad)


def test_a_condition_is_given_with_the_model_and_the_error_says_what_way_back_a_map_was_not_taught() -> None:
    torch.manual_seed(0)
    kinds = {"until": sdegen.nets.SecondLevel(), "theta": sdegen.nets.Vector(1)}
    model = samplers.FlowMap(sdegen.nets.MLP(2, width=16, depth=1, conditions=kinds), sdegen.VP()).double()
    for p in model.parameters():
        p.data += 0.4 * torch.randn_like(p)
    model.moments = LAW.moments()
    z = latents(model, 3)
    one, other = (
        decode_with_log_prob(Conditioned(model, theta=v), z, sampler=Jumps(1))[1] for v in torch.tensor([[0.0], [1.0]])
    )
    assert not torch.allclose(one, other)
    told = Conditioned(model, theta=torch.ones(1))
    assert encode_with_error(told, LAW.sample(3), sampler=Jumps(1), progress=False).error.min() > 1e-3


def test_what_has_no_density_by_a_run_is_refused() -> None:
    model = a_map(sdegen.VP(), LAW)
    z = latents(model, 3)
    with pytest.raises(ValueError, match=r"^DDIM draws noise, and what it does cannot be undone"):
        decode_with_log_prob(model, z, sampler=DDIM(3, eta=1.0))
    with pytest.raises(ValueError, match=r"^Jumps draws noise"):
        decode_with_log_prob(model, z, sampler=Jumps(3, back=0.5))
    with pytest.raises(ValueError, match=r"^z holds NaN"):
        decode_with_log_prob(model, z * torch.nan, sampler=Jumps(1))
    standard = gaussian(torch.eye(2, dtype=d64))
    lifted = a_map(sdegen.CLD(), standard)
    with pytest.raises(ValueError, match=r"^states \(2, 2\) are larger than data \(2,\)"):
        decode_with_log_prob(lifted, latents(lifted, 3), sampler=Jumps(1))
