"""Forward processes and their times: what an SDE gives, what is derived from it, and the zoo."""

from . import grids, times
from .base import SDE, Dynamics, Flow, Reverse
from .double_well import DoubleWell, Stationary
from .learned import LearnedSchedule, LearnedSDE
from .linear import LinearSDE
from .matrix import MatrixSDE
from .scalar import ScalarSDE, ScheduleSDE
from .simulate import simulate
from .zoo import (
    CLD,
    DDPM,
    EDM,
    OU,
    VE,
    VP,
    AngleTable,
    Cosine,
    Rectified,
    SubVP,
    constant_betas,
    cosine_betas,
    linear_betas,
    sigmoid_betas,
)

__all__ = [
    "SDE", "Dynamics", "Flow", "LinearSDE", "MatrixSDE", "Reverse", "ScalarSDE", "ScheduleSDE", "simulate",
    # the zoo
    "CLD", "DDPM", "EDM", "OU", "VE", "VP", "AngleTable", "Cosine", "DoubleWell", "LearnedSDE", "LearnedSchedule", "Rectified",
    "Stationary", "SubVP",
    "constant_betas", "cosine_betas", "linear_betas", "sigmoid_betas",
    # their times
    "grids", "times",
]  # fmt: skip
