"""Other libraries' samplers, run in their own code on noise levels they are given. What is not installed is left out.

States are ``y = cos(phi) x_0 + sin(phi) z``, levels the ratios ``sigma / alpha = tan(phi)`` from large to small, predictions the
exact ones of a `Truth`.
Install them with ``pip install ".[peers]"`` and, as no extra can hold a package that wants numpy below 2,
``pip install -c constraints.txt --no-deps k-diffusion``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import cache, partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

import sdegen

Solve = Callable[["Truth", Tensor, Tensor], Tensor]  # exact predictions, start, ratios -> end


def k_diffusion(name: str) -> ModuleType:
    """Return a module of k-diffusion, without its package's ``__init__`` and the image libraries that imports.

    Its samplers need torch alone; some of its modules name torchvision without using it, so an empty one stands in for it.

    Raises
    ------
    ImportError
        If k-diffusion is not installed.
    """
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("k-diffusion is not installed: pip install -c constraints.txt --no-deps k-diffusion")
    package, vision, transforms = (ModuleType(v) for v in ("k_diffusion", "torchvision", "torchvision.transforms"))
    package.__path__ = list(spec.submodule_search_locations)
    transforms.functional = None  # type: ignore[attr-defined]
    stand_ins = {module.__name__: module for module in (package, vision, transforms)}
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module(f"k_diffusion.{name}")
    finally:  # other modules stay imported: some of them cannot be imported twice
        for stood, module in before.items():
            if module is None:
                del sys.modules[stood]
            else:
                sys.modules[stood] = module


def name_missing() -> list[str]:
    """Return the names of the peers that are not installed."""
    return [name for name in ("diffusers", "azula", "k_diffusion") if importlib.util.find_spec(name) is None]


class Truth:
    """What networks would be trained to say of a mixture, seen as ``u = x_0 + ratio z``."""

    def __init__(self, law: sdegen.GaussianMixture) -> None:
        self.law = law

    def clean(self, y: Tensor, ratio: Tensor) -> Tensor:
        """Return ``E[x_0 | y]``."""
        phi = torch.as_tensor(ratio).double().flatten()[0].atan()
        return self.law.observed(y.double(), phi.cos(), phi.sin())[0]

    def noise(self, y: Tensor, ratio: Tensor) -> Tensor:
        """Return ``E[z | y]``."""
        phi = ratio.double().atan()
        return -phi.sin() * self.law.observed(y.double(), phi.cos(), phi.sin())[1]


class Peer(NamedTuple):
    """A solver, and its evaluations a step."""

    solve: Solve
    cost: int = 1


def in_diffusers(make: Callable[[], Any], truth: Truth, y: Tensor, ratios: Tensor) -> Tensor:
    """Take states down the levels by a scheduler of diffusers."""
    n = len(ratios) - 1
    scheduler = make()
    scheduler.set_timesteps(n)
    scheduler.sigmas = ratios.clone()
    scheduler.timesteps = torch.arange(n, 0, -1)
    scheduler.num_inference_steps = n
    for k, label in enumerate(scheduler.timesteps):
        y = scheduler.step(truth.noise(y, ratios[k]), label, y).prev_sample
    return y.double()


def in_azula(make: Callable[..., Any], truth: Truth, y: Tensor, ratios: Tensor) -> Tensor:
    """Take states down the levels by a sampler of azula, on a schedule that passes through them."""
    from azula.denoise import Denoiser, GaussianPosterior
    from azula.noise import Schedule

    n = len(ratios) - 1

    class Through(Schedule):
        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            phi = ratios[(n * (1 - t)).round().long().clamp(0, n)].atan()
            return phi.cos(), phi.sin()

    class Exact(Denoiser):
        schedule = Through()

        def forward(self, x: Tensor, t: Tensor, **kwargs: Any) -> Any:
            alpha, sigma = self.schedule(t)
            mean = truth.clean(x, sigma / alpha)
            return GaussianPosterior(mean, torch.ones_like(mean))

    return make(Exact(), steps=n, silent=True, dtype=torch.float64)(y)


def in_k_diffusion(make: Callable[..., Tensor], truth: Truth, y: Tensor, ratios: Tensor) -> Tensor:
    """Take states down the levels by a sampler of k-diffusion, which moves ``x_0 + ratio z``."""
    cos = ratios.atan().cos()

    def denoiser(u: Tensor, ratio: Tensor) -> Tensor:
        return truth.clean(u * ratio[:1].atan().cos(), ratio)

    return make(denoiser, y / cos[0], ratios, disable=True) * cos[-1]


@cache
def deterministic() -> dict[str, Peer]:
    """Return the peers' solvers of the probability flow that are installed, by name."""
    found: dict[str, Peer] = {}
    try:
        import diffusers as D

        D.utils.logging.set_verbosity_error()
        free = {"lower_order_final": False}
        for order in (1, 2, 3):
            for kind in ("dpmsolver++", "dpmsolver"):
                for variant in ("midpoint", "heun"):
                    options = {"solver_order": order, "algorithm_type": kind, "solver_type": variant} | free
                    make = partial(D.DPMSolverMultistepScheduler, final_sigmas_type="sigma_min", **options)
                    found[f"diffusers {kind} {order}M {variant}"] = Peer(partial(in_diffusers, make))
            make = partial(D.DEISMultistepScheduler, solver_order=order, **free)
            found[f"diffusers DEIS-{order}"] = Peer(partial(in_diffusers, make))
            for variant in ("bh1", "bh2"):
                make = partial(D.UniPCMultistepScheduler, solver_order=order, solver_type=variant, **free)
                found[f"diffusers UniPC-{order} {variant}"] = Peer(partial(in_diffusers, make))
    except ImportError:
        pass
    try:
        from azula import sample as azula

        found["azula DDIM"] = Peer(partial(in_azula, azula.DDIMSampler))
        found["azula Heun"] = Peer(partial(in_azula, azula.HeunSampler), 2)
        for name in ("vAB", "xEAB", "zAB", "zEAB", "REAB"):
            for order in (2, 3, 4):
                make = partial(getattr(azula, f"{name}Sampler"), order=order)
                found[f"azula {name}-{order}"] = Peer(partial(in_azula, make))
    except ImportError:
        pass
    try:
        k = k_diffusion("sampling")

        for name, cost in (("euler", 1), ("lms", 1), ("dpmpp_2m", 1), ("heun", 2), ("dpm_2", 2)):
            found[f"k-diffusion {name}"] = Peer(partial(in_k_diffusion, getattr(k, f"sample_{name}")), cost)
    except ImportError:
        pass
    return found


@cache
def stochastic() -> dict[str, Peer]:
    """Return the peers' solvers of the reverse SDE that are installed, by name."""
    found: dict[str, Peer] = {}
    try:
        import diffusers as D

        D.utils.logging.set_verbosity_error()
        options = {"solver_order": 2, "algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "sigma_min"}
        make = partial(D.DPMSolverMultistepScheduler, **options)
        found["diffusers SDE-DPM-Solver++ 2M"] = Peer(partial(in_diffusers, make))
    except ImportError:
        pass
    try:
        from azula import sample as azula

        found["azula DDPM"] = Peer(partial(in_azula, azula.DDPMSampler))
        found["azula Itô"] = Peer(partial(in_azula, azula.ItoSampler))
    except ImportError:
        pass
    try:
        k = k_diffusion("sampling")

        # Plain draws, as k-diffusion's Brownian tree costs a hundred times the step.
        def with_noise(name: str) -> Callable[..., Tensor]:
            return lambda model, u, ratios, disable: getattr(k, f"sample_{name}")(
                model, u, ratios, disable=disable, noise_sampler=lambda *_: torch.randn_like(u)
            )

        for name, cost in (("euler_ancestral", 1), ("dpmpp_2m_sde", 1), ("dpmpp_3m_sde", 1), ("dpmpp_sde", 2)):
            found[f"k-diffusion {name}"] = Peer(partial(in_k_diffusion, with_noise(name)), cost)
    except ImportError:
        pass
    return found
