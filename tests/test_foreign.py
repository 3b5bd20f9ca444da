"""Networks of others: their predictions as readings, their loops as our samplers, and ours as theirs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from benchmarks.peers import k_diffusion
from sdegen import grids
from sdegen.models import (
    DataParametrization,
    NoiseParametrization,
    ScoreParametrization,
    StraightParametrization,
    VelocityParametrization,
)
from sdegen.models.foreign import FromNoise, NoiseLevel, ScaledTime, StepIndex
from sdegen.processes import AngleTable
from sdegen.samplers import DDIM, FlowMap, Multistep, PointMass, log_ratio

RING = sdegen.data.gaussian_ring()
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:(__array_|.torch.jit.script.):DeprecationWarning")
TRAILING = {"timestep_spacing": "trailing", "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


@cache
def unet() -> Any:
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=2, out_channels=2, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), num_class_embeds=4,
    )  # fmt: skip
    return net.eval()


def noise(n: int = 3) -> Tensor:
    return torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_pipeline_is_refused_by_the_name_of_its_network() -> None:
    pipe = diffusers.DDPMPipeline(unet=unet(), scheduler=diffusers.DDPMScheduler())
    with pytest.raises(TypeError, match=r"^unet is a DDPMPipeline; give .*; a pipeline has one, pipe\.unet\.$"):
        sdegen.from_diffusers(pipe, pipe.scheduler)


def test_the_network_that_was_brought_is_trained_itself_and_goes_back() -> None:
    own = deepcopy(unet())
    model = sdegen.from_diffusers(own, diffusers.DDPMScheduler())
    assert model.net.unet is own
    sdegen.fit(model, (noise(8), torch.arange(8) % 4), steps=2, batch_size=8, seed=0, progress=False)
    assert any(not torch.equal(p, q) for p, q in zip(own.parameters(), unet().parameters(), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_on_the_times_of_a_scheduler_ends_where_its_loop_does(spacing: str) -> None:
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing=spacing)
    scheduler.set_timesteps(10)
    x, label = noise(), torch.tensor([0, 3, 1])
    for step in scheduler.timesteps:
        x = scheduler.step(unet()(x, step, class_labels=label).sample, step, x).prev_sample
    grid = grids.Given((scheduler.timesteps.double() + 1) / 1000)
    ours = sdegen.sample(
        sdegen.from_diffusers(unet(), scheduler),
        x_T=noise(),
        sampler=DDIM(len(scheduler.timesteps), grid),
        label=label,
        progress=False,
    )
    torch.testing.assert_close(ours, x, rtol=2e-5, atol=2e-5 * x.abs().max().item())


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("step", [0, 500, 999])
@torch.no_grad()
def test_a_prediction_is_read_as_what_it_is(kind: str, step: int) -> None:
    scheduler = diffusers.DDPMScheduler(prediction_type=kind)
    model = sdegen.from_diffusers(unet(), scheduler)
    x, label = noise(), torch.tensor([0, 3, 1])
    out = unet()(x, step, class_labels=label).sample
    alpha, sigma = scheduler.alphas_cumprod[step] ** 0.5, (1 - scheduler.alphas_cumprod[step]) ** 0.5
    t = (step + 1) / 1000
    expected = {"epsilon": model.noise, "sample": model.denoise, "v_prediction": model.velocity}[kind]
    torch.testing.assert_close(expected(x, t, label=label), out, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(
        float(alpha) * model.denoise(x, t, label=label) + float(sigma) * model.noise(x, t, label=label),
        x,
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@torch.no_grad()
def test_our_two_step_method_is_their_loop(kind: str) -> None:
    """DPM-Solver++ 2M of diffusers, on the same noise and stops; "heun" is there the name of the integral of the line."""
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type=kind, solver_type="heun", **TRAILING)
    scheduler.set_timesteps(20)
    x = z = noise()
    label = torch.tensor([0, 3, 1])
    for step in scheduler.timesteps:
        x = scheduler.step(unet()(x, step, class_labels=label).sample, step, x).prev_sample
    model = sdegen.from_diffusers(unet(), scheduler)
    times = (scheduler.timesteps.double() + 1) / 1000
    sampler = Multistep(20, grids.Given(times), order=2, reference=PointMass(), clock=log_ratio)
    ours = sdegen.sample(model, x_T=z, sampler=sampler, label=label, progress=False)
    assert (ours - x).abs().max() / x.square().mean().sqrt() < 1e-4


@torch.no_grad()
def test_without_a_choice_it_starts_where_theirs_starts_and_ends_at_the_last_trained_step() -> None:
    model = sdegen.from_diffusers(unet(), diffusers.DDPMScheduler())
    assert model.end == 1 / 1000 and model.sde.N == 1000
    x = sdegen.sample(model, 4, steps=6, seed=0, label=2, progress=False)
    assert x.shape == (4, 2, 8, 8) and x.isfinite().all()


def test_zero_terminal_signal_is_taken_as_it_is() -> None:
    scheduler = diffusers.DDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False, **TRAILING
    )
    model = sdegen.from_diffusers(unet(), scheduler)
    sde = model.sde
    assert isinstance(sde, AngleTable)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    expected = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(sde.marginal(t).Phi.matrix()[:, 0, 0].square(), expected, atol=1e-6, rtol=1e-5)
    assert sde.snr(1.0) == 0
    scheduler.set_timesteps(10)
    x = z = noise()
    with torch.no_grad():
        for step in scheduler.timesteps:
            x = scheduler.step(unet()(x, step, class_labels=torch.zeros(3).long()).sample, step, x).prev_sample
        times = (scheduler.timesteps.double() + 1) / 1000
        ours = sdegen.sample(model, x_T=z, sampler=DDIM(10, grids.Given(times)), label=0, progress=False)
    assert (ours - x).abs().max() / x.square().mean().sqrt() < 1e-3  # their table is in float32
    with pytest.raises(ValueError, match=r"alpha\(T\) = 0, where a noise estimate determines no data"):
        sdegen.from_diffusers(unet(), diffusers.DDIMScheduler(rescale_betas_zero_snr=True))


def test_a_small_signal_is_not_taken_for_none() -> None:
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    model = sdegen.from_diffusers(unet(), scheduler)
    assert isinstance(model.sde, sdegen.DDPM)
    expected = scheduler.alphas_cumprod.double()[[0, 500, 999]]
    found = model.sde.marginal(torch.tensor([0.001, 0.501, 1.0])).Phi.matrix()[:, 0, 0].square()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


@torch.no_grad()
def test_a_foreign_network_is_saved_with_its_clock(tmp_path: Any) -> None:
    sde = sdegen.VP()
    for model in (
        sdegen.from_network(sdegen.nets.MLP(2, width=8), sde, NoiseParametrization(), ScaledTime(999), RING.moments()),
        sdegen.from_denoiser(sdegen.nets.MLP(2, width=8), RING.moments(), sde),
    ):
        sdegen.save(model, tmp_path / "m.safetensors")
        again, x = sdegen.load(tmp_path / "m.safetensors"), torch.ones(3, 2)
        assert torch.equal(again.eval().score(x, 0.4), model.eval().score(x, 0.4))


def test_a_schedule_without_signal_at_the_end_obeys_every_law() -> None:
    table = (torch.cos(torch.linspace(0.02, 1, 50, dtype=torch.float64) * torch.pi / 2)).square()
    table[-1] = 0
    report = sdegen.testing.check_sde(AngleTable(table))
    assert report.passed, report


# --- the other way ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_there_and_back_is_the_same_network() -> None:
    scheduler = diffusers.DDPMScheduler()
    net, again = sdegen.to_diffusers(sdegen.from_diffusers(unet(), scheduler))
    x, label = noise(), torch.tensor([0, 3, 1])
    for step in (0, 250, 999):
        theirs = unet()(x, step, class_labels=label).sample
        torch.testing.assert_close(net(x, step, class_labels=label).sample, theirs, rtol=1e-5, atol=1e-5)
        assert torch.equal(net(x, step, label, return_dict=False)[0], net(x, step, class_labels=label).sample)
    torch.testing.assert_close(again.alphas_cumprod, scheduler.alphas_cumprod, rtol=1e-5, atol=1e-6)


SPREAD = sdegen.Units(0.3, 0.4)  # of data as `fit` would find it


@pytest.mark.parametrize(
    "sde", [sdegen.VP(), sdegen.DDPM(), sdegen.VP().in_units(SPREAD)], ids=["VP", "DDPM", "VP in units of a spread"]
)
@torch.no_grad()
def test_our_model_in_their_loop_gives_our_samples(sde: Any) -> None:
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.UNet(2, (16, 32)), sde).eval()
    net, scheduler = sdegen.to_diffusers(model)
    loop = diffusers.DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing", clip_sample=False)
    loop.set_timesteps(10)
    x = z = noise()
    for step in loop.timesteps:
        x = loop.step(net(x, step).sample, step, x).prev_sample
    times = (loop.timesteps.double() + 1) / 1000
    s, alpha = sde.units.scale, sde.alpha(times[0])
    a = alpha / (alpha**2 + s**2 * sde.sigma(times[0]) ** 2).sqrt()  # the signal of their first state
    z = alpha / s * (z / a - sde.units.mean)  # the same data and the same noise, as our process has them
    ours = sdegen.sample(model, x_T=z.float(), sampler=DDIM(10, grids.Given(times)), progress=False)
    assert (ours - x).abs().max() / x.square().mean().sqrt() < 1e-3  # their table is in float32


@torch.no_grad()
def test_a_flow_map_goes_there_as_the_score_model_that_it_is() -> None:
    """The noise that a state holds, by the direction in which jumps leave it: `sin φ x + cos φ dX/dφ`."""
    torch.manual_seed(0)
    net = sdegen.nets.UNet(2, (16, 32), conditions={"until": sdegen.nets.SecondLevel()})
    model = FlowMap(net, sdegen.VP()).double().eval()
    model.moments = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2, 8, 8), torch.tensor([0.5])).moments()
    for p in model.parameters():
        p.add_(0.1 * torch.randn_like(p))  # as built it answers 0
    there, _ = sdegen.to_diffusers(model)
    assert there.dtype == torch.float64 and there.device.type == "cpu"
    exact, _ = sdegen.to_diffusers(sdegen.Exact(model.sde, sdegen.Empirical(noise())))
    assert exact.dtype == torch.float32 and exact.device.type == "cpu"  # which has no weights
    x = noise().double()
    for step in (100, 500, 900):
        t = torch.tensor((step + 1) / 1000, dtype=torch.float64)
        before, after = ((t + h).reshape(1) for h in (-1e-6, 1e-6))
        marginals = [model.sde.marginal(s) for s in (before, t, after)]
        low, phi, high = (torch.atan2(at.R.c, at.Phi.c) for at in marginals)
        slope = (model.jump(x, t, after) - model.jump(x, t, before)) / (high - low)
        torch.testing.assert_close(there(x, step).sample, phi.sin() * x + phi.cos() * slope, rtol=1e-4, atol=1e-5)


# --- other conventions, on a law that is known -------------------------------------------------------------------------


class Known(nn.Module):
    """A true reading of the ring, told the time in another way."""

    def __init__(self, sde: Any, reading: str, time: Any) -> None:
        super().__init__()
        self.exact, self.reading, self.time = sdegen.Exact(sde, RING), reading, time

    def forward(self, x: Tensor, clock: Tensor) -> Tensor:
        t = self.time(clock.double())
        if self.reading in ("straight", "to data"):  # the difference of noise and data, and its opposite
            data, noise = self.exact.estimate(x, t)
            return noise - data if self.reading == "straight" else data - noise
        return getattr(self.exact, self.reading)(x, t)


@pytest.mark.parametrize(
    ("reading", "asks", "clock", "time"),
    [
        ("noise", NoiseParametrization(), ScaledTime(999), lambda c: c / 999),
        ("score", ScoreParametrization(), ScaledTime(), lambda c: c),
        ("denoise", DataParametrization(), StepIndex(1000), lambda c: (c + 1) / 1000),
        ("velocity", VelocityParametrization(), StepIndex(100), lambda c: (c + 1) / 100),
        ("straight", StraightParametrization(), ScaledTime(1000), lambda c: c / 1000),
        ("to data", StraightParametrization(to_data=True), FromNoise(), lambda c: 1 - c),
    ],
    ids=["score_sde", "score", "data", "velocity", "straight", "to data"],
)
def test_every_convention_is_one_score(reading: str, asks: Any, clock: Any, time: Any) -> None:
    sde = sdegen.VP()
    model = sdegen.from_network(Known(sde, reading, time), sde, asks, clock)
    x = sde.diffused(RING, torch.tensor(0.4)).sample(20, torch.Generator().manual_seed(0))
    for t in (0.1, 0.4, 1.0):
        torch.testing.assert_close(model.score(x, t), sdegen.Exact(sde, RING).score(x, t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sde", [sdegen.EDM(), sdegen.VE(), sdegen.VP(), sdegen.OU()], ids=lambda s: type(s).__name__)
def test_a_denoiser_serves_every_scalar_process(sde: Any) -> None:

    class Denoiser(nn.Module):
        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            return RING.observed(x, torch.ones(()), sigma)[0]

    model = sdegen.from_denoiser(Denoiser(), RING.moments(), sde)
    exact = sdegen.Exact(sde, RING)
    asked = {"sampler": sdegen.samplers.DDIM(12), "seed": 0}  # the default has other steps where the law is known
    torch.testing.assert_close(
        sdegen.sample(model, 500, **asked), sdegen.sample(exact, 500, **asked), rtol=1e-6, atol=1e-5
    )
    assert abs(NoiseLevel()(sde, 0.3 * sde.T) - sde.snr(0.3 * sde.T) ** -0.5) < 1e-12


@torch.no_grad()
def test_wrappers_of_k_diffusion_are_denoisers() -> None:
    try:
        external = k_diffusion("external")
    except ImportError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    net, sde = sdegen.nets.UNet(2, (16, 16)).eval(), sdegen.DDPM()
    for p in net.parameters():  # fresh networks give nothing
        nn.init.normal_(p, std=0.05)
    table = (1 - sde.betas).cumprod(0).float()
    for wrapper, asks in (
        (external.DiscreteEpsDDPMDenoiser, NoiseParametrization()),
        (external.DiscreteVDDPMDenoiser, VelocityParametrization()),
    ):

        class Their(wrapper):  # type: ignore[misc, valid-type]
            def get_v(self, *given: Any, **more: Any) -> Tensor:
                return self.inner_model(*given, **more)

        theirs = Their(net, table, quantize=True)
        model = sdegen.from_denoiser(theirs, sde=sde)
        plain = sdegen.from_network(net, sde, asks, StepIndex(1000))
        for step in (1, 300, 900):
            x = noise()
            torch.testing.assert_close(
                model.denoise(x, (step + 1) / 1000), plain.denoise(x, (step + 1) / 1000), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_network_of_half_precision_is_told_every_step(dtype: torch.dtype) -> None:
    """999 is no number of bfloat16: a network told 1000 is asked about a step that it never saw."""
    told: list[Tensor] = []
    half = deepcopy(unet()).to(dtype)
    half.register_forward_pre_hook(lambda net, given: told.append(given[1]))
    model, whole = (sdegen.from_diffusers(net, diffusers.DDPMScheduler()) for net in (half, unet()))
    steps = torch.tensor([0.0, 257.0, 999.0])
    x = noise()
    got, want = (m.denoise(x, (steps.double() + 1) / 1000, label=1) for m in (model, whole))
    assert told[0].dtype == torch.float32 and told[0].tolist() == pytest.approx(steps.tolist(), abs=1e-3)
    assert got.dtype == torch.float32 and (got - want).norm() < 0.02 * want.norm()
    assert sdegen.sample(model, 2, steps=3, seed=0, label=1).dtype == dtype


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: sdegen.from_diffusers(unet(), diffusers.FlowMatchEulerDiscreteScheduler()), "no alphas_cumprod"),
        (lambda: sdegen.to_diffusers(sdegen.Exact(sdegen.VE(), RING)), "VE is no process of diffusers"),
        (lambda: sdegen.to_diffusers(sdegen.Exact(sdegen.CLD(), RING)), "CLD is no process"),
        (lambda: sdegen.to_diffusers(sdegen.Exact(sdegen.Cosine(), RING)), r"alpha\(T\) > 0"),
        (
            lambda: sdegen.from_denoiser(sdegen.nets.MLP(2, width=4), sde=sdegen.Rectified()),
            "where x / alpha is infinite",
        ),
        (lambda: AngleTable(torch.tensor([0.5, 0.7])), "two or more numbers that fall"),
    ],
)
def test_what_has_no_counterpart_is_refused(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_units_that_differ_from_number_to_number_have_no_counterpart() -> None:
    model = sdegen.Exact(sdegen.VP().in_units(sdegen.Units(torch.zeros(2), torch.tensor([1.0, 2.0]))), RING)
    with pytest.raises(ValueError, match=r"one schedule for all; train it in one unit: .*in_units"):
        sdegen.to_diffusers(model)
    for std in (0.7, 1 / 3):  # of which the mean is another number
        units = sdegen.Units(torch.zeros(784), torch.full((784,), std, dtype=torch.float64))
        sdegen.to_diffusers(sdegen.Model(sdegen.nets.MLP(784), sdegen.VP().in_units(units)))


@torch.no_grad()
def test_the_noise_of_a_model_in_units_is_that_of_the_law_of_the_data() -> None:
    """In their states ``x_t = a x_0 + b z`` of Gaussian data ``E[z | x_t]`` is a line."""
    law = sdegen.GaussianMixture(torch.ones(1), torch.full((1, 2), 0.3), torch.tensor([0.16]))
    net, scheduler = sdegen.to_diffusers(sdegen.Exact(sdegen.VP().in_units(sdegen.Units(0.1, 0.5)), law))
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for k in (0, 300, 999):
        a2 = scheduler.alphas_cumprod[k].double()
        b = (1 - a2).sqrt()
        exact = b * (x - 0.3 * a2.sqrt()) / (0.16 * a2 + b**2)
        torch.testing.assert_close(net(x, k).sample, exact, rtol=1e-4, atol=1e-5)  # their table is in float32


def test_a_configuration_is_no_scheduler_and_a_network_of_classes_needs_one() -> None:
    scheduler = diffusers.DDPMScheduler()
    with pytest.raises(TypeError, match=r"DDPMScheduler.from_config\(config\)"):
        sdegen.from_diffusers(unet(), scheduler.config)
    model = sdegen.from_diffusers(unet(), scheduler)
    with pytest.raises(ValueError, match=r"needs a class: pass label=.*null="):
        sdegen.sample(sdegen.guidance.ClassifierFree(model, 2.0), 2, steps=2, label=1, progress=False)


@pytest.mark.parametrize("name", ["DDPMPipeline", "DDIMPipeline"])
def test_a_pipeline_of_diffusers_draws_from_a_score_model(name: str) -> None:
    """N(0.2, 0.01) pixels are 0.6 ± 0.05 on the pipeline's scale of images; its own fifty steps take some of the width."""
    law = sdegen.GaussianMixture(torch.ones(1), torch.full((1, 2, 8, 6), 0.2), torch.tensor([0.01]))
    net, scheduler = sdegen.to_diffusers(sdegen.Exact(sdegen.VP(), law))
    kind = name.replace("Pipeline", "Scheduler")
    pipe = getattr(diffusers, name)(unet=net, scheduler=getattr(diffusers, kind).from_config(scheduler.config))
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images = pipe(batch_size=20, num_inference_steps=50, output_type="np", generator=generator).images
    assert images.shape == (20, 8, 6, 2)
    assert images.mean() == pytest.approx(0.6, abs=0.005)
    assert 0.03 < images.std() < 0.06


def test_a_pipeline_is_told_that_data_are_no_images() -> None:
    net, _ = sdegen.to_diffusers(sdegen.Exact(sdegen.VP(), RING))
    with pytest.raises(ValueError, match=r"the data have shape \(2,\); pipelines of diffusers draw images"):
        net.config  # noqa: B018


def test_a_network_of_diffusers_is_saved_and_loaded_without_a_warning(tmp_path: Any) -> None:
    model, file = sdegen.from_diffusers(unet(), diffusers.DDPMScheduler()), tmp_path / "m.safetensors"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sdegen.save(model, file)
        again = sdegen.load(file, [diffusers.UNet2DModel])
    assert not [v for v in said if "config" in str(v.message)]
    x, label = noise(), torch.tensor([0, 1, 2])
    with torch.no_grad():
        assert torch.equal(again.eval().noise(x, 0.3, label=label), model.eval().noise(x, 0.3, label=label))


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.OU(T=5.0), sdegen.EDM()], ids=lambda sde: type(sde).__name__)
def test_a_step_is_a_share_of_the_process_however_long_that_is(sde: Any) -> None:
    k = torch.tensor([0.0, 1.0, 499.0, 999.0], dtype=torch.float64)
    torch.testing.assert_close(StepIndex(1000)(sde, (k + 1) / 1000 * sde.T), k, rtol=0, atol=1e-9)
    assert StepIndex(1000)(sde, 0.0) == 0


@pytest.mark.parametrize("T", [1.0, 5.0])
def test_a_step_of_diffusers_is_the_same_share_of_the_process(T: float) -> None:
    model = sdegen.Exact(sdegen.OU(T=T, rate=2 / T), RING)
    net, _ = sdegen.to_diffusers(model, steps=100)
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for k in (0, 30, 99):
        torch.testing.assert_close(net(x, k).sample, model.noise(x, (k + 1) / 100 * T))


class Prompted(nn.Module):
    """A network that is called as those of diffusers are, and adds its prompts' means row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(
        self, x: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, return_dict: bool = True
    ) -> tuple[Tensor]:
        self.seen.append(tuple(encoder_hidden_states.shape))
        return (torch.stack([row + prompt.mean() for row, prompt in zip(x, encoder_hidden_states, strict=True)]),)


@pytest.mark.parametrize("shape", [(3, 6), (6,), (77, 2)])
def test_one_prompt_is_for_all_states_and_of_more_there_are_as_many_as_states(shape: tuple[int, ...]) -> None:
    net, x = Prompted(), noise(4)
    prompt = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    told = sdegen.models.diffusers.UNetOf(net)
    one = told(x, torch.tensor([3.0]), encoder_hidden_states=prompt)
    assert torch.equal(one, told(x, torch.tensor([3.0]), encoder_hidden_states=prompt.repeat(4, *[1] * len(shape))))
    assert net.seen == [(4, *shape)] * 2
    for n in (0, 2, 3, 5):
        with pytest.raises(ValueError, match=rf"encoder_hidden_states has shape \({n}, .*one row for all.*each of 4"):
            told(x, torch.tensor([3.0]), encoder_hidden_states=prompt.expand(n, *shape))


ANSWERS: dict[str, Callable[[Tensor], Any]] = {
    "Tensor": lambda x: x,
    "Output": lambda x: type("Output", (), {"sample": x})(),
    "dict": lambda x: {"sample": x},
    "NoneType": lambda x: None,
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_network_that_answers_otherwise_than_those_of_diffusers_is_told_of(kind: str) -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor, timestep: Tensor, **more: Any) -> Any:
            return ANSWERS[kind](x)

    model = sdegen.from_diffusers(Plain(), diffusers.DDPMScheduler())  # which knows of no shape of data
    assert model.moments is None
    with pytest.raises(TypeError, match=rf"^Plain returned a {kind}; .* a tuple, the prediction first.*from_network"):
        model.noise(torch.zeros(2, 1, 4, 4), 0.5)
