"""Models whose state dict holds, besides the weights, the moments and units of their data and what their network is asked."""

from __future__ import annotations

__all__ = ["Calibrated", "check_moments"]

from typing import Any

import torch

from ..dense import check_held
from .described import Described
from .mixtures import Moments
from .profiles import Profile, unmoved
from .units import Units

_KNOWN = ("moments.mean", "moments.covariance", "units.mean", "units.std")  # entries of every state dict
# Entries where a profile was measured; older files lack some.
_MEASURED = {name: f"profile.{name}" for name in Profile._fields}
_EMPTY = torch.empty(0, dtype=torch.float64)  # stands for what is not known


def check_moments(moments: Moments) -> Moments:
    """Check that moments are a mean and a covariance that fit each other, by their shapes alone, and return them.

    Raises
    ------
    TypeError
        If `moments` are no `Moments` of tensors, or hold no numbers.
    ValueError
        If the shapes do not fit.
    """
    if not isinstance(moments, Moments) or not all(isinstance(part, torch.Tensor) for part in moments):
        raise TypeError(f"moments is {moments!r}; give sdegen.Moments(mean, covariance), both of them tensors.")
    for part in moments:
        check_held("a part of the moments", part)
    mean, sides = moments.mean, set(moments.covariance.shape)
    numbers = {mean.numel()} | ({mean[0].numel()} if mean.ndim > 1 else set())  # the latter with a row for each sample
    if moments.covariance.ndim not in (1, 2) or len(sides) != 1 or not sides <= numbers:
        d = mean.numel()
        raise ValueError(
            f"the covariance of the moments has shape {tuple(moments.covariance.shape)} and their mean {tuple(mean.shape)}; give "
            f"variances ({d},) or a covariance ({d}, {d}), over the numbers of a datum."
        )
    return moments


class Calibrated(Described):
    """The base class of models whose state dict holds, besides the weights, the moments and units of the data and what the
    network is asked: without these, weights mean nothing.

    Moments and units are float64 on the CPU, whatever the model is moved to, and empty where they are not known. The first
    training gives a model units in which the data have mean 0 and standard deviation 1 (`measure`), so that what is learned is
    the same for data of every scale. What the network is asked (`asked`), such as the process and what is predicted, is
    described in JSON, as bytes; weights that were trained for something else are refused.

    Attributes
    ----------
    moments
        Mean and covariance of the data, in their own units; None where they are not known.
    profile
        At which noise levels samples are decided; None where that was not measured.
    """

    moments: Moments | None
    profile: Profile | None = None
    _given_units: Units | None = None

    @property
    def given_units(self) -> Units | None:
        """The units that data have in the model; None where no units were given, and data keep their own."""
        return self._given_units

    @given_units.setter
    def given_units(self, units: Units | None) -> None:
        self._given_units = units

    def measure(self, moments: Moments) -> None:
        """Take the data in units of their spread (`Moments.units`), unless units were given, or moments were known before: then
        the weights may have been trained in the data's own units.

        Parameters
        ----------
        moments
            Moments of the data, in their own units.
        """
        if self.moments is None and self.given_units is None:
            self.given_units = moments.units()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        units = (_EMPTY, _EMPTY) if self.given_units is None else (self.given_units.mean, self.given_units.std)
        moments = (_EMPTY, _EMPTY) if self.moments is None else self.moments
        destination |= {prefix + name: value for name, value in zip(_KNOWN, (*moments, *units), strict=True)}
        if self.profile is not None:
            destination |= {prefix + name: value for name, value in zip(_MEASURED.values(), self.profile, strict=True)}

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        *lists: Any,
    ) -> None:
        """Take moments, units and profile out of a state dict. Moments and units that it lacks stay as they are, and a strict
        load reports them as missing.

        Raises
        ------
        ValueError
            If the network was asked something else.
        """
        found = {name: state_dict.pop(prefix + name, None) for name in _KNOWN}
        measured = {name: state_dict.pop(prefix + key, None) for name, key in _MEASURED.items()}
        missing_keys += [prefix + name for name, value in found.items() if value is None]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, *lists)
        kept = _own_copies(found)
        if "moments.mean" in kept and "moments.covariance" in kept:
            known = Moments(kept["moments.mean"], kept["moments.covariance"])
            self.moments = known if known.covariance.numel() else None
        profile = {"stops": unmoved()} | _own_copies(measured)  # files from before stops were moved have none
        self.profile = Profile(**profile) if len(profile) == len(_MEASURED) else None
        if "units.mean" in kept and "units.std" in kept:
            given = kept["units.std"].numel() > 0
            self.given_units = Units(kept["units.mean"], kept["units.std"]) if given else None


def _own_copies(entries: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return copies of the entries of a state dict that are there, float64 on the CPU."""
    return {name: value.detach().double().cpu().clone() for name, value in entries.items() if value is not None}
