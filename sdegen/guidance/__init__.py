from .base import CleanState, Guided, Tilted
from .classifier import ClassifierGuidance, ExactClassifier, NoisyClassifier
from .clean import Clipped, DynamicThreshold
from .free import Autoguidance, ClassifierFree, Extrapolated, Rescaled, RescaledGuidance, Without, contrast
from .measured import DPS, Measured, MomentMatching, PiGDM, Replacement, conjugate_gradients, repaint
from .scaling import EpsilonScaling, LinearScale
from .twisted import Particles, twisted_smc

__all__ = [
    "CleanState", "Guided", "Tilted",
    "Autoguidance", "ClassifierFree", "Extrapolated", "Rescaled", "RescaledGuidance", "Without", "contrast",
    "ClassifierGuidance", "ExactClassifier", "NoisyClassifier",
    "DPS", "Measured", "MomentMatching", "PiGDM", "Replacement", "conjugate_gradients", "repaint", "Particles", "twisted_smc",
    "Clipped", "DynamicThreshold", "EpsilonScaling", "LinearScale",
]  # fmt: skip
