"""Forward processes: SDEs that turn data into noise, their closed forms, time grids and laws of training times, and a zoo
of known ones.
"""

from . import grids, times
from .base import SDE, Flow, Reverse
from .blurring import Blurring
from .circle import CircularBrownianMotion
from .cld import CLD
from .coordinates import CoordinateScheduleSDE, CoordinateSDE
from .double_well import DoubleWell, Stationary
from .dynamics import Dynamics
from .jacobi import Jacobi
from .known import KnownSDE
from .lamperti import Lamperti, lamperti
from .learned import LearnedSchedule, LearnedSDE
from .lifted import LiftedSDE
from .linear import LinearSDE
from .matrix import CorrelatedSDE, MatrixSDE
from .positive import CIR, GeometricBrownianMotion, SquaredBessel
from .reflected import ReflectedBrownianMotion
from .scalar import ScalarSDE, ScheduleSDE
from .simulate import simulate
from .tables import DDPM, AngleTable, constant_betas, cosine_betas, linear_betas, sigmoid_betas
from .transformed import Transformed
from .zoo import EDM, OU, VE, VP, Cosine, Rectified, SubVP

__all__ = [
    "SDE", "CoordinateSDE", "CoordinateScheduleSDE", "CorrelatedSDE", "Dynamics", "Flow", "KnownSDE", "LiftedSDE", "LinearSDE",
    "MatrixSDE", "Reverse", "ScalarSDE", "ScheduleSDE", "Transformed", "Lamperti", "lamperti",
    "simulate",
    # the zoo
    "Blurring", "CIR", "CLD", "CircularBrownianMotion", "DDPM", "EDM", "OU", "VE", "VP", "AngleTable", "Cosine", "DoubleWell",
    "GeometricBrownianMotion", "Jacobi", "LearnedSDE", "LearnedSchedule", "Rectified", "ReflectedBrownianMotion", "SquaredBessel",
    "Stationary", "SubVP",
    "constant_betas", "cosine_betas", "linear_betas", "sigmoid_betas",
    # their times
    "grids", "times",
]  # fmt: skip
