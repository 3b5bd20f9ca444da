"""Pictures of laws and states, of training runs, and of how well posteriors are calibrated. Each draws on an axis of matplotlib,
given or new, and returns it; `marginals` returns a figure of many axes.
"""

from ..animation import animation
from .axes import drawn
from .calibration import coverage, ranks
from .marginals import marginals
from .predictions import local_error, predictions, replicates, weights
from .states import density, images, scatter, trajectories
from .training import Album, Record, losses, players

__all__ = [
    "Album",
    "Record",
    "animation",
    "coverage",
    "density",
    "drawn",
    "images",
    "local_error",
    "losses",
    "marginals",
    "players",
    "predictions",
    "ranks",
    "replicates",
    "scatter",
    "trajectories",
    "weights",
]
