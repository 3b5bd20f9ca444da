"""The contestants of the speed table, `benchmarks.speed`: samplers of ours and of the peers, set up to be timed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

import sdegen
from benchmarks.peers import k_diffusion
from sdegen import samplers
from sdegen.samplers import BrownianNoise, SampleNoise, Sampler

Run = Callable[[], Any]
Source = Callable[[Tensor], Tensor]
Contestant = Callable[[nn.Module, Tensor, int], Callable[[], Run]]  # network, states, steps -> set up -> run


def by_hand(net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """Return DDIM as one writes it down: ``x = a x + b net(x)`` with two numbers a step."""

    def set_up() -> Run:
        phi = torch.linspace(1.5, 0.01, steps + 1, dtype=torch.float64)
        b = (phi[1:].sin() - phi[1:].cos() * phi[:-1].tan()).tolist()
        a = (phi[1:].cos() / phi[:-1].cos()).tolist()

        def run() -> Tensor:
            u = x
            for k in range(steps):
                u = a[k] * u + b[k] * net(u, k)
            return u

        return run

    return set_up


def ours(make: Callable[[int], Sampler], net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """Return a sampler of ours, its steps as `sdegen.sample` makes them."""
    model = standardised(net, x)
    sampler = make(steps)

    def set_up() -> Run:
        plan = sampler.plan(model, sampler.times(model.sde, False))

        def run() -> Tensor:
            u, state, noise = x, None, SampleNoise(0)
            for c in plan:
                u, state = sampler.step(model, u, c, noise, state)
            return u

        return run

    return set_up


def whole(eta: float | None, net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """Return `sdegen.sample` with all its defaults, but for the noise.

    Its plan, loop, checks and the last move to clean data are in the run.
    """
    model = standardised(net, x)
    if eta is None:
        return lambda: lambda: sdegen.sample(model, x_T=x, steps=steps, progress=False)
    return lambda: partial(sdegen.sample, model, x_T=x, sampler=samplers.default(model, steps, eta), progress=False)


def standardised(net: nn.Module, x: Tensor) -> sdegen.Model:
    """Return the network as a model of independent coordinates, each with a mean and a variance of its own, about 0 and 1."""
    model, d = sdegen.Model(net, sdegen.VP()), x[0].numel()
    model.moments = sdegen.Moments(torch.linspace(-1, 1, d).reshape(x.shape[1:]), torch.linspace(0.5, 1.5, d))
    return model


def in_diffusers(name: str, options: dict[str, Any], net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """Return a scheduler of diffusers, in the loop of its pipelines."""
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    scheduler = getattr(diffusers, name)(**options)

    def set_up() -> Run:
        scheduler.set_timesteps(steps)

        def run() -> Tensor:
            u = x
            for t in scheduler.timesteps:
                u = scheduler.step(net(scheduler.scale_model_input(u, t), t), t, u).prev_sample
            return u

        return run

    return set_up


def in_azula(name: str, net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """Return a sampler of azula."""
    from azula import sample
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VPSchedule

    class Predicted(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.schedule = net, VPSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> Any:
            return DiracPosterior(self.net(x_t, t))

    denoiser = Predicted()

    def set_up() -> Run:
        sampler = getattr(sample, name)(denoiser, steps=steps, silent=True)
        return partial(sampler, x)

    return set_up


def in_k_diffusion(name: str, net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """Return a sampler of k-diffusion; its ancestral ones with plain draws instead of a Brownian tree."""
    k = k_diffusion("sampling")
    solve = getattr(k, f"sample_{name}")
    return lambda: partial(solve, net, x, k.get_sigmas_karras(steps, 0.01, 50.0), disable=True)


def sde_in_k_diffusion(net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """Return k-diffusion's stochastic second-order solver, with plain draws instead of a Brownian tree."""
    k = k_diffusion("sampling")
    solve = partial(k.sample_dpmpp_2m_sde, noise_sampler=lambda high, low: torch.randn_like(x))
    return lambda: partial(solve, net, x, k.get_sigmas_karras(steps, 0.01, 50.0), disable=True)


def in_torchdiffeq(net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """Return Euler's method of torchdiffeq, with the network as the right-hand side."""

    def slope(t: Tensor, y: Tensor) -> Tensor:
        return net(y, t)

    times, options = torch.tensor([0.0, 1.0]), {"step_size": 1 / steps}
    return lambda: lambda: odeint(slope, x, times, method="euler", options=options)


def draws(make: Callable[[int], Source], net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """Return a run that draws noise and keeps none of it."""

    def set_up() -> Run:
        noise = make(steps)

        def run() -> None:
            for _ in range(steps):
                noise(x)

        return run

    return set_up


NOISES: dict[str, Callable[[int], Source]] = {  # made for a run of so many steps
    "torch.randn": lambda steps: lambda x: torch.randn(x.shape),
    "torch.randn_like": lambda steps: torch.randn_like,
    "SampleNoise": lambda steps: SampleNoise(0),
    "BrownianNoise": lambda steps: BrownianNoise(0, 0, torch.linspace(1, 0, steps + 1, dtype=torch.float64)),
}
HAND = "hand-written DDIM"
CONTESTANTS: dict[str, Contestant] = {
    HAND: by_hand,
    "sdegen DDIM": partial(ours, samplers.DDIM),
    "sdegen Euler in t": partial(ours, lambda n: samplers.EulerMaruyama(n, eta=0.0)),
    "sdegen Euler in the angle": partial(ours, lambda n: samplers.ProbabilityFlow(n, method="euler")),
    "sdegen Multistep 2, point mass": partial(ours, lambda n: samplers.Multistep(n, None, 2, samplers.PointMass())),
    "sdegen Multistep 3": partial(ours, lambda n: samplers.Multistep(n, None, 3, samplers.Normal())),
    "sdegen Multistep 3, corrected": partial(
        ours, lambda n: samplers.Multistep(n, None, 3, samplers.Normal(), corrector=True)
    ),
    "sdegen default, matched moments": partial(ours, lambda n: samplers.Multistep(n, None, 3, corrector=True)),
    "sdegen Heun, 2 evaluations": partial(ours, samplers.Heun),
    "sdegen.sample, default without noise, all": partial(whole, 0.0),
    "sdegen.sample, default, all": partial(whole, None),
    "torchdiffeq Euler": in_torchdiffeq,
    "azula DDIM": partial(in_azula, "DDIMSampler"),
    "azula Euler": partial(in_azula, "EulerSampler"),
    "k-diffusion Euler": partial(in_k_diffusion, "euler"),
    "k-diffusion DPM++ 2M": partial(in_k_diffusion, "dpmpp_2m"),
    "diffusers DDIM": partial(in_diffusers, "DDIMScheduler", {"clip_sample": False}),
    "diffusers Euler": partial(in_diffusers, "EulerDiscreteScheduler", {}),
    "diffusers DPM++ 2M": partial(in_diffusers, "DPMSolverMultistepScheduler", {}),
    "diffusers UniPC": partial(in_diffusers, "UniPCMultistepScheduler", {}),
    **{f"noise: {name}": partial(draws, make) for name, make in NOISES.items()},
    "sdegen Ancestral": partial(ours, samplers.Ancestral),
    "sdegen Euler–Maruyama": partial(ours, samplers.EulerMaruyama),
    "azula DDPM": partial(in_azula, "DDPMSampler"),
    "k-diffusion Euler ancestral": partial(in_k_diffusion, "euler_ancestral"),
    "k-diffusion DPM++ 2M SDE": sde_in_k_diffusion,
    "diffusers DDPM": partial(in_diffusers, "DDPMScheduler", {"clip_sample": False}),
}
