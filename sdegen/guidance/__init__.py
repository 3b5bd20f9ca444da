"""Guidance: models made of models. Each is a `ScoreModel` again, so every sampler takes it as it is.

A wrapper changes what a trained model says while sampling, never its weights; all readings of the changed estimate agree.
It is a module only so that samplers find the dtype, device and mode of the network inside. Train the model, then wrap it.
"""

from .base import CleanState, Guided
from .clean import Clipped, DynamicThreshold
from .free import ClassifierFree, Extrapolated, RescaledGuidance
from .scaling import EpsilonScaling, LinearScale

__all__ = [
    "CleanState", "Guided",
    "ClassifierFree", "Extrapolated", "RescaledGuidance",
    "Clipped", "DynamicThreshold", "EpsilonScaling", "LinearScale",
]  # fmt: skip
