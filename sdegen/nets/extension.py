"""Trained networks that are given further conditions: `add_conditions`."""

from __future__ import annotations

__all__ = ["add_conditions"]

import inspect
from collections.abc import Mapping
from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

from ..arguments import check_arguments
from ..checks import check_kind
from ..conditions import Condition
from ..description import keeps, kept
from ..show import with_article
from .conditioning import Conditioning

Net = TypeVar("Net", bound=nn.Module)


@check_arguments
def add_conditions(net: Net, conditions: Mapping[str, Condition]) -> Net:
    """Make a network like the given one that takes further conditions, and return it; until it is trained its answers are those
    of the given network, whatever the new conditions.

    The weights of the given network are copied, and the weights by which the new conditions enter start at 0. So training goes on
    from what the network has learned, and need only learn what the conditions add, as in L. Zhang, A. Rao, M. Agrawala, *Adding
    conditional control to text-to-image diffusion models*, 2023, arXiv:2302.05543.

    Parameters
    ----------
    net
        A network that takes `conditions`, such as that of a shipped model, ``sdegen.pretrained("mnist").net``; it stays as it is.
    conditions
        The new conditions by name.

    Raises
    ------
    TypeError
        If the constructor of the network takes no `conditions`, or a condition of a class of your own enters by a module without
        a method ``silence()``, which sets to 0 what it adds.
    ValueError
        If the network has a condition of one of the names already.

    Examples
    --------
    >>> import torch
    >>> from sdegen import nets
    >>> net = nets.UNet(1, (32,), classes=10)
    >>> more = nets.add_conditions(net, {"coarse": nets.Fields(1)})
    >>> x, level, coarse = torch.randn(2, 1, 8, 8), torch.zeros(2), torch.randn(2, 1, 8, 8)
    >>> torch.equal(more(x, level, label=3, coarse=coarse), net(x, level, label=3))
    True
    """
    check_kind("net", net, nn.Module, "a network, such as nets.UNet(1)")
    names = [name for name in inspect.signature(type(net)).parameters if keeps(net, name)]
    if "conditions" not in names:
        raise TypeError(
            f"net is {with_article(type(net).__name__)}, which keeps no argument `conditions`; give a network that does, or "
            f"make one like it whose forward takes {' and '.join(conditions)} by keyword, and load the weights that both have."
        )
    arguments = {name: deepcopy(kept(net, name)) for name in names}
    own = arguments["conditions"] or {}
    if both := own.keys() & conditions.keys():
        raise ValueError(f"conditions has {min(both)!r}, which the network has already; give another name.")
    like = next(net.parameters())
    more = type(net)(**arguments | {"conditions": {**own, **conditions}}).to(like.device, like.dtype)
    for part in more.modules():
        if isinstance(part, Conditioning):
            part.silence(conditions)
    weights = net.state_dict()
    with torch.no_grad():
        for name, value in more.state_dict().items():
            if name in weights:  # a first layer has further columns for channels of new conditions, behind the others
                value.zero_()[tuple(slice(n) for n in weights[name].shape)] = weights[name]
    learns = {name: p.requires_grad for name, p in net.named_parameters()}
    for name, p in more.named_parameters():
        p.requires_grad_(learns.get(name, True))
    return more.train(net.training)
