"""What is derived from an object's attributes stays right: one that is set afterwards is refused, or changes all it should."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import data, grids, measurements, training, weightings
from sdegen.processes import times
from sdegen.processes.linear import is_linear


class Own(sdegen.ScalarSDE):
    """A process of the user's, by its coefficients."""

    def __init__(self, rate: float = 1.0, T: float = 1.0) -> None:
        self.rate, self.T = rate, T

    def f(self, t: Tensor) -> Tensor:
        return -self.rate * (1 + t)

    def g(self, t: Tensor) -> Tensor:
        return (1 + self.rate * t).sqrt()


class Matrices(sdegen.MatrixSDE):
    """A matrix process of the user's, whose moments and roots are found by its ODEs."""

    def __init__(self, rate: float = 1.0) -> None:
        self.rate, self.Sigma_0 = rate, 0.01 * torch.eye(2, dtype=torch.float64)

    def F(self, t: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0], [-1.0, -2.0]], dtype=torch.float64) * self.rate

    def G(self, t: Tensor) -> Tensor:
        return torch.diag(torch.tensor([0.0, 2.0], dtype=torch.float64))


PROCESSES: dict[str, Callable[..., sdegen.SDE]] = {
    "VP": sdegen.VP, "SubVP": sdegen.SubVP, "VE": sdegen.VE, "EDM": sdegen.EDM, "OU": sdegen.OU, "Cosine": sdegen.Cosine,
    "Rectified": sdegen.Rectified, "DDPM": lambda: sdegen.DDPM(sdegen.processes.cosine_betas(50)), "CLD": sdegen.CLD,
    "DoubleWell": sdegen.DoubleWell, "LearnedSchedule": sdegen.processes.LearnedSchedule,
    "LearnedSDE": sdegen.processes.LearnedSDE, "scalar": Own, "matrix": Matrices,
}  # fmt: skip


def use(sde: sdegen.SDE) -> None:
    """Ask a process for all that it could remember."""
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sde.perturb(x, 0.5 * sde.T, generator=torch.Generator().manual_seed(0))
    if is_linear(sde):
        sde.time(sde.snr(0.5 * sde.T))
        sde.marginal(0.3 * sde.T), sde.embedding, sde.datum, sde.t_max
        near = sdegen.data.gaussian_ring(radius=1.0, std=0.1)  # which any of the processes forgets
        sdegen.sample(sdegen.Exact(sde, near), 2, sampler=sdegen.samplers.Multistep(3), seed=0)
    assert sde.t_min >= 0


def attributes(sde: sdegen.SDE) -> set[str]:
    """The public names that a process has from its constructor, and those that its base classes declare."""
    declared = {"T", "t_min", "t_max", "N", "Sigma_0", "sigma_0", "piece", "is_linear", "e", "datum", "lag_tolerance"}
    return {name for name in vars(sde) if not name.startswith("_")} | declared - {"training", "lag"}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_no_attribute_of_a_process_can_be_set(name: str, used: bool) -> None:
    sde = PROCESSES[name]()
    if used:
        use(sde)
    names = attributes(sde) - {"training", "lag"}
    for attribute in names:
        before = getattr(sde, attribute, None) if attribute != "Sigma_0" else None
        with pytest.raises(
            AttributeError, match=rf"{type(sde).__name__}\.{attribute} = .* cannot be set after .*; make another"
        ):
            setattr(sde, attribute, 0.5)
        assert attribute == "Sigma_0" or getattr(sde, attribute, None) is before or isinstance(before, (float, Tensor))
    assert len(names) >= 10
    for again in (copy.deepcopy(sde), copy.copy(sde)):
        with pytest.raises(AttributeError, match="cannot be set"):
            again.T = 2.0


def test_a_pickled_process_stays_fixed() -> None:
    again = pickle.loads(pickle.dumps(sdegen.VP(0.2, 5.0)))
    assert (again.beta_min, again.beta_max) == (0.2, 5.0)
    with pytest.raises(AttributeError, match="cannot be set"):
        again.beta_max = 3.0


def test_a_constructor_that_fails_or_calls_others_leaves_no_door_open() -> None:
    class Inner(Own):
        def __init__(self) -> None:
            super().__init__(2.0)
            self.more = 1.0  # after the inner constructor

    assert Inner().more == 1.0
    with pytest.raises(AttributeError, match="cannot be set"):
        Inner().more = 2.0  # type: ignore[misc]
    with pytest.raises(ValueError, match="beta_min"):
        sdegen.VP(-1.0)


def test_a_value_of_a_class_cannot_be_set_once_there_are_objects_of_it() -> None:
    class Shared(sdegen.ScalarSDE):
        rate = 1.0

        def f(self, t: Tensor) -> Tensor:
            return -self.rate * (1 + t)

        def g(self, t: Tensor) -> Tensor:
            return (1 + self.rate * t).sqrt()

    class Derived(Shared): ...

    Shared.rate = 2.0  # before the first
    sde = Derived()
    before = sde.marginal(0.5).snr
    for cls in (Shared, Derived):
        for name in ("rate", "T"):
            with pytest.raises(
                AttributeError,
                match=rf"^{cls.__name__}\.{name} = 3 cannot be set for the whole class, .* derive a class",
            ):
                setattr(cls, name, 3.0)
    assert sde.rate == 2.0 and torch.equal(sde.marginal(0.5).snr, before)

    class Faster(Shared):
        rate = 3.0

    assert Faster().marginal(0.5).snr < before
    Shared.lag, Shared.note = 0.1, lambda self: "a method"  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["process", "law"])
def test_a_method_of_a_class_that_is_replaced_is_warned_of_once_there_are_objects_of_it(kind: str) -> None:
    base: type = sdegen.ScalarSDE if kind == "process" else sdegen.GaussianMixture

    class Shared(base):  # type: ignore[misc, valid-type]
        def f(self, t: Tensor) -> Tensor:
            return -t

        def g(self, t: Tensor) -> Tensor:
            return (2 * t).sqrt()

    class Derived(Shared): ...

    def other(self: Any, t: Tensor) -> Tensor:
        return -2 * t

    Shared.f = other  # before the first
    held = Derived() if kind == "process" else Derived(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    for cls in (Shared, Derived):
        with pytest.warns(
            UserWarning, match=rf"^{cls.__name__}\.f is replaced while there are objects .* make them anew"
        ):
            cls.f = other
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Shared.note, Shared._own = other, other  # no object has used the one, and the other is the class's affair
    assert held.f(torch.ones(())) == -2


def test_a_method_that_is_patched_and_put_back_is_warned_of_once() -> None:
    class Shared(sdegen.VP): ...

    held, before = Shared(), Shared.alpha
    patches = [lambda self, t, factor=factor: factor * t for factor in (2.0, 3.0)]
    for values, many in (([patches[0], before], 1), ([patches[1], before], 1), (patches, 2)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for value in values:
                Shared.alpha = value
        assert len(said) == many and "Shared.alpha is replaced" in str(said[0].message)
    assert held.T == 1


OTHERS: dict[str, Callable[[], Any]] = {
    "importance": times.ImportanceTimes, "angle": times.AngleTimes, "log-normal": times.LogNormalTimes,
    "discrete": times.DiscreteTimes, "shared": times.SharedTimes,
    "mixture": sdegen.data.gaussian_ring, "empirical": lambda: sdegen.Empirical(torch.randn(5, 2)),
    "exact": lambda: sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring()),
    "Fokker-Planck": lambda: sdegen.FokkerPlanck(sdegen.OU(), sdegen.data.gaussian_ring(), 64, 20),
    "linear": lambda: measurements.Linear(torch.eye(2), 0.5), "mask": lambda: measurements.Mask(torch.tensor([True, False]), 0.5),
    "blur": lambda: measurements.Blur(1.5, 0.1), "noise": lambda: measurements.Linear(torch.eye(2), 0.5).noise,
    "interval": lambda: data.IntervalColumn(0, 2), "categories": lambda: data.CategoryColumn(("a", "b")),
    "counts": lambda: data.CountColumn(2), "gaps": lambda: data.GappedColumn(data.NumberColumn()),
    "log-odds": lambda: data.IntervalColumn(0, 2).coordinates,
    "columns": lambda: data.Table({"a": data.PositiveColumn()}).coordinates,
    "log-variance": lambda: training.LogVariance(sdegen.data.gaussian_ring().log_prob),
    "path divergence": lambda: training.PathDivergence(sdegen.data.gaussian_ring().log_prob),
    "adjoint matching": lambda: training.AdjointMatching(sdegen.data.gaussian_ring().log_prob),
    "units": lambda: sdegen.Units(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])),
    "plane": lambda: sdegen.laws.PlanarLaw(lambda x: -x.square().sum(1), (-4, -4), (4, 4)),
    "stationary": lambda: sdegen.processes.DoubleWell().prior(sdegen.Moments(torch.zeros(1), torch.ones(1))),
    "wells": data.ManyWell, "moons": data.Moons,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_nothing_that_remembers_can_be_set(name: str) -> None:
    thing = OTHERS[name]()
    names = [n for n in vars(thing) if not n.startswith("_") and n not in ("moments", "end")]
    assert names
    for attribute in names:
        with pytest.raises(AttributeError, match=rf"{attribute} = .* cannot be set"):
            setattr(thing, attribute, 3)


def test_units_are_of_the_numbers_that_they_were_made_of() -> None:
    mean, std = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([0.5, 3.0], dtype=torch.float64)
    units, x = sdegen.Units(mean, std), torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    mean += 5
    std *= 2
    want = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    assert torch.equal(units.standardise(x), want) and torch.equal(units.restore(want), x)


def test_a_table_that_was_given_may_change_and_the_process_does_not() -> None:
    betas = sdegen.processes.cosine_betas(20)
    sde, kept = sdegen.DDPM(betas), betas.clone()
    before = sde.alpha(torch.tensor([0.3, 0.7], dtype=torch.float64))
    betas.fill_(0.5)
    sde.betas.fill_(0.5)
    assert torch.equal(sde.betas, kept)
    assert torch.equal(sde.alpha(torch.tensor([0.3, 0.7], dtype=torch.float64)), before)


LAW = sdegen.GaussianMixture(torch.ones(1), torch.tensor([[0.5, -0.3]]), torch.tensor([0.4]))
GIVEN: dict[str, tuple[list[Tensor], Callable[..., Any], Callable[[Any], Tensor]]] = {
    "mixture": (
        [torch.tensor([0.3, 0.7]), torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([0.2, 0.4])],
        sdegen.GaussianMixture,
        lambda law: torch.cat([law.log_prob(torch.ones(1, 2).double()), law.moments().covariance.flatten()]),
    ),
    "data": (
        [torch.tensor([[0.0, 1.0], [2.0, 0.5], [1.0, 1.0]])],
        lambda x: sdegen.Exact(sdegen.VP(), sdegen.Empirical(x)),
        lambda model: torch.cat([model.score(torch.ones(1, 2).double(), 0.3)[0], model.moments.mean]),
    ),
    "whitening": (
        [torch.tensor([0.5, 0.2]), torch.tensor([[1.0, 0.3], [0.0, 2.0]])],
        sdegen.coordinates.Whitening,
        lambda u: torch.cat([(x := torch.ones(1, 2).double()), u(x), u.inverse(x), u.log_det(x).expand(1, 2)]),
    ),
    "Jacobi": (
        [torch.tensor([2.0, 3.0]), torch.tensor([1.5, 4.0])],
        sdegen.Jacobi,
        lambda sde: sde.drift(x := torch.full((1, 2), 0.4).double(), torch.tensor(0.3)) + sde.diffusion(x, torch.tensor(0.3)),
    ),
    "mask": (
        [torch.tensor([True, False, True])],
        lambda mask: measurements.Mask(mask, 0.1),
        lambda A: torch.cat([A(torch.arange(3.0)[None]), A.mask[None].float()], 1),
    ),
    "betas": (
        [torch.linspace(0.01, 0.3, 20)],
        lambda betas: sdegen.Exact(sdegen.DDPM(betas), LAW),
        lambda model: model.score(torch.ones(1, 2).double(), 0.3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("name", GIVEN)
def test_what_was_given_may_change_and_what_is_made_of_it_does_not_in_part(name: str, used: bool) -> None:
    """An object goes by the numbers that it was made of, and not by these here and by the present ones there."""
    given, make, read = GIVEN[name]
    for place in range(len(given)):
        mine = [v.double() if v.is_floating_point() else v.clone() for v in given]
        one, other = make(*mine), make(*(v.clone() for v in mine))
        if used:
            read(one)
        mine[place].copy_(~mine[place] if mine[place].dtype == torch.bool else 0.5 * mine[place])
        assert torch.equal(read(one), read(other)), f"argument {place}"


# --- what a process holds is seen, however it changes within -----------------------------------------------------------


class Holding:
    """A rate that lies in something which can be changed in place."""

    held: Any

    @property
    def rate(self) -> Tensor:
        inside = self.held["rate"] if isinstance(self.held, dict) else self.held
        value = inside.weight[0, 0] if isinstance(inside, nn.Module) else inside[0]
        return torch.as_tensor(value, dtype=torch.float64).detach()


class HeldScalar(Holding, sdegen.ScalarSDE):
    def __init__(self, held: Any) -> None:
        self.held = held

    def f(self, t: Tensor) -> Tensor:
        return -self.rate * (1 + t)

    def g(self, t: Tensor) -> Tensor:
        return (1 + self.rate * t).sqrt()


class HeldMatrix(Holding, sdegen.MatrixSDE):
    def __init__(self, held: Any) -> None:
        self.held, self.Sigma_0 = held, 0.1 * torch.eye(2, dtype=torch.float64)

    def F(self, t: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0], [-1.0, -2.0]], dtype=torch.float64) * self.rate

    def G(self, t: Tensor) -> Tensor:
        return torch.diag(torch.tensor([0.0, 2.0], dtype=torch.float64))


def network(rate: float) -> nn.Module:
    net = nn.Linear(1, 1)
    nn.init.constant_(net.weight, rate)
    return net


HELD: dict[str, tuple[Callable[[float], Any], Callable[[Any], Any]]] = {
    "list": (lambda r: [r], lambda held: held.__setitem__(0, 3.0)),
    "tensor": (lambda r: torch.tensor([r]), lambda held: held.fill_(3.0)),
    "data": (lambda r: torch.tensor([r]), lambda held: held.data.fill_(3.0)),
    "array": (lambda r: np.array([r]), lambda held: held.__setitem__(0, 3.0)),
    "list in a dict": (lambda r: {"rate": [r]}, lambda held: held["rate"].__setitem__(0, 3.0)),
    "dict": (lambda r: {"rate": torch.tensor([r])}, lambda held: held.update(rate=torch.tensor([3.0]))),
    "network": (network, lambda held: nn.init.constant_(held.weight, 3.0)),
}


@pytest.mark.parametrize(("kind", "held"), [*((HeldScalar, held) for held in HELD), (HeldMatrix, "tensor")])
def test_what_a_process_holds_is_seen_however_it_changes_within(kind: Any, held: str) -> None:
    make, change = HELD[held]
    inside = make(1.0)
    used, new = kind(inside), kind(make(3.0))
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)

    def readings(sde: Any) -> list[Tensor]:
        if kind is HeldMatrix:
            return [sde._unit_root(t[:1])]  # its moments are not kept
        at = sde.marginal(t)
        return [at.Phi.matrix(), at.R.matrix(), sde.time(sde.snr(t))]

    first = readings(used)
    assert kind is HeldScalar or used._unit_root is used._unit_root  # kept while nothing changes
    change(inside)
    again = readings(used)
    for a, b in zip(again, readings(new), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert not torch.equal(again[-1], first[-1])


def test_noise_at_0_of_a_lifted_process_is_seen_however_it_changes() -> None:
    class Lifted(sdegen.LiftedSDE):
        E = torch.eye(3, 2, dtype=torch.float64)

        def __init__(self, Sigma_0: Tensor) -> None:
            self.Sigma_0 = Sigma_0

        def F(self, t: Tensor) -> Tensor:
            return torch.tensor([[-1.0, 0.0, 0.6], [0.0, -1.0, 0.6], [-0.6, -0.6, -1.0]], dtype=torch.float64)

        def G(self, t: Tensor) -> Tensor:
            return torch.tensor([0.8, 0.8, 1.4], dtype=torch.float64).diag()

    Sigma_0, t = torch.tensor([0.0, 0.0, 0.25], dtype=torch.float64).diag(), torch.tensor(0.6, dtype=torch.float64)
    used = Lifted(Sigma_0)
    before = used.root(t).matrix()
    Sigma_0 *= 0.5
    assert torch.equal(used.root(t).matrix(), (new := Lifted(Sigma_0.clone()).root(t).matrix()))
    assert not torch.equal(new, before)


# --- so is what its code reads elsewhere ---------------------------------------------------------------------------------

RATE, TABLE, WEIGHT = 1.0, {"rate": 1.0}, torch.ones(1, dtype=torch.float64)
SETTINGS = SimpleNamespace(model=SimpleNamespace(rate=1.0))


class Constants:
    rate = 1.0


def pace(t: Tensor) -> Tensor:
    return RATE * (1 + t)


def of_global(t: Tensor) -> Tensor:
    return RATE + 0 * t


def of_table(t: Tensor) -> Tensor:
    return TABLE["rate"] + 0 * t


def of_tensor(t: Tensor) -> Tensor:
    return WEIGHT[0] + 0 * t


def of_settings(t: Tensor) -> Tensor:
    return SETTINGS.model.rate + 0 * t


def of_class(t: Tensor) -> Tensor:
    return Constants.rate + 0 * t


def of_helper(t: Tensor) -> Tensor:
    return pace(t) / (1 + t)


def of_closure() -> tuple[Callable[[Tensor], Tensor], Callable[[float], None]]:
    rate = 1.0

    def read(t: Tensor) -> Tensor:
        return rate + 0 * t

    def change(to: float) -> None:
        nonlocal rate
        rate = to

    return read, change


READ, CHANGE = of_closure()


def set_all(rate: float) -> None:
    global RATE
    RATE = TABLE["rate"] = SETTINGS.model.rate = Constants.rate = rate
    WEIGHT.fill_(rate)
    CHANGE(rate)


ELSEWHERE = {f.__name__: f for f in (of_global, of_table, of_tensor, of_settings, of_class, of_helper, READ)}


class ReadScalar(sdegen.ScalarSDE):
    def __init__(self, rate: Callable[[Tensor], Tensor]) -> None:
        self.rate = rate

    def f(self, t: Tensor) -> Tensor:
        return -self.rate(t)

    def g(self, t: Tensor) -> Tensor:
        return (2 * self.rate(t)).sqrt()


class ReadCoordinates(sdegen.CoordinateSDE):
    def __init__(self, rate: Callable[[Tensor], Tensor]) -> None:
        self.rate = rate

    def f(self, t: Tensor) -> Tensor:
        return -self.rate(t[..., None]) * torch.tensor([1.0, 2.0]).double()

    def g(self, t: Tensor) -> Tensor:
        return (2 * self.rate(t[..., None])).sqrt() * torch.tensor([1.0, 1.5]).double()


class ReadMatrices(sdegen.CorrelatedSDE):
    def __init__(self, rate: Callable[[Tensor], Tensor]) -> None:
        self.rate = rate

    def F(self, t: Tensor) -> Tensor:
        return torch.tensor([[-1.0, 0.8], [-0.8, -1.0]]).double() * self.rate(t)[..., None, None]

    def G(self, t: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0], [1.2, 0.7]]).double() * self.rate(t)[..., None, None].sqrt()


class ReadSchedule(sdegen.ScheduleSDE):
    def __init__(self, rate: Callable[[Tensor], Tensor]) -> None:
        self.rate = rate

    def alpha(self, t: Tensor) -> Tensor:
        return (-self.rate(t) * t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-2 * self.rate(t) * t)).sqrt()


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        *((ReadScalar, where) for where in ELSEWHERE),
        *((kind, "of_global") for kind in (ReadCoordinates, ReadMatrices, ReadSchedule)),
    ],
)
def test_what_the_code_of_a_process_reads_elsewhere_is_seen_however_it_changes(kind: Any, where: str) -> None:
    """A number that a notebook has for all may change after a run: the next one goes by the new one, in all its parts."""
    used, x = sdegen.Exact(kind(ELSEWHERE[where]), LAW), torch.tensor([[0.4, -1.0]], dtype=torch.float64)

    tries = where == "of_global" and kind is ReadScalar  # the default tries solvers, which takes seconds
    sampler = None if tries else sdegen.samplers.DDIM(5)

    def readings(model: sdegen.Exact) -> Tensor:
        samples = sdegen.sample(model, 2, steps=None if sampler else 5, sampler=sampler, seed=0)
        levels = model.sde.time(torch.tensor([1.0, 4.0], dtype=torch.float64))
        return torch.cat([samples, model.score(x, 0.4), levels[None]])

    try:
        before = readings(used)
        assert torch.equal(readings(used), before)
        set_all(3.0)
        again, new = readings(used), readings(sdegen.Exact(kind(ELSEWHERE[where]), LAW))
        assert not torch.allclose(again, before, atol=1e-3)
        torch.testing.assert_close(again, new, rtol=1e-9, atol=1e-12)
    finally:
        set_all(1.0)


def test_what_code_itself_changes_does_not_make_it_another() -> None:
    calls: list[float] = []

    class Counted(sdegen.ScalarSDE):
        def f(self, t: Tensor) -> Tensor:
            calls.append(1.0)
            return -1.0 - t

        def g(self, t: Tensor) -> Tensor:
            return (1 + t).sqrt()

    model = sdegen.Exact(Counted(), LAW)
    sdegen.sample(model, 2, steps=4, seed=0)
    once = len(calls)
    sdegen.sample(model, 2, steps=4, seed=0)
    assert len(calls) - once < once / 10  # no quadrature is made anew


# --- weights of learned processes are seen, however they change -------------------------------------------------------


def by_version(sde: Any) -> None:
    with torch.no_grad():
        sde.ends.copy_(torch.tensor([20.0, -9.0]))


def by_data(sde: Any) -> None:
    sde.ends.data = torch.tensor([20.0, -9.0])


def within_data(sde: Any) -> None:
    sde.ends.data.copy_(torch.tensor([20.0, -9.0]))


def by_parameter(sde: Any) -> None:
    sde.ends = nn.Parameter(torch.tensor([20.0, -9.0]))


def by_state_dict(sde: Any) -> None:
    sde.load_state_dict(sde.state_dict() | {"ends": torch.tensor([20.0, -9.0])})


@pytest.mark.thinned(2)
@pytest.mark.parametrize("change", [by_version, by_data, within_data, by_parameter, by_state_dict])
@pytest.mark.parametrize("kind", ["LearnedSchedule", "LearnedSDE", "by quadrature"])
def test_weights_of_a_process_are_seen_however_they_change(change: Callable[[Any], None], kind: str) -> None:
    class Quadrature(nn.Module, sdegen.ScalarSDE):
        """A process with weights, whose laws are found by quadrature."""

        def __init__(self) -> None:
            super().__init__()
            self.ends = nn.Parameter(torch.tensor([8.0, -6.0]))

        def f(self, t: Tensor) -> Tensor:
            return -0.2 * self.ends[0].double().abs() * (1 + t)

        def g(self, t: Tensor) -> Tensor:
            return self.ends[1].double().abs() * (1 + t)

    make = Quadrature if kind == "by quadrature" else getattr(sdegen.processes, kind)
    used, new, law = make(), make(), times.ImportanceTimes(nodes=16)
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)

    def readings(sde: Any, law: times.ImportanceTimes) -> list[Any]:
        with torch.no_grad():
            at = sde.marginal(t)
            drawn = law.sample(sde, 8, torch.Generator().manual_seed(0))
            return [at.Phi.matrix(), at.R.matrix(), sde.time(sde.snr(t)), sde.t_min, sde.t_max, *drawn]

    first = readings(used, law)
    change(used), change(new)
    again, fresh = readings(used, law), readings(new, times.ImportanceTimes(nodes=16))
    for a, b in zip(again, fresh, strict=True):
        assert torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-12, atol=0)
    assert not torch.equal(again[1], first[1])


def test_other_weights_in_a_functional_call_are_seen() -> None:
    sde = sdegen.processes.LearnedSchedule()
    model = sdegen.Model(sdegen.nets.MLP(2, width=4, depth=1), sde)
    t = torch.tensor([0.4], dtype=torch.float64)
    found = []
    for last in (-6.0, -9.0):
        other = dict(model.named_parameters()) | {"sde.ends": torch.tensor([8.0, last])}
        with torch.nn.utils.stateless._reparametrize_module(model, other):
            found.append(sde.time(torch.tensor([1.0])).item())
    assert abs(found[0] - found[1]) > 1e-3 and t.item() == 0.4


# --- samplers, grids and parametrisations remember nothing ------------------------------------------------------------

CHANGED: dict[str, tuple[Callable[[], Any], str, Any, Callable[[], Any]]] = {
    "steps": (lambda: sdegen.samplers.DDIM(4), "steps", 7, lambda: sdegen.samplers.DDIM(7)),
    "grid": (lambda: sdegen.samplers.DDIM(4), "grid", grids.Uniform(), lambda: sdegen.samplers.DDIM(4, grids.Uniform())),
    "order": (lambda: sdegen.samplers.Multistep(5, order=1), "order", 2, lambda: sdegen.samplers.Multistep(5, order=2)),
    "multistep": (lambda: sdegen.samplers.Multistep(5), "steps", 8, lambda: sdegen.samplers.Multistep(8)),
    "Heun": (lambda: sdegen.samplers.Heun(4), "steps", 6, lambda: sdegen.samplers.Heun(6)),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGED)
def test_a_sampler_set_after_a_run_samples_as_a_new_one(case: str) -> None:
    make, attribute, value, new = CHANGED[case]
    model, sampler = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring()), make()
    sdegen.sample(model, 3, sampler=sampler, seed=0)
    setattr(sampler, attribute, value)
    assert torch.equal(sdegen.sample(model, 3, sampler=sampler, seed=0), sdegen.sample(model, 3, sampler=new(), seed=0))


def test_importance_times_of_another_process_are_tabulated_anew() -> None:
    law = times.ImportanceTimes(weightings.AngleTimes().density, nodes=8)
    for sde in (sdegen.VP(), sdegen.VE(), sdegen.VP()):
        drawn, new = (l.sample(sde, 6, torch.Generator().manual_seed(1)) for l in (law, times.ImportanceTimes(nodes=8)))
        assert torch.equal(drawn[0], new[0]) and torch.equal(drawn[1], new[1])


def test_an_attribute_that_would_hide_a_method_is_refused() -> None:
    class Hiding(sdegen.ScalarSDE):
        def __init__(self, levels: list[float]) -> None:
            self.levels = levels  # type: ignore[assignment,method-assign]

        def f(self, t: Tensor) -> Tensor:
            return -t

        def g(self, t: Tensor) -> Tensor:
            return 1 + t

    with pytest.raises(AttributeError, match=r"^Hiding\.levels = .* would hide the method levels .*another name\.$"):
        Hiding([0.5, 1.0])


class InACircle(Own):
    """A process that is held by what it holds."""

    def __init__(self, how: str, rate: Any = 1.0) -> None:
        super().__init__(rate)
        self.held: Any = nn.Linear(1, 1).requires_grad_(False) if how == "network" else {}
        if how == "network":
            self.held.owner = self
        else:
            self.held["owner"] = [self]


@pytest.mark.parametrize("how", ["network", "table"])
def test_objects_that_hold_each_other_are_looked_into_once(how: str) -> None:
    law = sdegen.data.gaussian_ring(modes=2)
    found, alone = (sdegen.sample(sdegen.Exact(sde, law), 4, steps=3, seed=0) for sde in (InACircle(how), Own()))
    assert torch.equal(found, alone)
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(InACircle(how, rate).alpha(torch.tensor(1.0, dtype=torch.float64)), rate)
    assert slope.item() == pytest.approx(-1.5 * np.exp(-1.5))  # alpha(1) = exp(−3 rate / 2)
