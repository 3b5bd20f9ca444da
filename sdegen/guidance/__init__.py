from .base import CleanState, Guided, Tilted
from .classifier import ClassifierGuidance, ExactClassifier, NoisyClassifier
from .clean import Clipped, DynamicThreshold
from .free import Autoguidance, ClassifierFree, Extrapolated, RescaledGuidance, Without
from .measured import DPS, Measured, MomentMatching, PiGDM, Replacement, conjugate_gradients, repaint
from .scaling import EpsilonScaling, LinearScale

__all__ = [
    "CleanState", "Guided", "Tilted",
    "Autoguidance", "ClassifierFree", "Extrapolated", "RescaledGuidance", "Without",
    "ClassifierGuidance", "ExactClassifier", "NoisyClassifier",
    "DPS", "Measured", "MomentMatching", "PiGDM", "Replacement", "conjugate_gradients", "repaint",
    "Clipped", "DynamicThreshold", "EpsilonScaling", "LinearScale",
]  # fmt: skip
