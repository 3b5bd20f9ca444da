"""Log-densities of what a sampler without noise makes of latents: by the derivative of its whole run, whatever its steps."""

from __future__ import annotations

__all__ = ["decode_with_log_prob"]

from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments, check_law
from ..laws.outside import as_law
from ..models.score import ScoreModel
from ..precision import uncast
from ..samplers.base import Sampler
from ..samplers.encode import decode
from ..samplers.priors import prior_of
from ..samplers.start import check_states
from .draws import log_density


@check_arguments
def decode_with_log_prob(model: ScoreModel, z: Tensor, *, sampler: Sampler, prior: Any = None) -> tuple[Tensor, Tensor]:
    """Decode latents by a sampler without noise, and return the data with the log-densities that such data have.

    The sampler is a map ``x = D(z)``, and its data have the density ``log q(x) = log p_T(z) − log |det dD/dz|``. This is the
    density of the sampler's own samples, errors of few steps included; `log_prob` is that of the flow which the sampler
    approximates. For samples of a `FlowMap` take ``sampler=Jumps(steps)`` and latents drawn from the prior; for given data take
    the latents of `encode_with_error`, whose error says how near to the data they are decoded. The cost is one derivative of the
    run for each number of a state.

    Parameters
    ----------
    model
        Any score model; one with conditions as ``Conditioned(model, label=3)``.
    z
        States at T, ``(B, *)``.
    sampler
        A sampler that draws no noise, as for `decode`.
    prior
        The law of the latents, with ``log_prob``; the model's prior by default.

    Returns
    -------
    tuple[Tensor, Tensor]
        Data ``(B, *)`` and their log-densities in nats, ``(B,)``, both in float32 at least.

    Raises
    ------
    TypeError, ValueError
        As for `decode`; ValueError too if states are larger than the data, or the process has coordinates of its own.

    Examples
    --------
    >>> import sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> model, sampler = sdegen.Exact(sdegen.VP(), ring), sdegen.samplers.Heun(64)
    >>> z = model.sde.prior(model.state_moments()).sample(5, torch.Generator().manual_seed(0))
    >>> x, log_q = decode_with_log_prob(model, z, sampler=sampler)
    >>> bool((log_q - ring.log_prob(x)).abs().max() < 0.02)
    True
    """
    sde = model.sde
    if sde.coordinates is not None:
        raise ValueError(
            f"{type(sde).__name__} has coordinates of its own, in which derivatives of a run are not those of data; "
            "take log_prob."
        )
    if prior is None:
        prior = prior_of(sde, model.state_moments(", or pass prior"), "pass prior")
    else:
        check_law("prior", prior, "log_prob")
    with torch.inference_mode(False), torch.enable_grad():
        states = check_states("z", z, model).detach().clone().requires_grad_()  # inference tensors have no derivatives
        x = decode(model, states, sampler=sampler, grad=True, progress=False)
        if x.shape != states.shape:
            raise ValueError(
                f"states {tuple(states.shape[1:])} are larger than data {tuple(x.shape[1:])}, which have a density only by an "
                "integral over the rest; take log_prob."
            )
        with uncast(x):
            slopes = [torch.autograd.grad(v.sum(), states, retain_graph=True)[0] for v in x.flatten(1).unbind(1)]
    log_det = torch.stack(slopes, 1).flatten(2).slogdet().logabsdet
    return x.detach(), log_density(as_law(prior), states.detach()) - log_det
