"""Inference from simulations: posteriors and likelihoods learned from pairs of parameters and simulated data."""

from .composition import ComposedPosterior, ComposedScore
from .conditional import ConditionalDensity
from .fits import fit_likelihood, fit_posterior
from .guess import LinearGuess
from .pairs import Pairs, draw_pairs
from .posterior import AmortisedPosterior
from .truncation import Truncated

__all__ = [
    "AmortisedPosterior", "ComposedScore", "ComposedPosterior", "ConditionalDensity", "LinearGuess", "Pairs", "Truncated",
    "draw_pairs", "fit_likelihood", "fit_posterior",
]  # fmt: skip
