"""Metrics of samples and densities: every metric returns an `Estimate`, a value with its standard error.

- Both densities are known: `kl`; for the KL of a process's last marginal to its prior, `prior_gap`.
- Only samples are known: `knn_kl`, `mmd`, `sliced_wasserstein`, `classifier_test`, and `mode_shares` of a mixture;
  `KernelDensity` makes a density of samples. `kde_kl` is no divergence, and is there to be compared with a published table.
- Images, through a feature network that every result names: `fid`, `fid_infinity`, `kid`, `precision_recall`,
  `density_coverage`, and the `accuracy` of conditional samples.
- Posteriors, over many simulated pairs: `find_ranks`, `find_coverage`, `find_tarp_coverage`; at one observation:
  `find_local_error`, `predictive_check`.
- Predictions by draws: `crps`. Weighted draws: `effective_share`.

Nothing here trains a network, and nothing knows what a score model is.
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
