"""Score models: what every sampler, likelihood and guidance takes.

`Model` makes one of a network, through a parametrisation of four coefficients; `Exact` is the true one of a known law.
For linear processes score, noise, clean data and velocity are four readings of one estimate, and the velocity is the
one they are read from: it alone is finite at both ends (see `kernels.Transition`). Networks know nothing of this file.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .distributions import Distribution, Empirical, Moments
from .kernels import Kernel, Perturbed, Posterior, Transition, posterior
from .linear import LinearSDE
from .operators import Operator, rows
from .parametrizations import EDM, Coefficients, Data, Noise, Parametrization, Score, Velocity
from .sde import SDE

__all__ = [
    "Conditioned", "DirectModel", "Exact", "ExactConditional", "LearnedVariance", "Model", "ScoreModel", "VelocityModel",
    # what a `Model` may be asked for
    "EDM", "Data", "Noise", "Parametrization", "Score", "Velocity",
]  # fmt: skip


class Question(NamedTuple):
    """``X x + Σ W reading(x, t)`` at one time: what `ScoreModel.answer` forms.

    Attributes
    ----------
    t
        The time.
    x
        `X`, or None.
    readings
        The other operators by the names of the model's methods.
    """

    t: Tensor
    x: Operator | None
    readings: dict[str, Operator]


class ScoreModel(ABC):
    """An estimate of ``∇ log p_t(x)``. Subclass it with `score`; a linear process adds the other three readings.

    Attributes
    ----------
    sde
        The forward process.
    moments
        Mean and covariance of the data, which the prior is matched to; None until known.
    end
        Time at which the default sampler takes the posterior mean for the data; None for as close to 0 as the process goes.
    """

    sde: Any
    moments: Moments | None = None
    end: float | None = None

    @property
    def like(self) -> Tensor | None:
        """A tensor of the dtype and on the device of the states that the model takes; None where any will do."""
        return next(self.parameters(), None) if isinstance(self, nn.Module) else None

    def taken(self, x: Tensor) -> Tensor:
        """`x` in the dtype and on the device of the states that the model takes."""
        return x if self.like is None else x.to(self.like)

    @abstractmethod
    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """``∇ log p_t(x)``, of the shape of `x`."""

    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """Posterior means of the clean state and of the noise: ``E[x_0 | x_t]`` and ``E[z | x_t] = −Rᵀ score``."""
        at = self._marginal(t)
        eps = at.noise_from_score(self.score(x, t, **cond))
        return at.Phi.inv()(x - at.R(eps)), eps

    def denoise(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """``E[x_0 | x_t]``, the posterior mean of the clean state."""
        return self.estimate(x, t, **cond)[0]

    def noise(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """``E[z | x_t]``, the posterior mean of the noise."""
        return self.estimate(x, t, **cond)[1]

    def velocity(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """``A E[x_0 | x_t] + B E[z | x_t]``; ``cos(phi) eps − sin(phi) x_0`` for scalar processes."""
        return self._marginal(t).velocity(*self.estimate(x, t, **cond))

    def ask(
        self,
        t: Tensor,
        *,
        x: Operator | None = None,
        denoise: Operator | None = None,
        noise: Operator | None = None,
        score: Operator | None = None,
        velocity: Operator | None = None,
    ) -> list[Any]:
        """Questions ``X x + D E[x_0 | x_t] + N E[z | x_t] + S score + V v``, one for each of the times, for `answer`.

        Here ends all that depends on the times alone: a sampler asks in its plan, and a step is tensor work only.

        Parameters
        ----------
        t
            Times, ``(N,)``.
        x, denoise, noise, score, velocity
            `X`, `D`, `N`, `S`, `V`: one operator for all times, or one for each; None for none.
        """
        given = {"denoise": denoise, "noise": noise, "score": score, "velocity": velocity}
        readings = {name: W.prepared(self.like) for name, W in given.items() if W is not None}
        X = None if x is None else x.prepared(self.like)
        return [
            Question(t[i], None if X is None else X[i], {name: W[i] for name, W in readings.items()})
            for i in range(len(t))
        ]

    def answer(self, x: Tensor, question: Any, **cond: Any) -> Tensor:
        """What was asked (`ask`) of the state `x`, ``(B, *)``, at the question's time: a new tensor of its shape."""
        t, X, readings = question
        known = {"x": x}
        if "denoise" in readings and "noise" in readings:
            known["denoise"], known["noise"] = self.estimate(x, t, **cond)
        total = None if X is None else X(x)
        for name, W in readings.items():
            value = known[name] if name in known else getattr(self, name)(x, t, **cond)
            total = W(value) if total is None else W.onto(total, value)
        return torch.zeros_like(x) if total is None else total

    def score_error(
        self, x_0: Tensor, t: Tensor, perturbed: Perturbed, W: Operator, pooled: bool, **cond: Any
    ) -> Tensor:
        """``W (score − target)`` of denoising score matching, where the target is the kernel's own score.

        With `pooled` the target is its mean given the noised state *and the whole batch of data*, which has the same
        expectation and less variance (Rao–Blackwell): the exact model of the batch's empirical law. Nonlinear processes pool
        the kernels of rows of one time, if times are shared (`weightings.SharedTimes`).
        """
        x, kernel = perturbed.x, perturbed.kernel
        if pooled and self.sde.is_linear:
            target = Exact(self.sde, Empirical(x_0)).score(x, t)
        else:
            target = kernel.score(x)
            shared, group = t.unique(return_inverse=True)
            if pooled and len(shared) < len(x):
                for k in range(len(shared)):
                    own = (group == k).nonzero()[:, 0].to(x.device)
                    target[own] = Kernel(kernel.mean[own], kernel.R[own]).pooled_score(x[own])
        return W(self.score(x, t, **cond) - target)

    def variational_term(self, x_0: Tensor, s: Tensor, t: Tensor, perturbed: Perturbed, **cond: Any) -> Tensor:
        """``KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t))`` per coordinate in nats, ``(B,)``; `p` is `q` with the estimate of ``x_0``."""
        at_s, at_t = self._marginal(s), self._marginal(t)
        law = posterior(at_s, at_t, self.sde.transition(s, t))
        x_hat, z_hat = self.estimate(perturbed.x, t, **cond)
        gap = at_s.Phi(self.sde.lift(x_0) - x_hat) + (law.K @ at_t.R)(perturbed.z - z_hat)
        return 0.5 * law.covariance.cholesky().inv()(gap).square().flatten(1).mean(1)

    def decoded(self, x_0: Tensor, t: Tensor, perturbed: Perturbed, **cond: Any) -> Tensor:
        """``log p(x_0 | x_t) = log N(x_0; E[x_0 | x_t], 1 / snr(t))`` in nats, ``(B,)``, the last step of a chain."""
        snr = self.sde.snr(t)
        gap = (x_0 - self.sde.project(self.denoise(perturbed.x, t, **cond))).flatten(1)
        return 0.5 * gap.shape[1] * rows((snr / (2 * math.pi)).log(), gap[:, 0]) - 0.5 * gap.square().sum(1) * rows(
            snr, gap[:, 0]
        )

    # A model is a law too, so that metrics take it as it is. Samplers and likelihood import models: they are looked up
    # when they are used.

    def sample(self, n: int, generator: torch.Generator | None = None, **cond: Any) -> Tensor:
        """`n` samples by the default sampler; `sdegen.sample` has the choices."""
        from .samplers import sample

        return sample(self, n, generator=generator, **cond)

    def log_prob(self, x: Tensor, **cond: Any) -> Tensor:
        """Log-density in nats by the probability flow; `sdegen.log_prob` has the choices."""
        from .likelihood import Density

        return Density(self, **cond).log_prob(x)

    def _marginal(self, t: Tensor | float) -> Transition:
        if not self.sde.is_linear:
            raise TypeError(
                f"{type(self.sde).__name__} is not linear: its noised states have no closed-form posterior means. "
                "Use score(x, t)."
            )
        return self.sde.marginal(t)


class VelocityModel(ScoreModel):
    """A score model of a linear process that gives the velocity; the other readings follow without cancellation."""

    @abstractmethod
    def velocity(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """``A E[x_0 | x_t] + B E[z | x_t]``."""

    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """``E[x_0 | x_t]`` and ``E[z | x_t]``."""
        at = self._marginal(t)
        y, v = at.normalise(x), self.velocity(x, t, **cond)
        return at.denoise(y, v), at.noise(y, v)

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """``∇ log p_t(x) = −R⁻ᵀ E[z | x_t]``."""
        return self._marginal(t).score_from_noise(self.noise(x, t, **cond))

    def ask(self, t: Tensor, **weights: Operator | None) -> list[Any]:
        """Questions as those of state and velocity, of which the other readings are rotations."""
        skip, out = self._rotated(t, **weights)
        return super().ask(t, x=skip, velocity=out)

    def _rotated(self, t: Tensor, **weights: Operator | None) -> tuple[Operator, Operator]:
        """The operators on state and velocity of the question with these weights."""
        at = self._marginal(t)
        given = {name: W for name, W in weights.items() if W is not None}
        X, D, N, V = (given.get(name, at.Phi * 0.0) for name in ("x", "denoise", "noise", "velocity"))
        if "score" in given:
            N = N - given["score"] @ at.R.inv().T
        return X + (D @ at.C.T + N @ at.S.T) @ at.r_inv, V + D @ at.A.T + N @ at.B.T

    def score_error(
        self, x_0: Tensor, t: Tensor, perturbed: Perturbed, W: Operator, pooled: bool, **cond: Any
    ) -> Tensor:
        """``W (score − target)``, formed from the error of the velocity: nothing is divided by a vanishing noise."""
        at = self._marginal(t)
        if pooled:
            target = Exact(self.sde, Empirical(x_0)).velocity(perturbed.x, t)
        else:
            target = at.velocity(self.sde.lift(x_0), perturbed.z)
        to_score = W @ at.R.inv().T @ at.B.T
        return to_score(self.velocity(perturbed.x, t, **cond) - target)


class Exact(ScoreModel):
    """The true score model of a linear SDE started from a known law.

    Parameters
    ----------
    sde
        Any linear SDE.
    distribution
        The law of the data: `GaussianMixture`, `Empirical`, or any `Distribution`.

    Raises
    ------
    TypeError
        If the SDE is not linear.

    Examples
    --------
    >>> import sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> Exact(sdegen.VP(), ring).denoise(torch.zeros(1, 2), 1.0).abs().max().item() < 0.1
    True
    """

    def __init__(self, sde: LinearSDE, distribution: Distribution) -> None:
        if not sde.is_linear:
            raise TypeError(
                f"{type(sde).__name__} is not linear, so the law of its noised states has no closed form; simulate it, or "
                "linearise the process."
            )
        self.sde, self.distribution = sde, distribution
        self.moments = distribution.moments()

    def _observed(self, x: Tensor, at: Transition) -> tuple[Tensor, Tensor]:
        seen = at.observe(x, self.sde.e)
        mean, score = self.distribution.observed(seen.y, seen.c, seen.s)
        return mean, seen.score(x, score)

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """``∇ log p_t(x)``."""
        return self._observed(x, self.sde.marginal(t))[1]

    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """``E[x_0 | x_t]`` and ``E[z | x_t]``."""
        at = self.sde.marginal(t)
        mean, score = self._observed(x, at)
        return self.sde.lift(mean), at.noise_from_score(score)


class ExactConditional(ScoreModel):
    """The true score model of a linear SDE started from one of several known laws, which a `label` chooses row by row.

    With ``null`` the law of all data it is the truth that a network trained with lost conditions approaches, and what
    guidance makes of the truth can be seen: it goes into ``guidance.ClassifierFree`` as a network does.

    Parameters
    ----------
    sde
        Any linear SDE.
    laws
        The law of the data of each label ``0, 1, ...``.
    null
        The law for the label −1, or without one.

    Raises
    ------
    TypeError
        If the SDE is not linear, or labels are not whole numbers.
    ValueError
        If there are no laws, their data differ in shape, or there is none for a label.

    Examples
    --------
    >>> import sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> law, one = sdegen.GaussianMixture, torch.ones(1)
    >>> modes = [law(one, m[None], v[None]) for m, v in zip(ring.means, ring.covariances)]
    >>> model = ExactConditional(sdegen.VP(), modes, ring)
    >>> sdegen.sample(model, 2000, seed=0, label=2).mean(0).round().tolist()  # the mode at the top
    [0.0, 4.0]
    """

    def __init__(self, sde: LinearSDE, laws: Sequence[Distribution], null: Distribution) -> None:
        shapes = {tuple(law.event_shape) for law in (*laws, null)}
        if not laws or len(shapes) > 1:
            raise ValueError(
                f"{len(laws)} laws with data of shapes {shapes}; give at least one, all of data of one shape."
            )
        self.laws, self.null = laws, null
        self._models = [Exact(sde, law) for law in (*laws, null)]  # −1 is the last
        self.sde, self.moments = sde, null.moments()

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """``∇ log p_t(x | label)``, with `label` of shape ``()`` or ``(B,)``."""
        return self._by_label(Exact.score, x, t, **cond)

    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """``E[x_0 | x_t, label]`` and ``E[z | x_t, label]``."""

        def both(model: Exact, x: Tensor, t: Tensor) -> Tensor:
            return torch.stack(model.estimate(x, t), 1)

        x_0, eps = self._by_label(both, x, t, **cond).unbind(1)
        return x_0, eps

    def _by_label(
        self, reading: Callable[..., Tensor], x: Tensor, t: Tensor | float, label: Tensor | int | None = None
    ) -> Tensor:
        """The reading of every row by the model of its label."""
        t, label = torch.as_tensor(t, dtype=torch.float64), self._checked(label, len(x))
        places = [(label == k).nonzero()[:, 0] for k in range(-1, len(self.laws))]
        parts = [
            reading(self._models[k], x[own], t[own] if t.shape == label.shape else t)
            for k, own in enumerate(places, -1)
            if len(own)
        ]
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _checked(self, label: Tensor | int | None, n: int) -> Tensor:
        """A label for each of `n` rows."""
        label, last = torch.as_tensor(-1 if label is None else label).cpu(), len(self.laws) - 1
        if label.dtype == torch.bool or label.is_floating_point() or label.is_complex():
            raise TypeError(f"label has dtype {label.dtype}; give whole numbers, −1 for the law of all data.")
        if label.shape not in ((), (n,)) or ((label < -1) | (label > last)).any():
            raise ValueError(
                f"label = {label.unique().tolist()} of shape {tuple(label.shape)}; give one of −1, ..., {last} for all states, "
                f"or one for each of {n}."
            )
        return label.expand(n)


class Trainable(nn.Module):
    """A module with the default objective of score models."""

    _objective: Any = None

    def loss(self, x_0: Tensor, generator: torch.Generator | None = None, **cond: Any) -> Tensor:
        """The default objective, one value per datum: denoising score matching with its defaults."""
        if self._objective is None:  # kept: its law of times is tabulated once
            from .losses import Denoising  # losses import models: the default is looked up when it is used

            self._objective = Denoising()
        return self._objective(self, x_0, generator=generator, **cond)


class Model(Trainable, VelocityModel):
    """A network as the score model of a linear SDE.

    Parameters
    ----------
    net
        Called as ``net(x, c_noise, **cond)`` with `x` of shape ``(B, *)`` and `c_noise` ``(B,)``, or ``(1,)`` where all rows
        share a time, as in sampling; returns the shape of `x`.
        Conditions pass through untouched.
    sde
        A linear SDE.
    parametrization
        `Noise`, `Data`, `Velocity`, `Score` or `EDM` (the default).
    end
        Time at which the default sampler takes the posterior mean for the data: for a network that has seen little of the
        noise below, whose fine strokes would be its own. By default there is none.

    Raises
    ------
    TypeError
        If `sde` is no process, or not linear (use `DirectModel`).
    ValueError
        If the parametrisation is singular on the SDE, or `end` is not a time of it.
    """

    def __init__(
        self, net: nn.Module, sde: LinearSDE, parametrization: Parametrization | None = None, end: float | None = None
    ) -> None:
        super().__init__()
        if not isinstance(sde, SDE):
            what = f"the class {sde.__name__}" if isinstance(sde, type) else f"a {type(sde).__name__}"
            raise TypeError(f"sde is {what}; give a process, as in Model(net, VP()).")
        if not sde.is_linear:
            raise TypeError(f"{type(sde).__name__} is not linear; wrap the network in DirectModel(net, sde) instead.")
        self.net, self.sde = net, sde
        self.parametrization = EDM() if parametrization is None else parametrization
        self.parametrization.check(sde)
        if end is not None and not 0 <= end < sde.T:
            raise ValueError(f"end = {end}; give a time from 0 to before T = {sde.T}.")
        self.end = end

    @property
    def std(self) -> float:
        """Standard deviation of the data: the parametrisation's, else the one `fit` measured, else 1."""
        if self.parametrization.std is not None:
            return self.parametrization.std
        if self.moments is None:
            return 1.0
        return self.moments.variance().sqrt().item()

    def velocity(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """``c_skip x + c_out F(c_in x, c_noise)``."""
        check_dtype(self, x)
        c = self._coefficients(t)
        return c.c_skip(x) + c.c_out(self._network(x, c, **cond))

    def ask(self, t: Tensor, **weights: Operator | None) -> list[Any]:
        """Questions as coefficients: any reading is ``c_skip x + c_out F(c_in x, c_noise)``, as the velocity is."""
        skip, out = self._rotated(t, **weights)
        c, like = self._coefficients(t), self.like
        c_skip, c_out, c_in = (W.prepared(like) for W in (skip + out @ c.c_skip, out @ c.c_out, c.c_in))
        c_noise = (c.c_noise if like is None else c.c_noise.to(like)).expand(len(t))
        return [Coefficients(c_skip[i], c_out[i], c_in[i], c_noise[i : i + 1]) for i in range(len(t))]

    def answer(self, x: Tensor, question: Any, **cond: Any) -> Tensor:
        """``c_skip x + c_out F(c_in x, c_noise)``."""
        out = self._network(x, question, **cond)
        return question.c_out.onto(question.c_skip(x), out)

    def _coefficients(self, t: Tensor | float) -> Coefficients:
        """Those of the velocity, the noise level ``(B,)`` or ``(1,)``."""
        c = self.parametrization.coefficients(self.sde, t, self.std)
        return c._replace(c_noise=c.c_noise.reshape(-1))

    def _network(self, x: Tensor, c: Coefficients, **cond: Any) -> Tensor:
        """``F(c_in x, c_noise)``, checked for its shape."""
        out = self.net(c.c_in(x), c.c_noise.to(x), **cond)
        if out.shape != x.shape:
            raise ValueError(f"net returned shape {tuple(out.shape)} for a state of shape {tuple(x.shape)}.")
        return out

    forward = velocity


class LearnedVariance(Model):
    """A model whose network also gives the variance of each reversed step, between the two of DDPM.

    ``log variance = u log beta + (1 − u) log beta_tilde`` with ``u = sigmoid`` of the second half of the network's channels.
    A. Nichol and P. Dhariwal, 2021, arXiv:2102.09672. Train it with `losses.Hybrid`; sample with
    ``Ancestral(variance=learned_variance)``.

    Parameters
    ----------
    net
        Returns twice the channels it is given, along dimension 1.
    sde, parametrization, end
        As for `Model`; scalar processes only.

    Raises
    ------
    TypeError
        If the SDE is not linear, or moves matrices.
    ValueError
        As for `Model`.
    """

    def __init__(
        self, net: nn.Module, sde: LinearSDE, parametrization: Parametrization | None = None, end: float | None = None
    ) -> None:
        super().__init__(net, sde, parametrization, end)
        if len(sde.e) > 1:
            raise TypeError(f"{type(sde).__name__} moves matrices; learned variances need a scalar process.")

    def _both(self, x: Tensor, c: Coefficients, **cond: Any) -> tuple[Tensor, Tensor]:
        """The two halves of the network's channels."""
        out = self.net(c.c_in(x), c.c_noise.to(x), **cond)
        if out.shape != (len(x), 2 * x.shape[1], *x.shape[2:]):
            raise ValueError(
                f"net returned shape {tuple(out.shape)} for a state of shape {tuple(x.shape)}; learned variances need "
                "twice the channels along dimension 1."
            )
        first, second = out.chunk(2, 1)
        return first, second

    def _network(self, x: Tensor, c: Coefficients, **cond: Any) -> Tensor:
        """The half that makes the velocity."""
        return self._both(x, c, **cond)[0]

    def _log_variance(self, u: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Posterior]:
        """Log-variance of the step from `t` to `s`, the log of ``beta_tilde``, and the posterior itself."""
        s_to_t = self.sde.transition(s, t)
        law = posterior(self.sde.marginal(s), self.sde.marginal(t), s_to_t)
        small, large = (rows(v.matrix()[..., 0, 0].log(), u) for v in (law.covariance, s_to_t.covariance))
        u = u.sigmoid()
        return u * large + (1 - u) * small, small, law

    def reverse_noise(self, x: Tensor, s: Tensor, t: Tensor, z: Tensor, **cond: Any) -> Tensor:
        """Noise of the learned variance for the step from `t` to `s`."""
        u = self._both(x, self._coefficients(t), **cond)[1]
        return (0.5 * self._log_variance(u, s, t)[0]).exp() * z

    def reverse_step(self, x: Tensor, question: Any, s: Tensor, t: Tensor, z: Tensor, **cond: Any) -> Tensor:
        """What was asked, which is the mean of the step from `t` to `s`, with learned noise, in one evaluation."""
        first, u = self._both(x, question, **cond)
        mean = question.c_out.onto(question.c_skip(x), first)
        return mean + (0.5 * self._log_variance(u, s, t)[0]).exp() * z

    def variational_term(self, x_0: Tensor, s: Tensor, t: Tensor, perturbed: Perturbed, **cond: Any) -> Tensor:
        """``KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t))`` per coordinate in nats, ``(B,)``, the model's mean held fixed."""
        c = self._coefficients(t)
        first, u = self._both(perturbed.x, c, **cond)
        velocity = c.c_skip(perturbed.x) + c.c_out(first)
        log_variance, log_true, law = self._log_variance(u, s, t)
        at_s, at_t = self.sde.marginal(s), self.sde.marginal(t)
        y = at_t.normalise(perturbed.x)
        # Both means are Phi_s x_0 + K R z of their own data and noise: their difference is that of the estimates.
        x_hat, z_hat = at_t.denoise(y, velocity).detach(), at_t.noise(y, velocity).detach()
        gap = at_s.Phi(x_0 - x_hat) + (law.K @ at_t.R)(perturbed.z - z_hat)
        kl = 0.5 * (log_variance - log_true + (log_true - log_variance).exp() - 1 + gap.square() / log_variance.exp())
        return kl.reshape(len(kl), -1).mean(1)


class DirectModel(Trainable, ScoreModel):
    """A network as the score of any SDE, linear or not: ``score = base(x) + F(x / scale, c_noise) / scale``.

    Parameters
    ----------
    net
        Called as ``net(x, c_noise, **cond)`` with ``c_noise = ¼ log max(t, t_min)``: of earlier times training says nothing.
    sde
        Any SDE.
    scale
        Length that input and output are scaled by.
    base
        A law whose ``score(x)`` the network's answer is added to; none by default. With that of the law at T, of a prior that
        has a score, the network says only how the state differs from noise.

    Raises
    ------
    TypeError
        If `base` has no ``score``.
    ValueError
        If `scale` is not positive.
    """

    def __init__(self, net: nn.Module, sde: SDE, scale: float = 1.0, base: Any = None) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale = {scale}; it must be positive.")
        if base is not None and not hasattr(base, "score"):
            raise TypeError(f"base is {type(base).__name__}, which has no score; give a law with score(x), or None.")
        self.net, self.sde, self.scale, self.base = net, sde, scale, base

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """The network's score, beyond that of the base."""
        check_dtype(self, x)
        t = torch.as_tensor(t, dtype=torch.float64)
        c_noise = 0.25 * t.clamp_min(self.sde.t_min).log()
        score = self.net(x / self.scale, c_noise.to(x).reshape(-1), **cond) / self.scale
        return score if self.base is None else score + self.base.score(x)

    forward = score


class Conditioned(ScoreModel):
    """A model with its conditions fixed: every reading of ``model(x, t, **cond)`` as one of ``(x, t)``."""

    def __init__(self, model: ScoreModel, **cond: Any) -> None:
        self.model, self.cond, self.sde, self.moments, self.end = model, cond, model.sde, model.moments, model.end

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """The model's score under the conditions."""
        return self.model.score(x, t, **self.cond, **cond)

    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """The model's clean state and noise under the conditions."""
        return self.model.estimate(x, t, **self.cond, **cond)

    def velocity(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """The model's velocity under the conditions."""
        return self.model.velocity(x, t, **self.cond, **cond)

    def variational_term(self, x_0: Tensor, s: Tensor, t: Tensor, perturbed: Perturbed, **cond: Any) -> Tensor:
        """The model's under the conditions."""
        return self.model.variational_term(x_0, s, t, perturbed, **self.cond, **cond)

    def decoded(self, x_0: Tensor, t: Tensor, perturbed: Perturbed, **cond: Any) -> Tensor:
        """The model's under the conditions."""
        return self.model.decoded(x_0, t, perturbed, **self.cond, **cond)

    @property
    def like(self) -> Tensor | None:
        """The model's."""
        return self.model.like

    @property
    def reverse_noise(self) -> Any:
        """That of a model that has learned variances (`LearnedVariance`), under the conditions."""
        model: Any = self.model
        return partial(model.reverse_noise, **self.cond)

    @property
    def reverse_step(self) -> Any:
        """That of the model inside, under the conditions."""
        model: Any = self.model
        return partial(model.reverse_step, **self.cond)

    def ask(self, t: Tensor, **weights: Operator | None) -> list[Any]:
        """The model's questions: conditions are no part of them."""
        return self.model.ask(t, **weights)

    def answer(self, x: Tensor, question: Any, **cond: Any) -> Tensor:
        """The model's answer under the conditions."""
        return self.model.answer(x, question, **self.cond, **cond)


def check_dtype(model: nn.Module, x: Tensor) -> None:
    """Refuse a state whose dtype or device is not the network's.

    Raises
    ------
    TypeError
        If `x` is not floating point.
    ValueError
        If dtype or device differ.
    """
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; convert it to the model's floating-point dtype.")
    weight = next(model.parameters(), None)
    if weight is not None and (weight.dtype != x.dtype or weight.device != x.device):
        raise ValueError(
            f"x is {x.dtype} on {x.device}, the model {weight.dtype} on {weight.device}; "
            "move one to the other: x.to(dtype=..., device=...) or model.to(...)."
        )
