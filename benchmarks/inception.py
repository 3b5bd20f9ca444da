"""Rows of the FID table by Inception v3, the network of published Fréchet distances (``--inception``)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from benchmarks.fid_images import Task, quality
from benchmarks.rows import Values
from sdegen import metrics


@dataclass
class ByInception(Task):
    """What all rows of images in colour share: they are judged by Inception v3, and their classes by the set's own network."""

    @cached_property
    def inception(self) -> Any:  # a network with a name and a hash, like the set's own
        """The network, by the file of weights that is given, or by that which is downloaded.

        Raises
        ------
        SystemExit
            If the library that has it is not installed.
        """
        try:
            return metrics.Inception(self.table.args.inception or None)
        except ImportError as error:
            raise SystemExit(str(error)) from None

    def judged(self, x: Tensor, labels: Tensor) -> Values:
        """Return the columns of images in [0, 1]: classes by the set's own network, distances by Inception v3."""
        return super().judged(x, labels) | quality(x, self.real, self.inception)
