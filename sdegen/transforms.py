"""What transformations of functions (``torch.func``) do to tensors: which they transform, and how to compute outside of them."""

from __future__ import annotations

__all__ = ["check_constant", "is_transformed", "is_unknown", "isolated"]

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter


def is_unknown(value: Tensor) -> bool:
    """Tell whether the numbers of a tensor cannot be read: those of a meta tensor, or of the argument of a function that is
    being transformed (``torch.func``).
    """
    return value.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(value)


@contextmanager
def isolated() -> Iterator[None]:
    """Compute within a ``with`` block as if the caller were in no transformation of functions (``torch.func``), no inference mode
    and under no default device: what is kept must bear no trace of who first asked for it.

    Raises
    ------
    RuntimeError
        If the block computes with a tensor of such a transformation, as of a closure: its derivatives would be lost.
    """
    cpu, grad = torch.device("cpu"), torch.is_grad_enabled()
    # Within either context every operation passes through Python, so each is entered where it may change anything alone.
    home = nullcontext() if torch.get_default_device() == cpu else cpu
    transform = torch._C._functorch.peek_interpreter_stack()
    watch = nullcontext() if transform is None else _Watch(transform.level())
    with torch._C._DisableFuncTorch(), torch.inference_mode(False), torch.set_grad_enabled(grad), home, watch:
        yield


class _Watch(TorchFunctionMode):
    """A context that refuses to compute with tensors that the transformations of functions around it (``torch.func``) transform.
    Within these every result is wrapped like such a tensor, also of constants; a constant has no derivative and is no batch.

    Parameters
    ----------
    level
        How many of these there are; tensors of those within the block have a higher one.
    """

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level
        # How operations are dispatched around the block, where a forward-mode derivative can be seen.
        self.around = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = func.__name__ not in _OF_SHAPE and any(map(self._transformed, tree_iter((args, kwargs))))
        if read:
            raise RuntimeError(
                "a tensor that torch.func transforms is used where what is computed is kept beyond the transformation, as a "
                "tensor in a closure of a process's coefficients is; let the process have it as an attribute "
                "(self.beta = beta), where it is seen, or differentiate by torch.autograd.grad."
            )
        return func(*args, **(kwargs or {}))

    def _transformed(self, value: Any) -> bool:
        """Tell whether a value is a tensor that a transformation around the block transforms."""
        if not isinstance(value, Tensor) or not 0 < torch._C._functorch.maybe_get_level(value) <= self.level:
            return False
        with torch._C._ForceDispatchKeyGuard(*self.around):
            tangent = _has_tangent(value)
        return tangent or _is_in_reverse_or_batch(value)


def is_transformed(value: Tensor) -> bool:
    """Tell whether a transformation of functions (``torch.func``) differentiates by a tensor, or takes it for a batch; constants,
    which it wraps alike, are not meant.
    """
    return torch._C._functorch.maybe_get_level(value) > 0 and (_has_tangent(value) or _is_in_reverse_or_batch(value))


def _has_tangent(value: Tensor) -> bool:
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(value).tangent is not None


def _is_in_reverse_or_batch(value: Tensor) -> bool:
    functorch = torch._C._functorch
    while functorch.maybe_get_level(value) > 0:
        if value.requires_grad or functorch.is_batchedtensor(value):
            return True
        value = functorch.get_unwrapped(value)
    return False


_OF_SHAPE = {"__get__", "size", "dim", "numel", "__len__", "is_floating_point", "is_complex"}  # what reads no numbers


def check_constant(name: str, value: Any) -> Any:
    """Return a value that is kept as a constant; refuse a tensor by which something is differentiated, whose derivatives would be
    lost.

    Parameters
    ----------
    name
        The argument that is checked, as its caller knows it.
    value
        What was given for it.

    Raises
    ------
    ValueError
        If it is a tensor that requires gradients where they are recorded, or that ``torch.func`` transforms.

    Examples
    --------
    >>> import torch
    >>> check_constant("std", torch.ones(2, requires_grad=True))
    Traceback (most recent call last):
    ValueError: std is a tensor whose derivatives are asked for, and is kept as a constant, which has none; give std.detach().
    """
    if isinstance(value, Tensor):
        transformed = is_transformed(value)
        if transformed or (value.requires_grad and torch.is_grad_enabled()):
            how = "take derivatives by something else, or by differences" if transformed else f"give {name}.detach()"
            raise ValueError(
                f"{name} is a tensor whose derivatives are asked for, and is kept as a constant, which has none; {how}."
            )
    return value
