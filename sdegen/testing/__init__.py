"""The laws that processes, models and samplers obey, for the library's own classes and for a user's."""

from .models import check_model, model_cases
from .report import EXACT, QUADRATURE, STATISTICAL, Report, Violation
from .samplers import affine_moments, check_sampler, gaussian_error, observed_order, sampled_moments
from .sde import check_sde, sde_cases

__all__ = [
    "EXACT",
    "QUADRATURE",
    "STATISTICAL",
    "Report",
    "Violation",
    "affine_moments",
    "check_model",
    "check_sampler",
    "check_sde",
    "gaussian_error",
    "model_cases",
    "observed_order",
    "sampled_moments",
    "sde_cases",
]
