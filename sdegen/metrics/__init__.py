"""How far samples or densities are from the truth: every metric is an `Estimate`, a value with its standard error.

Where both densities are known, `kl`; where only samples are, `knn_kl`, `mmd`, `sliced_wasserstein` and
`classifier_test`; for what a process leaves undone at its last time, `prior_gap`; and `kde_kl`, the measure of a source
project, kept so that its rows can be compared. Nothing here trains a network, and nothing knows what a score model is.
"""

from .estimate import Estimate
from .kde import kde_kl, kde_kl_once
from .kl import kl, kl_from_log_ratio, prior_gap
from .mmd import mmd
from .nearest import knn_kl
from .two_sample import ClassifierTest, classifier_test
from .wasserstein import sliced_wasserstein

__all__ = [
    "ClassifierTest",
    "Estimate",
    "classifier_test",
    "kde_kl",
    "kde_kl_once",
    "kl",
    "kl_from_log_ratio",
    "knn_kl",
    "mmd",
    "prior_gap",
    "sliced_wasserstein",
]
