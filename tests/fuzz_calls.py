"""Valid calls of the public names, where signatures do not tell them; what looks like nonsense and is allowed; exceptions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import sdegen
from sdegen import (
    baselines,
    data,
    grids,
    guidance,
    inference,
    laws,
    measurements,
    metrics,
    models,
    nets,
    processes,
    samplers,
    training,
)
from sdegen.laws import derivatives
from sdegen.metrics.features import ARCHITECTURES
from sdegen.testing.laws import probes


class Lazy(NamedTuple):
    """A value that is made anew for every call, for calls change it."""

    make: Any


class Method(NamedTuple):
    """A method that is called: its object, and the arguments that its signature does not tell."""

    owner: Any
    given: dict[str, Any]


class Function(NamedTuple):
    """A function under another name, for arguments that its plain call has not."""

    function: Any
    given: dict[str, Any]


torch.manual_seed(0)
RING = sdegen.data.gaussian_ring()
VP = sdegen.VP()
EXACT = sdegen.Exact(VP, RING)
X = torch.randn(8, 2)
WIDE = torch.randn(80, 2)
IMAGES = torch.rand(6, 1, 8, 8)
BYTES = (255 * torch.rand(6, 1, 8, 8)).byte()
PIXELS = sdegen.Exact(VP, laws.GaussianMixture(torch.ones(1), torch.zeros(1, 1, 8, 8), torch.ones(1)))
FEW = data.Images(BYTES, torch.arange(6) % 2, ("a", "b"))
ONE_COLUMN = data.Table({"a": data.NumberColumn()})
TABLE = sdegen.DDPM(processes.linear_betas(20, 1e-3, 0.4))
FOLDER = Path(tempfile.mkdtemp())
HEAD = torch.randn(64, 10)


flat = lambda x: x.flatten(1) @ HEAD


class Widened:
    """A posterior: a normal law around the observation."""

    def sample(self, n: int, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn(n, *x.shape)

    def log_prob(self, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return -0.5 * (theta - x).square().sum(1)


RANKS, COVERAGE = metrics.Ranks(torch.rand(9, 2)), metrics.Coverage(torch.rand(9))


def network(classes: int = 0) -> nn.Module:
    return nets.MLP(2, width=8, depth=1, classes=classes)


def model(classes: int = 0) -> sdegen.Model:
    made = sdegen.Model(network(classes), VP)
    made.moments = sdegen.moments_of(RING.sample(64, torch.Generator().manual_seed(0)))
    return made


def flow_map() -> samplers.FlowMap:
    return samplers.FlowMap.of(model())


def table_model() -> sdegen.Model:
    known = nets.Vector(1, gaps=True, dropout=None)
    made = sdegen.Model(nets.MLP(1, width=8, depth=1, conditions={"known": known}), VP)
    made.moments = sdegen.moments_of(X[:, :1])
    return made


def step() -> Any:
    """Three numbers of a step of `Ancestral`, as its variances get them."""
    return samplers.Ancestral(3).plan(EXACT, torch.tensor([0.9, 0.5, 0.1]))[0]


def saved() -> str:
    path = FOLDER / "model.safetensors"
    if not path.exists():
        sdegen.save(model(), path)
    return str(path)


class Features(nn.Module):
    """Four numbers of an image, two of them its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


class UNet(nn.Module):
    """A network that is called as those of diffusers are."""

    def forward(self, x: Tensor, t: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        return (x.sin(),)


class TwoTimed(nn.Module):
    """A network that is called as mean flows are."""

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return x.sin()


class Writer:
    def add_scalar(self, tag: str, value: float, step: int) -> None: ...
    def add_images(self, tag: str, images: Tensor, step: int) -> None: ...


LINEAR = measurements.Linear(torch.ones(1, 2), 0.5)
MIXTURE = laws.GaussianMixture(torch.tensor([0.5, 0.5]), torch.randn(2, 2), torch.ones(2))
field = lambda x: x.sin()
vae = lambda: baselines.VAE(
    nets.Perceptron(2, 4, 8), nets.Perceptron(2, 2, 8), latent=2, likelihood=baselines.Gaussian(0.5)
)
critic = lambda: nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
gan = lambda: baselines.GAN(nets.Perceptron(2, 2, 8), critic(), latent=2)


def recorded() -> baselines.Stability:
    """A record of one step of an adversarial training."""
    health = baselines.Stability(gan(), X)
    health.records = [{"step": 100, "L_D": 1.0, "L_G": 2.0}]
    return health


ladder = lambda: baselines.HierarchicalVAE((2,), (2, 2), 8)

# Values by the name of a parameter, or by its kind.
VALID: dict[str, Any] = {
    "int": 2,
    "float": 0.5,
    "Tensor": X,
    "bool": False,
    "ScoreModel": EXACT,
    "SDE": VP,
    "LinearSDE": VP,
    "Sampler": samplers.DDIM(3),
    "Grid": grids.Angle(),
    "Distribution": RING,
    "GaussianMixture": MIXTURE,
    "Measurement": LINEAR,
    "LinearMeasurement": LINEAR,
    "NoiseLaw": measurements.PoissonNoise(),
    "Moments": sdegen.moments_of(WIDE),
    "Profile": samplers.measure_profile(EXACT, X, steps=(4,)),
    "Parametrization": models.EDMParametrization(),
    "Weighting": training.weightings.UniformWeighting(),
    "TimeLaw": training.weightings.UniformTimes(),
    "Operator": laws.Scale(0.5),
    "Exact": EXACT,
    "Field": field,
    "Bijection": baselines.Logit(),
    "HasScore": EXACT,
    "HasVelocity": EXACT,
    "nn.Module": Lazy(network),
    "model": EXACT,
    "distribution": RING,
    "dataset": torch.utils.data.TensorDataset(X),
    "n": 4,
    "t": 0.5,
    "seed": 0,
    "x": X,
    "y": X.flip(0),
    "steps": 3,
    "generated": WIDE,
    "real": WIDE.flip(0) + 0.1,
    "epsilon": 0.1,
    "low": -1.0,
    "high": 1.0,
    "width": 8,
    "shape": (2,),
    "images": IMAGES,
    "scaling": data.Scaling(),
    "dtype": torch.float32,
    "device": torch.device("cpu"),
    "expected": None,
}

CONDITIONAL = sdegen.ExactConditional(VP, [MIXTURE, RING], RING)
CLASSIFIER = guidance.ExactClassifier(VP, [MIXTURE, RING])
VARIED = sdegen.LearnedVariance(nets.MLP(2, width=8, depth=1, out=4), VP)
STEP = step()
MANY, OTHERS = torch.rand(200, 1, 8, 8), torch.rand(200, 1, 8, 8) ** 1.1
MAKE = lambda steps: samplers.DDIM(steps)
WRAP = lambda inner: guidance.EpsilonScaling(inner, 1.05)
AFFINE = sdegen.Exact(VP, sdegen.testing.gaussian_data())  # in float64

BOX = torch.distributions.Uniform(-4 * torch.ones(2), 4 * torch.ones(2))
BETWEEN = torch.tensor([[-0.9, 0.2], [0.4, 1.0]])  # numbers in the cells of bytes
GUESS = inference.LinearGuess.of(WIDE, WIDE + torch.randn(80, 2))[0]
TOLD = lambda: nets.MLP(2, width=8, depth=1, conditions={"seen": nets.Vector(2)})
ASKED = guidance.PiGDM(EXACT, LINEAR)
QUICK = {"steps": 1, "batch_size": 8, "progress": False}
LEARNED = inference.fit_posterior(BOX, (X.clamp(-3, 3), X), TOLD(), **QUICK)

# Arguments by the name of the callable: what the signature does not tell. Methods are a pair: the object, and the arguments.
CALLS: dict[str, Any] = {
    "simulate": {"dynamics": VP, "t_0": 0.0, "t_1": 0.5},
    "Blurring": {"shape": (1, 4, 4)},
    "Empirical": {"data": X},
    "GaussianMixture": {"weights": torch.tensor([0.5, 0.5]), "means": torch.randn(2, 2), "covariances": torch.ones(2)},
    "Matrix": {"M": torch.tensor([[2.0, 0.3], [0.1, 1.0]])},
    "Scale": {"c": 0.5},
    "moments_of": {"data": X},
    "ExactConditional": {"laws": [RING, RING], "null": RING},
    "FokkerPlanck": {
        "sde": sdegen.DoubleWell(T=0.5),
        "distribution": laws.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1)),
        "cells": 32,
        "steps": 8,
    },
    "LongSeries": {
        "model": sdegen.Exact(VP, RING),
        "overlaps": sdegen.Exact(VP, laws.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))),
        "length": 4,
    },
    "LearnedVariance": {"net": Lazy(lambda: nets.MLP(2, width=8, depth=1, out=4))},
    "LearnedSDE": {"degree": 3},
    "LearnedSchedule": {"degree": 3},
    "from_diffusers": {
        "unet": Lazy(UNet),
        "scheduler": SimpleNamespace(
            alphas_cumprod=torch.linspace(0.99, 0.01, 20), config=SimpleNamespace(prediction_type="epsilon")
        ),
        "moments": VALID["Moments"],
    },
    "to_diffusers": {"model": Lazy(model)},
    "fit": {
        "model": Lazy(model),
        "data": X,
        "steps": 2,
        "batch_size": 4,
        "seed": 0,
        "lr": 1e-3,
        "clip": 1.0,
        "schedule": training.cosine_decay,
        "progress": False,
    },
    "load": {"path": Lazy(saved)},
    "save": {"model": Lazy(model), "path": FOLDER / "again.safetensors"},
    "sample": {"n": 4, "x_T": None, "steps": 3, "seed": 0},
    "edit": {"t": 0.5, "steps": 3, "seed": 0},
    "bits_per_dim": {
        "model": PIXELS,
        "images": BYTES,
        "scaling": data.Scaling(),
        "tolerance": 1e-2,
    },
    "noised_bits_per_dim": {"model": PIXELS, "images": BYTES, "scaling": data.Scaling(), "tolerance": 1e-2},
    "discrete_bits_per_dim": {"model": PIXELS, "images": BYTES, "scaling": data.Scaling(), "steps": 3},
    "Codec": {"model": PIXELS, "scaling": data.Scaling(), "steps": 3},
    "diagnose": {"data": RING, "sampler": samplers.DDIM(3), "n": 64, "bins": 2},
    "diffusion_hierarchy": {"times": torch.tensor([0.9, 0.5, 0.1])},
    "likelihood.decode_with_log_prob": {"sampler": samplers.DDIM(3)},
    "discrete_elbo": {"steps": 3},
    "elbo": {"draws": 2},
    "estimate_log_prob": {"tolerance": 1e-2, "draws": 1},
    "log_prob": {"tolerance": 1e-2},
    "sample_with_log_prob": {"tolerance": 1e-2, "seed": 0},
    "baselines.Autoencoder": {
        "encoder": Lazy(lambda: nets.Perceptron(2, 2, 8)),
        "decoder": Lazy(lambda: nets.Perceptron(2, 2, 8)),
    },
    "baselines.VAE": {
        "encoder": Lazy(lambda: nets.Perceptron(2, 4, 8)),
        "decoder": Lazy(lambda: nets.Perceptron(2, 2, 8)),
        "latent": 2,
        "likelihood": baselines.Gaussian(0.5),
    },
    "baselines.CategoricalVAE": {
        "encoder": Lazy(lambda: nets.Perceptron(2, 4, 8)),
        "decoder": Lazy(lambda: nets.Perceptron(4, 2, 8)),
        "categories": 2,
        "likelihood": baselines.Gaussian(0.5),
    },
    "baselines.HierarchicalVAE": {"width": 8, "likelihood": baselines.Gaussian(0.5)},
    "baselines.WarmUp": {"model": Lazy(ladder)},
    "baselines.LatentClassifier": {"model": Lazy(vae), "latent": 2, "classes": 2},
    "baselines.active_units": {"codes": X},
    "baselines.fgsm": {"logits": flat, "x": IMAGES, "label": torch.zeros(6, dtype=torch.long), "low": 0.0, "high": 1.0},
    "baselines.robustness": {
        "logits": flat,
        "x": IMAGES,
        "label": torch.zeros(6, dtype=torch.long),
        "epsilons": [0.1],
        "low": 0.0,
        "high": 1.0,
    },
    "baselines.walk_latents": {"decode": field, "start": X[0], "end": X[1], "steps": 3},
    "baselines.traversal": {"decode": field, "z": X[0], "dim": 1, "values": torch.tensor([0.0, 1.0])},
    "baselines.NormalizingFlow": {"net": Lazy(lambda: baselines.RealNVP((2,), 2, 8, 1).net)},
    "baselines.RealNVP": {"couplings": 2, "width": 8, "depth": 1},
    "baselines.ResidualFlow": {"blocks": 2, "width": 8},
    "baselines.ContinuousFlow": {"velocity": Lazy(network), "steps": 2},
    "baselines.Composition": {"parts": [baselines.Logit()]},
    "baselines.Marginals": {"masses": torch.full((2, 4), 0.25)},
    "baselines.Adversarial": {},
    "baselines.GAN": {"generator": Lazy(lambda: nets.Perceptron(2, 2, 8)), "critic": Lazy(critic), "latent": 2},
    "baselines.WGAN": {"generator": Lazy(lambda: nets.Perceptron(2, 2, 8)), "critic": Lazy(critic), "latent": 2},
    "baselines.WGANGP": {"generator": Lazy(lambda: nets.Perceptron(2, 2, 8)), "critic": Lazy(critic), "latent": 2},
    "baselines.Stability": {"model": Lazy(gan)},
    "data.File": {"path": "a.gz", "md5": "0" * 32},
    "data.Images": {"x": BYTES, "labels": torch.arange(6) % 2, "label_names": ("a", "b")},
    "data.Scaled": {"images": FEW},
    "data.Source": {"data": X},
    "data.CategoryColumn": {"levels": ("a", "b")},
    "data.GappedColumn": {"column": data.NumberColumn()},
    "data.Stream": {"data": [X, X]},
    "data.Table": {"columns": {"a": data.NumberColumn()}},
    "data.TableRows": {"table": ONE_COLUMN, "frame": {"a": [0.5, 1.5]}},
    "likelihood.TableDensity": {"table": ONE_COLUMN, "model": Lazy(lambda: table_model())},
    "data.from_arrays": {"x": BYTES.numpy()},
    "data.from_dataset": {"dataset": [(row, 0) for row in BYTES]},
    "data.from_folder": {"path": Lazy(lambda: pictures())},
    "data.save_pngs": {"folder": FOLDER / "pngs", "low": 0.0, "high": 1.0},
    "data.random_mixture": {"modes": 2},
    "data.sprites": {},
    "Transformed": {
        "sde": sdegen.DoubleWell(),
        "coordinates": laws.coordinates.Whitening(torch.zeros(2), 2 * torch.eye(2)),
    },
    "laws.Columns": {"widths": [1, 1], "maps": [laws.coordinates.Log(), None]},
    "laws.coordinates.Successive": {"parts": [laws.coordinates.Whitening(torch.zeros(2), 2 * torch.eye(2))]},
    "laws.coordinates.Whitening": {"mean": torch.zeros(2), "W": 2 * torch.eye(2)},
    "laws.derivatives.hutchinson_divergences": {"probes": torch.randn(3, 8, 2).sign()},
    "laws.derivatives.hutchpp_divergences": {
        "Q": torch.eye(2)[:, :1].expand(8, 2, 1),
        "probes": torch.randn(3, 8, 2).sign(),
    },
    "laws.derivatives.subspace": {"images": torch.randn(2, 8, 2)},
    "laws.kernels.posterior": {"at_s": VP.marginal(0.2), "at_t": VP.marginal(0.5), "s_to_t": VP.transition(0.2, 0.5)},
    "models.foreign.Foreign": {"clock": models.foreign.NoiseLevel()},
    "processes.grids.Given": {"times": torch.tensor([0.9, 0.5, 0.1])},
    "guidance.Autoguidance": {"weak": EXACT},
    "guidance.APG": {"model": CONDITIONAL, "null": None},
    "guidance.CFGPlusPlus": {"model": CONDITIONAL, "null": None, "times": torch.tensor([0.9, 0.5, 0.1])},
    "guidance.CFGZeroStar": {"model": CONDITIONAL, "null": None},
    "guidance.ClassifierFree": {"model": CONDITIONAL, "null": None},
    "guidance.Product": {"models": {EXACT: 2.0}},
    "laws.multiply_laws": {"laws": {MIXTURE: 1.0}},
    "guidance.RescaledGuidance": {"model": CONDITIONAL},
    "guidance.Rescaled": {"model": guidance.Autoguidance(EXACT, EXACT, 2.0)},
    "guidance.Without": {"model": CONDITIONAL},
    "guidance.contrast": {"given": X, "data": 2 * X},
    "guidance.ClassifierGuidance": {"classifier": CLASSIFIER},
    "guidance.ExactClassifier": {"laws": [MIXTURE, MIXTURE]},
    "guidance.NoisyClassifier": {"net": Lazy(lambda: nets.MLP(2, width=8, depth=1, out=2))},
    "guidance.conjugate_gradients": {"product": lambda v: 2 * v, "b": X},
    "guidance.minimal_residuals": {"product": lambda v: 2 * v, "b": X},
    "guidance.repaint": {"jump": 1, "repeats": 2},
    "guidance.Mixed": {"models": {EXACT: 1.0}},
    "guidance.anneal_density": {
        "log_prob": RING.log_prob,
        "gaussian": sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1)),
        "particles": 4,
        "levels": 2,
    },
    "guidance.anneal_product": {"model": guidance.Product({EXACT: 1.0}), "particles": 4, "steps": 2},
    "guidance.tilted_smc": {"reward": lambda x: x.flatten(1).sum(1), "particles": 4, "steps": 2},
    "laws.PlanarLaw": {"log_density": MIXTURE.log_prob, "low": [-9.0, -9.0], "high": [9.0, 9.0], "cells": 20},
    "laws.tilt_law": {"law": MIXTURE, "linear": torch.ones(2)},
    "guidance.corrected": {"model": guidance.Product({EXACT: 1.0}), "particles": 4, "steps": 2},
    "guidance.importance_sample": {"log_prob": RING.log_prob, "n": 4, "steps": 2},
    "training.LogVariance": {"log_prob": RING.log_prob},
    "training.AdjointMatching": {"log_prob": RING.log_prob},
    "training.PathDivergence": {"log_prob": RING.log_prob},
    "guidance.find_misfit": {"measurement": LINEAR, "y": torch.tensor([0.5]), "x": X},
    "guidance.twisted_smc": {"model": guidance.PiGDM(EXACT, LINEAR), "particles": 4, "y": torch.tensor([0.5])},
    "guidance.annealed_smc": {"measurement": LINEAR, "particles": 4, "y": torch.tensor([0.5]), "steps": 2},
    "guidance.split_gibbs": {"measurement": LINEAR, "n": 2, "y": torch.tensor([0.5]), "levels": 2, "steps": 2},
    "guidance.decoupled_annealing": {"measurement": LINEAR, "n": 2, "y": torch.tensor([0.5]), "levels": 2, "steps": 2},
    "training.losses.InputPerturbation": {},
    "training.losses.Hybrid": {},
    "guidance.measurements.Linear": {"A": torch.ones(1, 2)},
    "guidance.measurements.Mask": {"mask": torch.tensor([True, False])},
    "guidance.measurements.Downsample": {"factor": 2},
    "guidance.measurements.Nonlinear": {"operator": torch.exp},
    "guidance.measurements.mixture_posterior": {"law": MIXTURE, "y": torch.tensor([0.5])},
    "guidance.measurements.random_projection": {"m": 1, "d": 2},
    "metrics.KernelDensity": {"samples": X},
    "metrics.accuracy": {"samples": IMAGES, "labels": torch.arange(6), "net": flat},
    "metrics.classifier_test": {"k": 3, "seed": 0},
    "metrics.crps": {"draws": X, "observed": X[0]},
    "metrics.density_coverage": {"generated": MANY, "real": OTHERS, "net": flat, "batch_size": 100},
    "metrics.effective_share": {"log_weights": X[:, 0]},
    "metrics.feature_moments": {"data": MANY, "net": flat, "batch_size": 100},
    "metrics.FeatureNet": {"name": "digits-cnn-v1", "architecture": ARCHITECTURES["digits-cnn-v1"]},
    "metrics.features": {"name": "digits-cnn-v1"},
    "metrics.find_coverage": {"posterior": Widened(), "theta": X, "x": X, "draws": 4},
    "metrics.find_local_error": {
        "posterior": Widened(),
        "theta": X,
        "x": X,
        "observed": X[0],
        "draws": 4,
        "shuffles": 2,
        "seed": 0,
    },
    "metrics.find_ranks": {"posterior": Widened(), "theta": X, "x": X, "draws": 4},
    "metrics.find_tarp_coverage": {
        "posterior": Widened(),
        "theta": X,
        "x": X,
        "draws": 4,
        "references": None,
        "seed": 0,
    },
    "metrics.fid": {"generated": MANY, "real": OTHERS, "net": flat, "batch_size": 100},
    "metrics.fid_infinity": {"generated": MANY, "real": OTHERS, "net": flat, "batch_size": 100},
    "metrics.frechet_distance": {"p": sdegen.moments_of(WIDE), "q": sdegen.moments_of(WIDE + 1)},
    "metrics.kde_kl": {"draw": RING, "distribution": RING, "n": 64, "draws": 3, "seed": 0},
    "metrics.kde_kl_once": {"distribution": RING},
    "metrics.kid": {"generated": MANY, "real": OTHERS, "net": flat, "batch_size": 100},
    "metrics.kl": {"generated": RING, "real": RING, "n": 64, "x": None, "seed": 0},
    "metrics.kl_from_log_ratio": {"log_p": X[:, 0], "log_q": X[:, 1]},
    "metrics.knn_kl": {"generated": torch.cat([WIDE, 2 * WIDE]), "real": torch.cat([WIDE + 0.1, 2 * WIDE - 0.1])},
    "metrics.mmd": {},
    "metrics.mode_shares": {"law": RING},
    "metrics.precision_recall": {"generated": MANY, "real": OTHERS, "net": flat, "batch_size": 100},
    "metrics.predictive_check": {"observed": X[0], "replicated": X, "statistic": lambda x: x.sum(1)},
    "metrics.prior_gap": {"distribution": RING, "n": 64, "seed": 0},
    "metrics.sliced_wasserstein": {"projections": 4, "seed": 0},
    "nets.add_conditions": {
        "net": Lazy(lambda: nets.MLP(2, width=8, depth=1)),
        "conditions": {"theta": nets.Vector(1)},
    },
    "nets.Down": {"shape": (1, 8, 8), "outer": 2},
    "nets.Up": {"shape": (1, 8, 8), "inner": 2},
    "nets.MLP": {"dim": 2, "depth": 1},
    "nets.Convolutional": {"inner": 1, "outer": 1, "depth": 1},
    "nets.CoordinateTransformer": {"dim": 2, "depth": 1},
    "nets.DiT": {"channels": 1, "width": 8, "depth": 1},
    "nets.Fourier": {"dim": 8},
    "nets.ByteMean": {"net": Lazy(lambda: nets.UNet(5, (8,), out_channels=6)), "levels": 17},
    "nets.FourierState": {"net": Lazy(lambda: nets.UNet(5, (8,), out_channels=1))},
    "nets.HyperMLP": {"dim": 2, "depth": 1, "rank": 2},
    "nets.Perceptron": {"inner": 2, "outer": 2},
    "nets.Sinusoidal": {"dim": 8},
    "nets.UNet": {"channels": 1, "widths": (8, 8)},
    "plots.Album": {"folder": FOLDER / "album", "n": 4},
    "plots.animation": {"path": torch.randn(3, 8, 2), "file": FOLDER / "a.gif", "size": 32},
    "plots.coverage": {"found": COVERAGE},
    "plots.density": {"law": RING, "points": 8},
    "plots.drawn": {"draw": lambda ax: None, "size": (1.0, 1.0)},
    "plots.images": {"x": IMAGES},
    "plots.local_error": {"found": metrics.LocalTest(metrics.Estimate(0.1, 0.01), 0.5, torch.rand(9))},
    "plots.losses": {"run": training.Run(steps=3, loss=[1.0, 2.0, 3.0])},
    "plots.marginals": {"theta": X, "truth": X[0], "names": ["a", "b"]},
    "plots.players": {"health": Lazy(recorded)},
    "plots.predictions": {"draws": X, "observed": X[0]},
    "plots.ranks": {"found": RANKS},
    "plots.replicates": {"observed": X[0], "replicated": X, "statistic": lambda x: x.sum(1)},
    "plots.trajectories": {"path": torch.randn(3, 8, 2)},
    "plots.weights": {"log_weights": X[:, 0]},
    "processes.AngleTable": {"alphas_cumprod": torch.tensor([0.9, 0.5, 0.1])},
    "processes.Stationary": {"event_shape": (2,)},
    "processes.constant_betas": {"N": 20},
    "processes.cosine_betas": {"N": 20},
    "processes.linear_betas": {"N": 20},
    "processes.sigmoid_betas": {"N": 20},
    "models.foreign.StepIndex": {"N": 20},
    "training.weightings.DiscreteTimes": {"N": 20},
    "samplers.BrownianNoise": {"seed": 0, "first": 0, "times": torch.tensor([0.9, 0.5, 0.1])},
    "samplers.Fitted": {
        "stops": torch.tensor([0.9, 0.5, 0.1]),
        "factors": torch.ones(2, 3),
        "order": 2,
        "denoise": True,
        "eta": 1.0,
        "noises": torch.ones(2),
    },
    "samplers.StepCosts": {"times": torch.tensor([0.9, 0.5, 0.1]), "errors": torch.ones(4, 3, 1, 1)},
    "samplers.fit_solver": {"steps": 2, "paths": 64, "rounds": 1, "progress": False},
    "samplers.log_prob_of_steps": {
        "path": torch.randn(3, 4, 2),
        "times": torch.tensor([0.9, 0.5, 0.1]),
        "sampler": samplers.DDIM(3, eta=1.0),
    },
    "samplers.interpolate": {"weights": torch.tensor([0.0, 0.5, 1.0])},
    "samplers.learned_variance": {
        "model": VARIED,
        "c": samplers.Ancestral(3, variance=samplers.learned_variance).plan(VARIED, torch.tensor([0.9, 0.5, 0.1]))[0],
        "z": X,
    },
    "samplers.posterior_variance": {"c": STEP, "z": X},
    "samplers.transition_variance": {"c": STEP, "z": X},
    "samplers.optimal_subsequence": {"model": sdegen.Exact(TABLE, RING), "data": RING, "n": 16, "seed": 0},
    "samplers.quadratic_subsequence": {"sde": TABLE},
    "samplers.uniform_subsequence": {"sde": TABLE},
    "samplers.subsequence": {"sde": TABLE, "grid": grids.Uniform()},
    "samplers.trained_times": {"sde": TABLE},
    "samplers.Langevin": {"h": 0.1},
    "samplers.PredictorCorrector": {"predictor": samplers.ReverseDiffusion(3)},
    "samplers.Restart": {"sampler": samplers.Heun(4), "intervals": [samplers.Interval(0.1, 0.5, 1, 2)]},
    "samplers.slerp": {"w": 0.5},
    "samplers.angle": {"phi": torch.tensor([0.5, 0.2])},
    "samplers.log_ratio": {"phi": torch.tensor([0.5, 0.2])},
    "samplers.share": {"phi": torch.tensor([0.5, 0.2])},
    "testing.affine_moments": {"model": AFFINE},
    "testing.gaussian_error": {"model": AFFINE, "sampler": samplers.DDIM(3)},
    "testing.response": {"model": AFFINE},
    "testing.sampled_moments": {"model": AFFINE, "sampler": samplers.DDIM(3)},
    "testing.check_flow_map": {"model": Lazy(flow_map), "n": 4},
    "testing.flow_map_cases": {"model": Lazy(flow_map), "n": 4},
    "FlowMap": {"net": Lazy(lambda: flow_map().net), "sde": VP},
    "models.foreign.TwoTimes": {"net": TwoTimed()},
    "testing.check_sampler": {"make": MAKE, "steps": (4, 8)},
    "testing.check_wrapper": {"wrap": WRAP},
    "testing.observed_order": {"make": MAKE, "steps": (4, 8)},
    "testing.sampler_cases": {"make": MAKE},
    "testing.wrapper_cases": {"wrap": WRAP},
    "training.trace": {"n": 5, "nodes": 2, "between": 1, "cond": {}},
    "training.Trajectories": {"paths": Lazy(lambda: training.trace(EXACT, 5, nodes=2, between=1, seed=0))},
    "training.Training": {"model": Lazy(model), "data": X},
    "training.train": {"training": Lazy(lambda: training.Training(model(), X, training.Settings(steps=1)))},
    "training.Validation": {"data": X, "every": 1},
    "training.TensorBoard": {"writer": Writer()},
    "training.Settings": {"steps": 3, "seconds": 1.0, "p_uncond": 0.1, "seed": 0},
    "training.cosine_decay": {"done": 0.5},
    "training.constant_rate": {"done": 0.5},
    "laws.NormalRanks": {"law": BOX},
    "laws.coordinates.InverseTransform": {"transform": torch.distributions.transforms.ExpTransform().inv},
    "laws.free_coordinates": {"law": BOX},
    "inference.AmortisedPosterior": {"model": ASKED, "prior": BOX},
    "inference.ConditionalDensity": {"model": ASKED},
    "inference.ComposedPosterior": {"posterior": LEARNED, "draws": 4},
    "inference.Truncated": {"posterior": LEARNED, "x": X[0], "cut": 0.1},
    "inference.LinearGuess": {name: getattr(GUESS, name) for name in ("mean", "std", "A", "b", "L")},
    "inference.draw_pairs": {"prior": BOX, "simulator": field, "batched": True},
    "inference.fit_posterior": {"prior": BOX, "pairs": (X.clamp(-3, 3), X), "net": Lazy(TOLD), **QUICK},
    "inference.fit_likelihood": {"pairs": (X, X.sin()), "net": Lazy(TOLD), **QUICK},
    # methods
    "AmortisedPosterior.sample": Method(LEARNED, {"x": X[0], "steps": 2}),
    "AmortisedPosterior.sample_each": Method(LEARNED, {"steps": 2}),
    "AmortisedPosterior.log_prob": Method(LEARNED, {"x": X[0]}),
    "AmortisedPosterior.log_prob_each": Method(LEARNED, {"y": X[:, None].clamp(-3, 3), "x": X}),
    "AmortisedPosterior.find_mode": Method(LEARNED, {"x": X[0], "draws": 4, "steps": 1}),
    "ComposedPosterior.sample": Method(inference.ComposedPosterior(LEARNED, 4), {"steps": 2}),
    "ComposedPosterior.log_prob": Method(inference.ComposedPosterior(LEARNED, 4), {"theta": X.clamp(-3, 3)}),
    "GaussianMixture.sample": Method(RING, {}),
    "GaussianMixture.log_prob": Method(RING, {}),
    "Empirical.sample": Method(laws.Empirical(X), {}),
    "VP.marginal": Method(VP, {"t": 0.5}),
    "VP.transition": Method(VP, {"s": 0.2, "t": 0.5}),
    "VP.prior": Method(VP, {}),
    "VP.reverse": Method(VP, {"eta": 1.0}),
    "VP.diffused": Method(VP, {"law": RING, "t": 0.5}),
    "grids.Angle.__call__": Method(grids.Angle(), {}),
    "Density.log_prob": Method(sdegen.Density(EXACT), {}),
    "Density.sample": Method(sdegen.Density(EXACT, samplers.DDIM(3)), {}),
    "Dequantiser.forward": Method(Lazy(lambda: sdegen.likelihood.Dequantiser((2,))), {"x": BETWEEN}),
    "Dequantiser.log_prob": Method(Lazy(lambda: sdegen.likelihood.Dequantiser((2,))), {"y": BETWEEN}),
    "Dequantiser.bound": Method(
        Lazy(lambda: sdegen.likelihood.Dequantiser((2,))), {"x": BETWEEN, "log_prob": RING.log_prob}
    ),
    "VAE.sample": Method(Lazy(vae), {}),
    "GAN.sample": Method(Lazy(gan), {}),
    "HierarchicalVAE.sample": Method(Lazy(ladder), {}),
    "NormalizingFlow.sample": Method(Lazy(lambda: baselines.RealNVP((2,), 2, 8, 1)), {}),
    "NormalizingFlow.log_prob": Method(Lazy(lambda: baselines.RealNVP((2,), 2, 8, 1)), {}),
    "sample of PiGDM": Function(
        sdegen.sample,
        {"model": guidance.PiGDM(EXACT, LINEAR), "n": 4, "x_T": None, "steps": 3, "y": torch.tensor([0.5])},
    ),
    "sample of DPS": Function(
        sdegen.sample, {"model": guidance.DPS(EXACT, LINEAR), "n": 4, "x_T": None, "steps": 3, "y": torch.tensor([0.5])}
    ),
    "sample of ExactConditional": Function(
        sdegen.sample, {"model": CONDITIONAL, "n": 4, "x_T": None, "steps": 3, "label": torch.tensor([0, 1, 0, 1])}
    ),
    "sample of Model": Function(
        sdegen.sample,
        {"model": Lazy(lambda: model(2)), "n": 4, "x_T": None, "steps": 3, "label": torch.tensor([0, 1, 0, 1])},
    ),
    "sample from x_T": Function(sdegen.sample, {"n": None, "x_T": X, "steps": 3}),
}


def pictures() -> Path:
    """A folder of a few pictures."""
    folder = FOLDER / "folder" / "a"
    if not folder.exists():
        data.save_pngs(IMAGES, folder)
    return folder.parent


def within(domain: Any) -> Tensor:
    """Data that keep to the bounds of a process."""
    with probes.on_data(None, domain):
        return probes.into_domain(X)


def use(name: str, result: Any) -> Any:
    """Put an object to its use, so that what its constructor takes is refused there at the latest."""
    if isinstance(result, samplers.Sampler):
        got = sdegen.sample(
            flow_map() if isinstance(result, samplers.Jumps) else EXACT,
            3,
            sampler=result,
            seed=0,
            final="denoise" if getattr(result, "denoise", True) else "sample",
        )
        return result, got
    if isinstance(result, grids.Grid):
        return result, result(VP, len(result.times) if isinstance(result, grids.Given) else 4)
    if isinstance(result, sdegen.ScoreModel):
        cond = {"y": torch.tensor([0.5])} if isinstance(result, guidance.measured.GivenMeasurement) else {}
        if getattr(result, "classes", None) or result.__class__ in (
            guidance.APG,
            guidance.CFGPlusPlus,
            guidance.CFGZeroStar,
            guidance.ClassifierFree,
            guidance.RescaledGuidance,
            guidance.ClassifierGuidance,
            sdegen.ExactConditional,
        ):
            cond = {"label": torch.tensor([0] * 8)}
        x = torch.zeros(8, result.distribution.means.shape[1]) if isinstance(result, sdegen.FokkerPlanck) else X
        return result, result.score(x, 0.3, **cond)
    if isinstance(result, processes.SDE) and not isinstance(result, processes.Reverse):
        x = within(result.domain) if result.event_shape is None else torch.zeros(8, *result.event_shape)
        return result, result.perturb(x, torch.full((8,), 0.1))[0]
    if isinstance(result, models.Parametrization):
        return result, sdegen.Model(network(), VP, result).score(X, 0.3)
    if isinstance(result, training.weightings.Weighting):
        return result, training.losses.Denoising(weighting=result)(EXACT, X)
    if isinstance(result, training.weightings.TimeLaw):
        return result, training.losses.Denoising(times=result)(
            sdegen.Exact(TABLE, RING) if isinstance(result, training.weightings.DiscreteTimes) else EXACT, X
        )
    if isinstance(result, (training.MapLoss, training.Trajectories)):
        return result, result(flow_map(), X)
    if isinstance(result, training.PairTimes):
        return result, training.Semigroup(times=result)(flow_map(), X)
    if isinstance(
        result,
        (
            training.losses.Denoising,
            training.losses.Implicit,
            training.LogVariance,
            training.AdjointMatching,
            training.PathDivergence,
        ),
    ):
        return result, result(EXACT, X)
    if isinstance(result, (training.losses.Variational, training.losses.Hybrid)):
        return result, result(VARIED if isinstance(result, training.losses.Hybrid) else EXACT, X)
    if isinstance(result, laws.coordinates.Coordinates):
        return result, result(within(result.domain))
    if isinstance(result, derivatives.Divergence):
        return result, sdegen.estimate_log_prob(EXACT, X, divergence=result, tolerance=1e-2)
    if isinstance(result, measurements.Measurement):
        return result, result(
            X if isinstance(result, (measurements.Linear, measurements.Mask)) else IMAGES.expand(-1, 3, -1, -1)
        )
    if isinstance(result, Iterator):
        return result, list(result)
    return result


# What looks like nonsense and means something, by the argument of all names or of one, each with its reason.
OTHER_SHAPE = "another column, another axis"  # any shape will do where nothing else tells it
ALLOWED: dict[str, str] = {
    "seed": "minus, zero, none",  # any whole number, or a fresh one
    "scale": "minus, zero",  # a factor that turns guidance round, or off
    "rescale": "zero",
    "blur": "zero",
    "eta": "zero",  # no noise
    "training.Lagrangian(power)": "zero",  # squares themselves
    "training.Semigroup(power)": "zero",
    "training.Trajectories(power)": "zero",
    "training.Trajectories(still)": "zero",  # no ways of no length
    "training.Replay(moves)": "zero",  # ends stay where they are
    "end": "zero",  # the data's own time
    "models.foreign.TwoTimes(net)": "takes nine",  # six of them may be conditions
    "t": "zero",
    "label": "none, flat, an array, its list, of integers, of truth values",  # no condition, one for all, or a row each
    "neutral": "none",
    "y": "half, flat, an array, its list, of integers, of truth values",  # of one datum, in any numbers
    "labels": "none",
    "group": "none",
    "title": "word",
    "prior": "none",
    "classes": "zero",  # no labels
    "low": "minus, zero",
    "high": "minus, zero",
    "S_churn": "zero",
    "S_min": "zero",
    "S_max": "zero, inf",
    "S_noise": "zero",
    "gap": "zero",
    "first": "minus, zero",
    "last": "minus, zero",
    "density": "none",
    "embedding": "none",
    "base": "none",
    "images": "none",
    "validation": "none",
    "dropout": "zero",
    "p_uncond": "zero",
    "warmup": "zero",
    "weight_decay": "zero",
    "ema": "zero",  # the last weights
    "clip": "none",
    "detail": "zero",
    "threshold": "zero",
    "late": "zero",
    "parallel": "zero",
    "radius": "inf",
    "spread": "zero",
    "settle": "zero",
    "offset": "zero",
    "curvature": "minus, zero",
    "back": "zero",  # no fresh noise
    "whole": "zero",
    "up": "zero",
    "gamma": "zero",
    "weight": "zero",
    "rounds": "zero",
    "flips": "zero",
    "fold": "zero",
    "epsilon": "zero",
    "r1": "zero",
    "beta": "zero",
    "free": "zero",
    "sigma_0": "zero",
    "rtol": "zero",
    "b": "minus, zero",
    "k": "minus, zero",
    "mean": "minus, zero, none, half",
    "tolerance": "none",
    "steps": "none",  # as many as are usual
    "likelihood.Dequantiser(couplings)": "zero",  # noise of each number by itself
    "samplers.EvenError(power)": "zero",  # steps even in log(sigma / alpha)
    "simulate(x)": OTHER_SHAPE,
    "Empirical(data)": OTHER_SHAPE,
    "GaussianMixture(means)": "another column, an array, its list",
    "GaussianMixture(weights)": "an array, its list",
    "GaussianMixture(covariances)": "an array, its list",
    "moments_of(data)": OTHER_SHAPE + ", of integers, of truth values",
    "data.Source(data)": OTHER_SHAPE,
    "training.Training(data)": OTHER_SHAPE,
    "training.Validation(data)": "word, list, without rows, another column, another axis, flat, with NaN, with infinity, "
    "of integers, of truth values, complex numbers, an array, its list",  # read when the training begins
    "fit(schedule)": "class",
    "baselines.active_units(codes)": "another column",
    "baselines.fgsm(label)": "of integers",
    "baselines.robustness(label)": "of integers",
    "baselines.traversal(z)": "another column",
    "baselines.traversal(dim)": "minus, zero",
    "baselines.traversal(values)": "another column",
    "baselines.Marginals(masses)": "another axis",
    "baselines.Stability(x)": OTHER_SHAPE,
    "data.File(path)": "word",
    "data.File(md5)": "word",
    "data.File(content_md5)": "word",
    "data.Images(x)": "another column",
    "data.from_arrays(label_names)": "word",
    "data.gaussian_grid(spacing)": "zero",
    "data.gaussian_ring(radius)": "zero",
    "data.save_pngs(images)": "another column",
    "guidance.measurements.QuantisedNoise(offset)": "minus",
    "guidance.measurements.Mask(mask)": "of truth values, its list",
    "guidance.measurements.mixture_posterior(y)": "another axis",
    "guidance.measurements.posterior_moments(y)": "without rows, another column, another axis",  # read number by number
    "metrics.FeatureMoments(extractor)": "word",
    "metrics.FeatureMoments(hash)": "word",
    "metrics.FeatureNet(name)": "word",
    "metrics.KernelDensity(samples)": OTHER_SHAPE,
    "data.CategoryColumn(levels)": "list",  # anything may be a category
    "data.CountColumn(at_least)": "minus, zero",
    "metrics.effective_share(log_weights)": OTHER_SHAPE,
    "nets.Convolutional(depth)": "zero",
    "nets.Perceptron(depth)": "zero",
    "plots.animation(path)": "another axis",
    "plots.images(x)": "another column",
    "plots.scatter(x)": "another column",
    "plots.trajectories(path)": OTHER_SHAPE,
    "plots.weights(log_weights)": OTHER_SHAPE,
    "GeometricBrownianMotion(mu)": "minus, zero",
    "laws.coordinates.Whitening(mean)": "of integers, of truth values",
    "laws.coordinates.Whitening(W)": "of integers, of truth values",
    "processes.cosine_betas(offset)": "zero",
    "processes.grids.Angle(time)": "zero",
    "samplers.StepCosts(errors)": "without rows",
    "Density.log_prob(x)": "of integers, of truth values",
    "samplers.interpolate(weights)": "another column",
    "guidance.anneal_product(moves)": "zero",
    "guidance.Clipped(low)": "minus, zero, inf",
    "guidance.Clipped(high)": "minus, zero, inf",
}

# Public names that are not called with nonsense, and why.
STEP_PART = "a part of a step, which checks nothing: what it is given was checked at the door"
EXCEPTIONS: dict[str, str] = {
    "processes.grids.check_falling": "a check of other modules",
    "laws.kernels.as_gaussian": "a check of other modules",
    "laws.kernels.check_noise": "a check of other modules",
    "processes.grids.show_ratio": "words of an error",
    "testing.weighting_cases": "pairs laws with what they are given; `check_weighting` tries it",
    "testing.wrapper_cases": "pairs laws with what they are given; `check_wrapper` tries it",
    "pretrained": "takes one word and a flag, of which test_pretrained tries others",
    "training.weightings.weight_at": STEP_PART,
    "inference.ComposedScore": "made by `ComposedPosterior.compose`, of what that has checked",
    "Run": "the record of a training, made by `fit`",
    "baselines.Hierarchy": "made by `diffusion_hierarchy` and `HierarchicalVAE`",
    "testing.Report": "what a check returns",
    "data.mnist": "reads a published set, and takes no arguments",
    "data.fashion_mnist": "reads a published set, and takes no arguments",
    "metrics.Inception": "needs a package that is not installed",
    "training.Step": "made by `train`, for callbacks",
    "Scale": STEP_PART,
    "Diagonal": STEP_PART,
    "Matrix": STEP_PART,
    "laws.kernels.Transition": STEP_PART,
    "laws.kernels.posterior": STEP_PART,
    "laws.derivatives.exact_divergence": STEP_PART,
    "laws.derivatives.hutchinson_divergence": STEP_PART,
    "laws.derivatives.hutchinson_divergences": STEP_PART,
    "laws.derivatives.hutchpp_divergences": STEP_PART,
    "laws.derivatives.subspace": STEP_PART,
    "guidance.contrast": STEP_PART,
    "guidance.conjugate_gradients": STEP_PART,
    "guidance.minimal_residuals": STEP_PART,
    "samplers.angle": STEP_PART,
    "samplers.log_ratio": STEP_PART,
    "samplers.share": STEP_PART,
    "samplers.learned_variance": STEP_PART,
    "samplers.posterior_variance": STEP_PART,
    "samplers.transition_variance": STEP_PART,
    "training.cosine_decay": STEP_PART,
    "training.constant_rate": STEP_PART,
}
