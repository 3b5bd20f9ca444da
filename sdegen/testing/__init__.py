"""Conformance checks: the laws that processes, models, wrappers, parametrisations, weightings and samplers must satisfy,
including the user's own.

Each kind has a module, in which every law is a function that raises `Violation`. ``check_...`` checks all of them and returns a
`Report`, and ``..._cases`` gives them to pytest one by one. `affine` has Gaussian data, on which a sampler's law is known
exactly, and `report` the tolerances and the comparison of numbers.
"""

from .affine import Response, affine_moments, gaussian_data, gaussian_error, response, sampled_moments
from .flow_maps import check_flow_map, flow_map_cases
from .models import check_model, model_cases
from .parametrizations import check_parametrization, parametrization_cases
from .report import EXACT, QUADRATURE, STATISTICAL, Report, Violation
from .samplers import check_sampler, observed_order, sampler_cases
from .sde import check_sde, sde_cases
from .weightings import check_times, check_weighting, times_cases, weighting_cases
from .wrappers import check_wrapper, wrapper_cases

__all__ = [
    "EXACT",
    "QUADRATURE",
    "STATISTICAL",
    "Report",
    "Response",
    "Violation",
    "affine_moments",
    "check_flow_map",
    "check_model",
    "check_parametrization",
    "check_sampler",
    "check_sde",
    "check_times",
    "check_weighting",
    "check_wrapper",
    "flow_map_cases",
    "gaussian_data",
    "gaussian_error",
    "model_cases",
    "observed_order",
    "parametrization_cases",
    "response",
    "sampled_moments",
    "sampler_cases",
    "sde_cases",
    "times_cases",
    "weighting_cases",
    "wrapper_cases",
]
