"""Coefficients are numbers of any kind, Python's, NumPy's or tensors; what is no number is refused in one sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sdegen
from sdegen.processes.dynamics import diffusion_at, drift_at

KINDS: dict[str, Callable[[float], Any]] = {
    "float": float,
    "int": int,
    "np.float64": np.float64,
    "np.float32": np.float32,
    "np.int64": np.int64,
    "array of no axes": np.array,
    "tensor": lambda v: torch.tensor(v).double(),
    "float32 tensor": torch.tensor,
}
NONE: dict[str, Any] = {
    "None": None,
    "a word": "1",
    "True": True,
    "np.True_": np.True_,
    "complex": 1j,
    "complex array": np.array(1j),
    "complex tensor": torch.tensor(1j),
    "tensor of truth values": torch.tensor(True),
    "array of objects": np.array([None]),
    "list": [1.0],
}


class Number(sdegen.ScalarSDE):
    """``dx = −2 x dt + 3 dw``, with coefficients of some kind."""

    def __init__(self, f: Any, g: Any) -> None:
        self.f_, self.g_ = f, g

    def f(self, t: Tensor) -> Any:
        return self.f_

    def g(self, t: Tensor) -> Any:
        return self.g_


class Matrices(sdegen.processes.MatrixSDE):
    """The like in two channels."""

    def __init__(self, F: Any, G: Any) -> None:
        self.F_, self.G_, self.Sigma_0 = F, G, 0.1 * torch.eye(2, dtype=torch.float64)

    def F(self, t: Tensor) -> Any:
        return self.F_

    def G(self, t: Tensor) -> Any:
        return self.G_


class Noise(sdegen.SDE):
    """``dx = −2 x dt + 3 dw``, not declared to be linear."""

    def __init__(self, g: Any) -> None:
        self.g_ = g

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -2 * x

    def diffusion(self, x: Tensor, t: Tensor) -> Any:
        return self.g_


def readings(sde: Any) -> Tensor:
    """What is known of a process: its coefficients, its laws, and a simulated path."""
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)
    x = x if not isinstance(sde, Matrices) else x[:, None].expand(3, 2, 2)
    t, end = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float64)
    seed = torch.Generator().manual_seed(0)
    found = [sde.drift(x, t), sdegen.simulate(sde, x, 0.0, 0.5, steps=2, generator=seed)]
    kernel = sde.kernel(x, t, end)
    found += [kernel.mean, kernel.sample(torch.ones_like(x))]
    if sde.is_linear:
        found += [sde.marginal(end).Phi.matrix(), sde.marginal(end).covariance.matrix()]
    return torch.cat([v.flatten() for v in found])


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_every_kind_are_the_same_coefficients(kind: str) -> None:
    make = KINDS[kind]
    assert torch.allclose(readings(Number(make(-2), make(3))), readings(Number(-2.0, 3.0)), rtol=1e-12)
    assert torch.allclose(readings(Noise(make(3))), readings(Noise(3.0)), rtol=1e-12)


@pytest.mark.turns("float64")
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
def test_arrays_are_matrix_coefficients(kind: Any) -> None:
    F, G = np.array([[0, 4], [-4, -8]]), np.array([[1, 0], [0, 4]])
    want = readings(Matrices(torch.tensor(F).double(), torch.tensor(G).double()))
    assert torch.allclose(readings(Matrices(F.astype(kind), G.astype(kind))), want, rtol=1e-12)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (1, 2)], ids=["rows", "numbers", "one row"])
def test_arrays_are_noise_as_they_were_when_returned(shape: tuple[int, ...], kind: Any) -> None:
    """Their numbers are taken as they are, in float64, and the owner of an array may fill it anew."""
    part = 1 if kind is np.int64 else 1 / 3
    given = (part * np.arange(1, 1 + np.prod(shape)).reshape(shape)).astype(kind)[::-1]
    same = torch.tensor(given.tolist(), dtype=torch.float64)
    x, t = torch.linspace(1, 2, 6, dtype=torch.float64).reshape(3, 2), torch.tensor(0.3, dtype=torch.float64)
    got, want = diffusion_at(Noise(given), x, t), diffusion_at(Noise(same), x, t)
    assert torch.equal(got(x), want(x)) and got(x).dtype == torch.float64
    if len(given) == 1:
        one, two = (
            sdegen.simulate(Noise(g), x, 0.0, 0.5, steps=2, generator=torch.Generator().manual_seed(0))
            for g in (given, same)
        )
        assert torch.equal(one, two)
    given[:] = 0
    assert torch.equal(got(x), want(x))


@pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 10),
    reason="torch before 2.10 refuses to read such a tensor itself, in its own words",
)
@pytest.mark.parametrize("read", ["marginal", "f", "g"])
def test_a_schedule_that_loses_its_derivative_is_refused(read: str) -> None:
    class Lost(sdegen.ScheduleSDE):
        def alpha(self, t: Tensor) -> Any:
            return np.cos(np.array(t.tolist()))

        def sigma(self, t: Tensor) -> Tensor:
            return t.sin()

    with pytest.raises(TypeError, match=r"^Lost\.alpha returned an array of NumPy, .*write it with elementwise torch"):
        getattr(Lost(), read)(torch.tensor([0.1, 0.2], dtype=torch.float64))


@pytest.mark.parametrize("value", NONE)
def test_what_is_no_number_is_no_coefficient(value: str) -> None:
    given = NONE[value]
    t, x = torch.tensor(0.3, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    for made in (Number(given, 1.0), Number(-1.0, given), Noise(given), Matrices(given, torch.eye(2).double())):
        for ask in (
            lambda sde: (sde.drift(x[:, None].expand(3, 2, 2) if isinstance(sde, Matrices) else x, t), sde.noise_at(t)),
            lambda sde: sde.marginal(t) if sde.is_linear else sdegen.simulate(sde, x, 0.0, 0.5, steps=2),
        ):
            with pytest.raises(
                (TypeError, ValueError), match=r"returned .*; (it must )?(return|write)|; give matrices"
            ):
                ask(made)


SINGLE: dict[str, Callable[[Any], Any]] = {
    "math": lambda t: math.sqrt(1 + t),
    "float": lambda t: float(t),
    "item": lambda t: t.item(),
    "if": lambda t: 1.0 if t > 0.5 else 2.0,
    "max": lambda t: max(t, 0.5),
}
READS: dict[str, Callable[[Any], Any]] = {
    "marginal": lambda sde: sde.marginal(torch.tensor([0.3, 0.6])),
    "transition": lambda sde: sde.transition(torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.6])),
    "drift": lambda sde: sde.drift(torch.ones(2, 2).double(), torch.tensor([0.3, 0.6])),
    "log_snr": lambda sde: sde.log_snr(torch.tensor([0.3, 0.6])),
    "simulate": lambda sde: sdegen.simulate(sde, torch.ones(2, 2), 0.0, torch.tensor([0.3, 0.6]), steps=2),
    "model": lambda sde: sdegen.Exact(sde, sdegen.data.gaussian_ring()),
}


def by(compute: Callable[[Any], Any]) -> dict[str, Any]:
    """Processes of all kinds that are given by a function of one time, by the coefficient that tells first."""

    class Drift(sdegen.ScalarSDE):
        def f(self, t: Tensor) -> Any:
            return -compute(t)

        def g(self, t: Tensor) -> Any:
            return 1.0

    class Signal(sdegen.ScheduleSDE):
        def alpha(self, t: Tensor) -> Any:
            return 1 / (1 + compute(t))

        def sigma(self, t: Tensor) -> Any:
            return t

    class Correlated(sdegen.CorrelatedSDE):
        def F(self, t: Tensor) -> Any:
            return -compute(t) * torch.eye(2, dtype=torch.float64)

        def G(self, t: Tensor) -> Any:
            return torch.eye(2, dtype=torch.float64)

    return {"Drift.f": Drift(), "Signal.alpha": Signal(), "Correlated.F": Correlated()}


def test_a_coefficient_of_several_numbers_is_told_which_axes_times_need() -> None:
    eye, rates = torch.eye(3, dtype=torch.float64), torch.arange(3.0, dtype=torch.float64)

    class Turned(sdegen.CorrelatedSDE):
        def F(self, t: Tensor) -> Tensor:
            return -eye * t

        def G(self, t: Tensor) -> Tensor:
            return eye

    class Apart(sdegen.CoordinateSDE):
        def f(self, t: Tensor) -> Tensor:
            return -rates * t

        def g(self, t: Tensor) -> Tensor:
            return torch.ones(3, dtype=torch.float64)

    for sde, axes in ((Turned, "None, None"), (Apart, "None")):
        with pytest.raises(
            ValueError, match=rf"for one time and not for several.*write t\[\.\.\., {axes}\] for t, or stack functions"
        ):
            sdegen.Model(sdegen.nets.MLP(3, width=4, depth=1), sde())


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("kind", SINGLE)
def test_a_coefficient_of_one_time_alone_is_named(kind: str, read: str) -> None:
    """Python's own functions and branches take one number."""
    for who, sde in by(SINGLE[kind]).items():
        if read != "simulate" or sde.is_scalar:
            with pytest.raises(
                ValueError, match=rf"^{who} answers for one time and not for several .*elementwise torch"
            ):
                READS[read](sde)


@pytest.mark.parametrize("kind", SINGLE)
def test_a_nonlinear_coefficient_of_one_time_alone_is_named(kind: str) -> None:
    class Drawn(sdegen.SDE):
        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return -x

        def diffusion(self, x: Tensor, t: Tensor) -> Any:
            return SINGLE[kind](t)

    x = torch.ones(3, 2).double()
    assert diffusion_at(Drawn(), x, torch.tensor(0.3)).is_finite().all()
    for t in (torch.tensor([0.2, 0.3, 0.7]).double(), 0.7):
        with pytest.raises(ValueError, match=r"^Drawn\.diffusion answers for one time and not for several"):
            Drawn().perturb(x, t)


def remedy_of(told: str) -> Tensor:
    """The matrix that the code in a refusal makes of numbers at each of three times."""
    a, b, c, d = torch.arange(12, dtype=torch.float64).reshape(4, 3)
    code = re.search(r"torch\.stack\(\[torch\.stack.*?-2\)", told)
    assert code is not None, told
    return eval(code.group(), {"torch": torch, "a": a, "b": b, "c": c, "d": d})


@pytest.mark.parametrize(
    "put",
    [
        lambda t: torch.stack([torch.stack([-1 - t, t]), torch.stack([-t, -1 - t])]),  # times come last
        lambda t: torch.tensor([[-1 - t, 1.0], [-1.0, -1 - t]]).double(),  # takes numbers alone
    ],
)
def test_a_matrix_of_functions_of_time_is_refused_with_the_code_that_makes_one(put: Callable[[Tensor], Tensor]) -> None:
    class Turning(sdegen.CorrelatedSDE):
        def F(self, t: Tensor) -> Tensor:
            return put(t)

        def G(self, t: Tensor) -> Tensor:
            return torch.eye(2, dtype=torch.float64)

    with pytest.raises(ValueError, match=r"F (returned shape|answers for one time)") as refused:
        Turning().marginal(0.5)
    expected = torch.arange(12, dtype=torch.float64).reshape(2, 2, 3).permute(2, 0, 1)
    assert torch.equal(remedy_of(str(refused.value)), expected)


def test_times_that_lack_the_axes_of_states_are_named_and_what_fails_of_the_states_is_not_laid_to_them() -> None:
    class Scaled(sdegen.SDE):
        def __init__(self, read: Callable[[Tensor, Tensor], Tensor]) -> None:
            self.read = read

        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return self.read(x, t)

        def diffusion(self, x: Tensor, t: Tensor) -> Any:
            return 1.0

    x, t = torch.ones(3, 2, 2).double(), torch.tensor([0.2, 0.3, 0.7]).double()
    with pytest.raises(ValueError, match=r"^Scaled\.drift answers for one time .* t\.reshape\(-1, 1, 1\)\.$"):
        drift_at(Scaled(lambda x, t: t * x), x, t)
    assert torch.equal(drift_at(Scaled(lambda x, t: t.reshape(-1, 1, 1) * x), x, t), t[:, None, None] * x)

    def early(x: Tensor, t: Tensor) -> Tensor:
        if (t > 0.5).any():
            raise ValueError("times end at 0.5")
        return x

    with pytest.raises(ValueError, match=r"^times end at 0\.5"):
        drift_at(Scaled(early), x, t)
    with pytest.raises(RuntimeError, match=r"^shape '\[1, 4\]' is invalid"):
        drift_at(Scaled(lambda x, t: x.reshape(1, 4)), x, t)


class Unlinked(sdegen.ScheduleSDE):
    """A signal whose values come from outside of torch, or are detached."""

    def __init__(self, read: Callable[[Tensor], Any]) -> None:
        self.read = read

    def alpha(self, t: Tensor) -> Any:
        return self.read(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t.sin() + 0.01


@pytest.mark.parametrize(
    "read",
    [
        lambda t: t.detach().cos(),
        lambda t: torch.tensor([math.cos(u) for u in t.reshape(-1).tolist()], dtype=torch.float64).reshape(t.shape),
        lambda t: np.cos(t),
    ],
    ids=["detached", "list", "numpy"],
)
def test_a_schedule_without_a_derivative_is_refused_where_f_follows_from_it(read: Callable[[Tensor], Any]) -> None:
    """Its values are right, and its drift would be 0."""
    sde = Unlinked(read)
    assert sde.marginal(0.3).t == 0.3
    for t in (torch.tensor(0.3), torch.tensor([0.2, 0.3])):
        with pytest.raises(
            TypeError, match=r"^Unlinked\.alpha has values and no derivative by t, .*elementwise torch functions"
        ):
            sde.drift(torch.ones(2, 2).double(), t)


def test_a_schedule_that_is_constant_has_a_derivative() -> None:
    assert not Unlinked(lambda t: torch.ones_like(t)).drift(torch.ones(2, 2).double(), torch.tensor(0.3)).any()
    assert not Unlinked(lambda t: t.cos()).drift(torch.ones(2, 2).double(), torch.tensor(0.0)).any()
