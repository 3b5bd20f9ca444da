"""The loop is the user's to drive, settings are one object, and what listens hears of every step in order."""

from __future__ import annotations

import dataclasses
import inspect
import re
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import sdegen
from sdegen import fit
from sdegen.training import Listener, Settings, TensorBoard, Training, state, train
from sdegen.training.listeners import Bar, Checkpoints
from sdegen.training.loop import OWN
from sdegen.training.run import PendingLosses
from sdegen.training.settings import ELSEWHERE

RING = sdegen.data.gaussian_ring()
flat = lambda model: torch.cat([p.detach().flatten() for p in model.parameters()]).cpu()


@pytest.fixture
def tiny(device, dtype):
    def built():
        torch.manual_seed(0)
        return sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), sdegen.VP()).to(device, dtype)

    return built


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_are_an_object_keywords_or_both(tiny):
    weights = []
    settings = Settings(steps=5, batch_size=8, lr=1e-2, seed=3)
    for asked, more in (
        (settings, {}),
        (None, {"steps": 5, "batch_size": 8, "lr": 1e-2, "seed": 3}),
        (Settings(steps=9, batch_size=8, lr=1e-2, seed=3), {"steps": 5}),
    ):
        model = tiny()
        run = fit(model, RING, asked, **more)
        weights.append(flat(model))
        assert asdict(run.settings) == asdict(settings)
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])


def test_a_run_ends_after_4000_steps_where_nobody_named_an_end():
    assert Settings().last == 4000 and Settings(seconds=1.0).last is None and Settings(steps=3, seconds=1.0).last == 3
    assert Settings().done(3999, 1e9) < 1 <= Settings().done(4000, 0.0)
    assert Settings(steps=100, seconds=10.0).done(20, 5.0) == 0.5


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"steps": 0}, r"^steps = 0; it must be a whole number, at least 1"),
        ({"seconds": -1.0}, r"^seconds = -1\.0; it must be positive"),
        ({"lr": float("nan")}, r"^lr = nan; it must be positive"),
        ({"batch_size": 1.5}, r"^batch_size = 1\.5; it must be a whole number, at least 1"),
        ({"warmup": -1}, r"^warmup = -1; it must be a whole number, at least 0"),
        ({"weight_decay": -0.1}, r"^weight_decay = -0\.1; it must be a number of at least 0"),
        ({"betas": (0.9, 1.0)}, r"^betas = 1\.0; it must be .* at least 0 and below 1"),
        ({"seed": 1.5}, r"^seed = 1\.5; it must be a whole number"),
        ({"ema": 0.3}, r"^ema = 0\.3; the relative width"),
        ({"p_uncond": -0.1}, r"^p_uncond = -0\.1; it must be .* a probability"),
        ({"lr_factors": {"net.": 0.0}}, r"^lr_factors\['net\.'\] = 0\.0; it must be positive"),
        ({"autocast": torch.float16}, r"^autocast = torch\.float16; give torch\.bfloat16"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_that_cannot_be_is_refused_where_it_is_made(asked, says):
    with pytest.raises(ValueError, match=says):
        Settings(**asked)


def test_a_setting_that_is_none_is_named_with_the_nearest(tiny):
    with pytest.raises(TypeError, match=r"^there is no setting 'step'; did you mean steps\?"):
        fit(tiny(), RING, step=3)
    with pytest.raises(
        TypeError, match=r"^there is no setting 'colour'; training\.Settings has .*, seed; fit takes .*\.$"
    ):
        fit(tiny(), RING, colour=3)
    with pytest.raises(TypeError, match=r"^there is no setting 'validate_each'; did you mean validate_every\?"):
        fit(tiny(), RING, validate_each=3)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_settings_of_other_libraries_are_told_what_stands_in_their_place(name, tiny):
    assert name not in [field.name for field in dataclasses.fields(Settings)]
    with pytest.raises(TypeError, match=f"^there is no setting '{name}'; {re.escape(ELSEWHERE[name])}$"):
        fit(tiny(), RING, **{name: 3})


def test_arguments_that_are_named_beside_the_settings_are_those_of_fit():
    parameters = inspect.signature(fit).parameters.values()
    assert list(OWN) == [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def test_settings_that_are_none_are_refused(tiny):
    for settings in (500, {"steps": 500}):
        with pytest.raises(TypeError, match=r"; give an object Settings\(steps=\.\.\.\), or settings by their names"):
            fit(tiny(), RING, settings)


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_a_loop_of_one_s_own_trains_as_fit_does(tiny):
    settings = Settings(steps=8, batch_size=16, seed=0, warmup=1, ema=0.2)
    model, other = tiny(), tiny()
    training = Training(model, RING, settings)
    losses = [step.loss for step in train(training)]
    assert not model.training
    training.average.copy_to_model()
    run = fit(other, RING, settings)
    assert losses == run.loss == training.run.loss and torch.equal(flat(model), flat(other))


def test_a_loop_that_is_left_leaves_the_model_as_it_is_and_can_be_gone_on_with(tiny):
    settings = Settings(steps=8, batch_size=16, seed=0, warmup=1)
    model, other = tiny(), tiny()
    training = Training(model, RING, settings)
    steps = train(training)
    for step in steps:
        if step.step == 3:
            break
    steps.close()
    assert not model.training and training.run.steps == len(training.run.loss) == 3
    assert [step.step for step in train(training)] == [4, 5, 6, 7, 8]
    training.average.copy_to_model()
    fit(other, RING, settings)
    assert torch.equal(flat(model), flat(other))


def test_a_loop_of_one_s_own_keeps_checkpoints(tiny, tmp_path):
    settings = Settings(steps=8, batch_size=16, seed=0, warmup=1)
    training = Training(tiny(), RING, settings, checkpoint=tmp_path)
    for step in train(training, [Checkpoints(training.folder, every=3)]):
        if step.step == 7:
            break
    model, other = tiny(), tiny()
    assert fit(model, RING, settings, checkpoint=tmp_path, every=3).steps == 8
    fit(other, RING, settings)
    assert torch.equal(flat(model), flat(other))


class Diary(Listener):
    def __init__(self, name, lines, fail=0):
        self.name, self.lines, self.fail = name, lines, fail

    def begin(self, training):
        self.lines.append(f"{self.name} begin {training.run.steps}")

    def __call__(self, step):
        self.lines.append(f"{self.name} {step.step}")
        if step.step == self.fail:
            raise KeyError(self.name)

    def end(self, training):
        self.lines.append(f"{self.name} end {training.run.steps}")

    def close(self):
        self.lines.append(f"{self.name} close")


def test_listeners_hear_of_beginning_steps_and_end_in_order(tiny):
    lines = []
    callbacks = [Diary("a", lines), lambda step: lines.append(f"function {step.step}"), Diary("b", lines)]
    fit(tiny(), RING, steps=2, batch_size=4, seed=0, callbacks=callbacks)
    assert lines == [
        "a begin 0", "b begin 0", "a 1", "function 1", "b 1", "a 2", "function 2", "b 2", "a end 2", "b end 2",
        "b close", "a close",
    ]  # fmt: skip


def test_listeners_give_back_what_they_took_when_a_training_fails(tiny):
    lines, model = [], tiny()
    with pytest.raises(KeyError):
        fit(model, RING, steps=3, batch_size=4, seed=0, callbacks=[Diary("a", lines, fail=2), Diary("b", lines)])
    assert lines == ["a begin 0", "b begin 0", "a 1", "b 1", "a 2", "b close", "a close"] and not model.training


# --- TensorBoard ------------------------------------------------------------------------------------------------------


class Sheet:
    """A writer that keeps what it is given."""

    def __init__(self):
        self.scalars, self.images = {}, {}

    def add_scalar(self, tag, value, step):
        assert step not in self.scalars.get(tag, {})  # each point of a curve is written once
        self.scalars.setdefault(tag, {})[step] = value

    def add_images(self, tag, images, step):
        self.images[step] = images


class Late(PendingLosses):
    """Losses read as from an accelerator, seven steps together."""

    def __init__(self, run, device):
        super().__init__(run, device)
        self.patience, self.bad = 7, torch.zeros((), device=device)


@pytest.mark.turns("False")
@pytest.mark.parametrize("late", [False, True])
def test_tensorboard_has_the_curves_of_the_record(tiny, late, monkeypatch):
    if late:
        monkeypatch.setattr(state, "PendingLosses", Late)
    sheet = Sheet()
    board = TensorBoard(sheet, every=4, images=lambda model: torch.full((2, 1, 3, 3), 1.5), images_every=5)
    run = fit(tiny(), RING, steps=10, batch_size=8, seed=0, callbacks=[board], validation=RING, validate_every=6)
    curves = {"loss": run.loss, "gradient norm": run.grad_norm, "learning rate": run.lr}
    for name, values in curves.items():
        found = sheet.scalars[f"training/{name}"]
        ends = list(found)
        assert ends[-1] == 10 and len(ends) >= 3
        for first, last in zip([0, *ends], ends, strict=False):
            assert found[last] == pytest.approx(sum(values[first:last]) / (last - first))
    assert late or ends == [4, 8, 10]
    measured = {step: value for step, (value, _) in run.validation.items()}
    assert sheet.scalars["validation/loss"] == measured and list(measured) == [6, 10]
    assert sheet.scalars["validation/standard error"] == {step: e for step, (_, e) in run.validation.items()}
    assert list(sheet.images) == [5, 10] and sheet.images[5].max() == 1


@pytest.mark.slow
def test_tensorboard_of_a_run_that_goes_on_writes_what_is_new(tiny, tmp_path):
    settings = {"batch_size": 8, "seed": 0, "schedule": sdegen.training.constant_rate, "checkpoint": tmp_path}
    fit(tiny(), RING, steps=5, validation=RING, **settings)
    sheet = Sheet()
    fit(tiny(), RING, steps=9, callbacks=[TensorBoard(sheet, every=2)], validation=RING, **settings)
    assert list(sheet.scalars["training/loss"]) == [7, 9] and list(sheet.scalars["validation/loss"]) == [9]


def test_tensorboard_s_own_writer_takes_it(tiny, tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="needs tensorboard")
    with tensorboard.SummaryWriter(tmp_path) as writer:
        fit(tiny(), RING, steps=4, batch_size=8, seed=0, callbacks=[TensorBoard(writer, every=2)])
    assert list(tmp_path.glob("events*"))


# --- threads ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def several():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


class Clock:
    """Time that a step takes more of by the number of its threads."""

    def __init__(self, monkeypatch, seconds, later=None):
        from sdegen.training import threads

        self.now, self.cost, self.later, self.tried = 0.0, seconds, later or seconds, []
        monkeypatch.setattr(threads.time, "perf_counter", self)

    def __call__(self):
        return self.now

    def loss(self, model, x, generator=None):
        self.tried.append(torch.get_num_threads())
        self.now += (self.cost if self.now < 100 else self.later)[torch.get_num_threads()]
        return (model.net(x, x[:, 0]) - 1).square().sum(1)


@pytest.mark.parametrize(
    ("one", "all_of_them", "chosen"),
    [(0.02, 0.12, 1), (0.12, 0.02, 3), (0.1, 0.1, 1), (0.0001, 0.001, 1)],
    ids=["busy machine", "large network", "no gain", "short steps"],
)
def test_the_number_of_threads_is_the_faster_one(tiny, several, monkeypatch, one, all_of_them, chosen):
    clock = Clock(monkeypatch, {1: one, 3: all_of_them})
    run = fit(tiny().cpu(), RING, steps=80, batch_size=4, seed=0, loss=clock.loss)
    assert run.threads == chosen and torch.get_num_threads() == 3
    assert clock.tried[:2] == [3, 3]  # steps that set up what later ones find are not compared
    first = clock.tried.index(chosen, 2)
    tries = 6 if one + all_of_them > 0.02 else 40
    assert sorted(clock.tried[2 : 2 + tries]) == [1] * (tries // 2) + [3] * (tries // 2) and first < 4
    assert set(clock.tried[2 + tries :]) == {chosen}


def test_a_number_of_threads_that_is_given_is_taken_and_given_back(tiny, several, monkeypatch):
    clock = Clock(monkeypatch, {2: 0.1})
    run = fit(tiny().cpu(), RING, steps=5, batch_size=4, seed=0, loss=clock.loss, threads=2)
    assert clock.tried == [2] * 5 and run.threads == 2 and torch.get_num_threads() == 3
    with pytest.raises(ValueError, match=r"^threads = 0; it must be a whole number, at least 1"):
        fit(tiny(), RING, steps=1, threads=0)


def test_threads_come_back_after_a_failure_while_they_are_tried(tiny, several, monkeypatch):
    clock = Clock(monkeypatch, {1: 0.1, 3: 0.1})

    def stop(step):
        if torch.get_num_threads() == 1:
            raise KeyError

    with pytest.raises(KeyError):
        fit(tiny().cpu(), RING, steps=9, batch_size=4, seed=0, loss=clock.loss, callbacks=[stop])
    assert torch.get_num_threads() == 3


def test_a_run_that_goes_on_keeps_its_number_of_threads(tiny, several, monkeypatch, tmp_path):
    settings = {"batch_size": 4, "seed": 0, "schedule": sdegen.training.constant_rate, "checkpoint": tmp_path}
    clock = Clock(monkeypatch, {1: 0.02, 3: 0.12}, later={1: 0.12, 3: 0.02})
    fit(tiny().cpu(), RING, steps=20, loss=clock.loss, **settings)
    clock.now = 100.0
    clock.tried.clear()
    run = fit(tiny().cpu(), RING, steps=40, loss=clock.loss, **settings)
    assert run.threads == 1 and set(clock.tried) == {1}


def test_trying_threads_changes_neither_numbers_nor_weights(tiny, several):
    found = []
    for threads in (None, 1, 3):
        model = tiny().cpu()
        torch.manual_seed(1)
        run = fit(model, RING, steps=60, batch_size=16, seed=0, threads=threads)
        found.append((flat(model), run.loss, torch.rand(3)))
    for weights, loss, after in found[1:]:
        torch.testing.assert_close(weights, found[0][0], rtol=1e-5, atol=1e-6)
        assert loss == pytest.approx(found[0][1], rel=1e-5) and torch.equal(after, found[0][2])


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"lr": "1e-3"}, r"^lr = '1e-3'; it must be positive and finite"),
        ({"schedule": "cosine"}, r"^schedule is a str; give a function"),
        ({"loss": 3}, r"^loss is an int; give a function"),
        ({"betas": 0.9}, r"^betas is a float; give two numbers"),
        ({"callbacks": print}, r"^callbacks is a builtin_function_or_method; give a list"),
        ({"callbacks": [3]}, r"^callbacks is an int; give functions of a Step"),
        ({"callbacks": [sdegen.training.Listener]}, r"^callbacks has the class Listener; give"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_of_another_kind_is_refused(tiny, asked, says):
    with pytest.raises(TypeError, match=says):
        sdegen.fit(tiny(), sdegen.data.gaussian_ring(), steps=1, **asked)


def test_numbers_of_numpy_are_settings_and_no_clip_clips_nothing():
    given = Settings(
        steps=np.int64(3), lr=np.float32(0.5), clip=None, seed=torch.tensor(2), betas=[np.float64(0.5), 0.75]
    )
    assert (given.steps, given.lr, given.clip, given.seed, given.betas) == (3, 0.5, None, 2, (0.5, 0.75))
    assert {type(v) for v in (given.steps, given.lr, given.seed, *given.betas)} == {int, float}


def test_the_bar_runs_from_the_steps_taken_to_the_last() -> None:
    bar = Bar()
    bar.begin(SimpleNamespace(settings=SimpleNamespace(last=7), run=SimpleNamespace(steps=3)))
    assert (bar.bar.n, bar.bar.total) == (3, 7)
    bar(SimpleNamespace(step=4))
    assert bar.bar.n == 4
    bar.close()
