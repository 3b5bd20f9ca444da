"""Metrics of samples and densities: every metric returns an `Estimate`, a value with its standard error.

Where both densities are known, `kl`; where only samples are, `knn_kl`, `mmd`, `sliced_wasserstein` and
`classifier_test`, and `mode_shares` of a mixture; `KernelDensity` makes a density of samples; for what a process leaves
undone at its last time, `prior_gap`; and `kde_kl`, the measure of a source project, kept so that its rows can be compared.
Of posteriors, over many simulated pairs or at one observation: `find_ranks`, `find_coverage`, `find_tarp_coverage`,
`find_local_error`, `predictive_check`; of predictions by draws, `crps`; of weighted draws, `effective_share`.
Of images, through a feature network that every result names: `fid` and `fid_infinity`, `kid`, `precision_recall`,
`density_coverage`, and the `accuracy` of conditional samples. Nothing here trains a network, and nothing knows what a score
model is.
"""

from .accuracy import Accuracy, accuracy
from .calibration import (
    Coverage,
    Ranks,
    find_coverage,
    find_ranks,
    find_tarp_coverage,
)
from .estimate import Estimate
from .extraction import FeatureEstimate
from .features import FeatureNet, Inception, features
from .frechet import fid, fid_infinity, frechet_distance
from .kde import KernelDensity, kde_kl, kde_kl_once
from .kid import kid
from .kl import kl, kl_from_log_ratio, prior_gap
from .local_test import Classifier, LocalTest, QuadraticClassifier, find_local_error
from .manifold import DensityCoverage, PrecisionRecall, density_coverage, precision_recall
from .mmd import mmd
from .modes import mode_shares
from .nearest import knn_kl
from .posteriors import BatchedLaw, BatchedSampler, ConditionalLaw, ConditionalSampler
from .predictions import crps, effective_share, predictive_check
from .streaming import FeatureMoments, feature_moments
from .two_sample import ClassifierTest, classifier_test
from .wasserstein import sliced_wasserstein

__all__ = [
    "Accuracy",
    "BatchedLaw",
    "BatchedSampler",
    "Classifier",
    "ClassifierTest",
    "ConditionalLaw",
    "ConditionalSampler",
    "Coverage",
    "DensityCoverage",
    "Estimate",
    "FeatureEstimate",
    "FeatureMoments",
    "FeatureNet",
    "Inception",
    "KernelDensity",
    "LocalTest",
    "PrecisionRecall",
    "QuadraticClassifier",
    "Ranks",
    "accuracy",
    "classifier_test",
    "crps",
    "density_coverage",
    "effective_share",
    "feature_moments",
    "features",
    "fid",
    "fid_infinity",
    "find_coverage",
    "find_local_error",
    "find_ranks",
    "find_tarp_coverage",
    "frechet_distance",
    "kde_kl",
    "kde_kl_once",
    "kid",
    "kl",
    "kl_from_log_ratio",
    "knn_kl",
    "mmd",
    "mode_shares",
    "precision_recall",
    "predictive_check",
    "prior_gap",
    "sliced_wasserstein",
]
