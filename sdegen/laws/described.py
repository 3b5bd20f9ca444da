"""Modules whose state dict says what their network is asked, so that weights that were trained for something else are refused."""

from __future__ import annotations

__all__ = ["ASKED", "Described"]

import json
from typing import Any

import torch
from torch import Tensor, nn

from ..identity import constants, differing_constants

ASKED = "asked"  # the entry of a state dict that holds the description


class Described(nn.Module):
    """The base class of modules whose state dict describes what their network is asked: classes and constants in JSON, as bytes.

    Weights fit into any network of the same shape, but mean something only where the same is asked of it, such as by the process
    and the parametrisation of a score model. Weights that were trained for something else are refused.
    """

    def asked(self) -> dict[str, Any]:
        """Return the objects, by name, whose classes and constants say what the network is asked."""
        return {}

    def _described(self) -> Any:
        """Return the classes and constants of what is asked, as JSON holds them."""
        return constants(self.asked(), [*self.parameters(), *self.buffers()])

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + ASKED] = torch.tensor(list(json.dumps(self._described()).encode()), dtype=torch.uint8)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        *lists: Any,
    ) -> None:
        """Take weights out of a state dict whose description of what is asked is the model's own; a description that it lacks is
        reported as missing in a strict load.

        Raises
        ------
        ValueError
            If the network was asked something else.
        """
        kept = state_dict.pop(prefix + ASKED, None)
        if kept is None:
            missing_keys.append(prefix + ASKED)
        else:
            self._check_asked(kept, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, *lists)

    def _check_asked(self, kept: Tensor, prefix: str) -> None:
        """Refuse weights that were trained for something else than the model asks."""
        try:
            then = json.loads(bytes(kept.detach().to("cpu", torch.uint8).tolist()))
        except ValueError:
            raise ValueError(
                f"{prefix}{ASKED} of the state dict cannot be read; leave it out and load with strict=False, if the weights "
                "were trained for this model."
            ) from None
        for name, was, now in differing_constants(then, self._described()):
            raise ValueError(
                f"the weights were trained with {prefix}{name} = {was}, and the model has {now}; make the model as it was, or "
                f"leave {prefix}{ASKED} out of the state dict and load it with strict=False, if that is meant."
            )
