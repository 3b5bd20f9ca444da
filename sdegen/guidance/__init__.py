"""Guidance: score models made of score models, which every sampler takes, and weighted particles, exact in the limit of many.

A wrapper changes the predictions of a trained model while sampling, never its weights; all readings of the changed estimate
agree. A wrapper is a module only so that samplers find the dtype, device and mode of the network inside. Train the model, then
wrap it.
"""

from .annealed import annealed_smc
from .annealing import anneal_product
from .base import CleanState, Guided, Tilted
from .classifier import ClassifierGuidance, ExactClassifier, NoisyClassifier
from .clean import Clipped, DynamicThreshold
from .conjugate_gradients import conjugate_gradients, minimal_residuals
from .contrast import Rescaled, RescaledGuidance, contrast
from .densities import anneal_density
from .dps import DPS
from .feynman_kac import corrected
from .free import Autoguidance, ClassifierFree, Extrapolated, Without
from .kalman import KalmanUpdate
from .measured import MeasurementGuidance, MomentMatching, PiGDM
from .misfit import Misfit, find_misfit
from .mixed import Mixed
from .particles import Particles
from .product import Product
from .replacement import Replacement, repaint
from .reward import tilted_smc
from .scaling import EpsilonScaling, LinearScale
from .split import decoupled_annealing, split_gibbs
from .twisted import twisted_smc
from .unnormalised import importance_sample
from .variants import APG, CFGPlusPlus, CFGZeroStar

__all__ = [
    "CleanState", "Guided", "Tilted",
    "APG", "Autoguidance", "CFGPlusPlus", "CFGZeroStar", "ClassifierFree", "Extrapolated", "Mixed", "Product",
    "Rescaled", "RescaledGuidance", "Without", "contrast",
    "ClassifierGuidance", "ExactClassifier", "NoisyClassifier",
    "DPS", "KalmanUpdate", "MeasurementGuidance", "MomentMatching", "PiGDM", "Replacement", "conjugate_gradients",
    "corrected", "minimal_residuals", "repaint", "Particles", "tilted_smc", "twisted_smc", "anneal_density", "anneal_product",
    "annealed_smc", "decoupled_annealing", "split_gibbs", "importance_sample",
    "Misfit", "find_misfit",
    "Clipped", "DynamicThreshold", "EpsilonScaling", "LinearScale",
]  # fmt: skip
