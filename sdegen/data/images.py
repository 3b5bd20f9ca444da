"""Sets of images as bytes: `Images`, train and test parts (`Split`), and images scaled to floating point (`Scaled`)."""

from __future__ import annotations

__all__ = ["Images", "Scaled", "Split"]

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count
from ..laws.mixtures import Moments, moments_of
from ..show import show_picture
from .moments import join_moments
from .scaling import Dequantisation, Scaling
from .sheet import enlarge, png, sheet

SHOWN = 32  # images in the picture of a notebook, in two rows


@check_arguments
@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """A set of images as bytes, with labels and groups where they are known.

    Parameters
    ----------
    x
        The images, ``(N, C, H, W)``, uint8.
    labels
        Labels ``(N,)``, int64, from 0; None where there are none.
    label_names
        What the labels 0, 1, … stand for.
    group
        Integers ``(N,)``: images of one group, such as near-copies, stay together in a split. None: each image is a group.
    levels
        Number of values that a byte can take: 0 … levels − 1.

    Raises
    ------
    TypeError
        If a tensor has another dtype.
    ValueError
        If shapes do not match, there is no image, or a label has no name.

    Examples
    --------
    >>> images = Images(torch.arange(40, dtype=torch.uint8).reshape(10, 1, 2, 2), torch.arange(10) % 2, ("even", "odd"))
    >>> images
    Images(10 of 1×2×2, 2 classes)
    >>> images[images.labels == 1].x[:, 0, 0, 0]
    tensor([ 4, 12, 20, 28, 36], dtype=torch.uint8)
    >>> images.split(0.8, seed=0)
    Split(train=Images(8 of 1×2×2, 2 classes), test=Images(2 of 1×2×2, 2 classes))
    >>> images.scaled(0, 1).rows()[0, 0]
    tensor([[0.0000, 0.0039],
            [0.0078, 0.0118]])
    """

    x: Tensor
    labels: Tensor | None = None
    label_names: tuple[str, ...] = ()
    group: Tensor | None = None
    levels: int = 256

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8:
            raise TypeError(f"x has dtype {self.x.dtype}; images are bytes, torch.uint8: see Scaling.inverse.")
        if self.x.ndim != 4 or len(self.x) == 0:
            raise ValueError(
                f"x has shape {tuple(self.x.shape)}; expected (N, C, H, W) with at least one image; signals and volumes "
                "go to `fit` as a tensor."
            )
        check_count("levels", self.levels, at_least=2)
        if self.levels < 256 and self.x.max() >= self.levels:
            raise ValueError(f"x holds {self.x.max()}; with levels = {self.levels} its largest is {self.levels - 1}.")
        for name, value in (("labels", self.labels), ("group", self.group)):
            if value is None:
                continue
            if value.is_floating_point() or value.dtype == torch.bool:
                raise TypeError(f"{name} has dtype {value.dtype}; give whole numbers.")
            if value.shape != self.x.shape[:1]:
                raise ValueError(f"{name} has shape {tuple(value.shape)}; expected ({len(self.x)},), one per image.")
        if self.labels is not None and not 0 <= self.labels.min() <= self.labels.max() < len(self.label_names):
            raise ValueError(
                f"labels run from {self.labels.min()} to {self.labels.max()} for {len(self.label_names)} label_names; "
                "give one name for each of 0, 1, …"
            )

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.x.shape[1:]))
        return f"Images({len(self)} of {shape}{f', {len(self.label_names)} classes' if self.label_names else ''})"

    def _repr_html_(self) -> str:
        few = self.x[:SHOWN, : 1 if self.x.shape[1] < 3 else 3] / (self.levels - 1)
        return show_picture(repr(self), png(enlarge(sheet(few, min(len(few), SHOWN // 2)), 120)))

    def __getitem__(self, rows: Any) -> Images:
        """Return a part of the set: `rows` is a slice, a mask ``(N,)`` or indices ``(n,)``."""
        part = [None if v is None else v[rows] for v in (self.labels, self.group)]
        return Images(self.x[rows], part[0], self.label_names, part[1], self.levels)

    @property
    def cond(self) -> dict[str, Tensor]:
        """The keyword conditions of training: ``label``, if the images have labels."""
        return {} if self.labels is None else {"label": self.labels}

    def counts(self) -> Tensor:
        """Count the images of each class, ``(K,)``; a ValueError if there are no labels."""
        if self.labels is None:
            raise ValueError("these images have no labels to count; make them with Images(x, labels).")
        return self.labels.bincount(minlength=len(self.label_names))

    def split(self, fraction: float = 0.8, seed: int = 0) -> Split:
        """Split the set at random in two, the first part with `fraction` of the images, or of the groups where there are
        groups.

        Parameters
        ----------
        fraction
            Share of the first part, between 0 and 1.
        seed
            Seed of the random split: one seed, one split.

        Raises
        ------
        ValueError
            If a part would be empty.
        """
        group = torch.arange(len(self)) if self.group is None else self.group.unique(return_inverse=True)[1]
        n = int(group.max()) + 1
        first = round(fraction * n)
        if not 0 < first < n:
            raise ValueError(
                f"fraction = {fraction} of {n} {'images' if self.group is None else 'groups'} leaves a part of the split "
                "empty; choose one between 0 and 1, or give more."
            )
        in_first = torch.zeros(n, dtype=torch.bool)
        in_first[torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:first]] = True
        return Split(self[in_first[group]], self[~in_first[group]])

    def without_labels(self) -> Images:
        """Return the images alone, for models that take no condition."""
        return Images(self.x, group=self.group, levels=self.levels)

    def scaled(self, low: float = -1.0, high: float = 1.0) -> Scaled:
        """Return the images as numbers from `low` to `high` (`Scaling`), ready for `sdegen.fit`."""
        return Scaled(self, Scaling(low, high, self.levels))

    def dequantised(self, low: float = -1.0, high: float = 1.0) -> Scaled:
        """Return the images as numbers in ``[low, high)``, with uniform noise that is drawn anew for every batch
        (`Dequantisation`).
        """
        return Scaled(self, Dequantisation(low, high, self.levels))


class Split(NamedTuple):
    """A data set split in two: images to train on and images to test on.

    Attributes
    ----------
    train
        The images to learn from.
    test
        The images to judge by.
    """

    train: Images
    test: Images

    def joined(self) -> Images:
        """Return all images of both parts, `train` first, so that they can be split anew.

        Raises
        ------
        ValueError
            If the parts differ in having labels or groups, in the names of labels, or in levels.
        """
        for name in ("label_names", "levels", "labels", "group"):
            own, other = (getattr(part, name) for part in self)
            if (own is None) != (other is None) or (not isinstance(own, Tensor) and own != other):
                raise ValueError(f"the parts of the split differ in {name}; give both the same.")
        labels, group = (
            None if own is None or other is None else torch.cat([own, other])
            for own, other in ((self.train.labels, self.test.labels), (self.train.group, self.test.group))
        )
        x = torch.cat([self.train.x, self.test.x])
        return Images(x, labels, self.train.label_names, group, self.train.levels)


@check_arguments
@dataclass(frozen=True, eq=False)
class Scaled:
    """Images that are scaled to floating point batch by batch, ready for `sdegen.fit`; in memory they stay bytes.

    Parameters
    ----------
    images
        The images as bytes.
    scaling
        A `Scaling` or `Dequantisation` with the levels of the images; ``scaling.inverse(x, clip=True)`` turns samples into
        bytes.
    flips
        The probability that an image is seen in a mirror, left to right, each time it is drawn (`flipped`).

    Raises
    ------
    ValueError
        If levels differ, or `flips` is no probability.
    """

    images: Images
    scaling: Scaling
    flips: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.flips <= 1:
            raise ValueError(f"flips = {self.flips}; it must be a probability, from 0 to 1.")
        if self.images.levels != self.scaling.levels:
            raise ValueError(
                f"the images have {self.images.levels} levels, the scaling {self.scaling.levels}; give both the same levels."
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Any) -> Scaled:
        """Return a part of the set, scaled alike: `rows` is a slice, a mask ``(N,)`` or indices ``(n,)``."""
        return replace(self, images=self.images[rows])

    def rows(
        self,
        which: Any = slice(None),
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return images as floating-point numbers ``(n, C, H, W)``: all of them, or those of a slice, a mask or indices."""
        x = self.scaling(self.images.x[which], dtype, generator)
        if not self.flips:
            return x
        mirrored = torch.rand(len(x), dtype=torch.float64, generator=generator) < self.flips
        return torch.where(mirrored.to(x.device).reshape(-1, 1, 1, 1), x.flip(-1), x)

    def flipped(self, p: float = 0.5) -> Scaled:
        """Return the same images, each mirrored left to right with probability `p` each time it is drawn.

        In training every pass mirrors other images. For metrics take the images as they are.

        Parameters
        ----------
        p
            The probability.

        Raises
        ------
        ValueError
            If `p` is no probability.
        """
        return replace(self, flips=p)

    def moments(self) -> Moments:
        """Return the mean and covariance of the scaled images, dequantisation noise and flips included; above 64
        dimensions the variances alone.
        """
        # Part by part, because a whole set in float64 would take several times the room of all else.
        mean, covariance = join_moments((len(part), moments_of(part)) for part in self.images.x.split(4096))
        if self.flips:
            mirrored = torch.arange(mean.numel()).reshape(mean.shape).flip(-1).flatten()  # where each pixel comes from
            other = covariance[mirrored][:, mirrored] if covariance.ndim == 2 else covariance[mirrored]
            parts = (1 - self.flips, Moments(mean, covariance)), (self.flips, Moments(mean.flip(-1), other))
            mean, covariance = join_moments(parts)
        full = covariance.ndim == 2
        shift, variance = self.scaling.noise
        covariance += variance * (torch.eye(len(covariance)).to(covariance) if full else 1)
        return Moments(self.scaling.low + self.scaling.step * (mean + shift), self.scaling.step**2 * covariance)
