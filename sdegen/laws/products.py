"""Products of a field's Jacobian with vectors, by forward-mode derivatives, or by reverse mode where a field has no others.

``J v`` is `value_and_slope`, and `value_and_slopes` of many vectors at once; ``Jᵀ v`` of many vectors is `value_and_slopes_back`,
by derivatives of functions, or `pulled_back`, by a recorded graph, which any network has that can be trained. `Products` takes
whichever a network has. `pull_back` returns the map ``v -> Jᵀ v`` itself.

Traces may take either mode. Those of few short vectors take reverse mode: their price is the number of calls, and forward mode
makes more of them. Fused kernels of attention have no forward-mode derivatives and no second derivatives, so that attention takes
the plain formula while a product is formed. Recurrent kernels, and functions whose derivative is written by hand, have
derivatives by reverse mode alone.
"""

from __future__ import annotations

__all__ = [
    "Field",
    "Products",
    "check_derivatives",
    "plain_attention",
    "pull_back",
    "pulled_back",
    "value_and_slope",
    "value_and_slopes",
    "value_and_slopes_back",
]

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from ..checks import check_tensor
from ..precision import uncast
from .draws import rademacher_like
from .vectors import as_vectors, dot

Field = Callable[[Tensor], Tensor]
Look = Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]

# What derivatives of functions raise where there are none. A compiled network raises an AssertionError, because its compiler does
# not take their tensors.
_FAILURES = RuntimeError, AssertionError

SEED = 271_828_182_845  # of the direction that derivatives are tried along, which no run is likely to begin from

FEW = 2**14  # numbers of all directions of states, up to which these go together whatever a network makes of them
HELD = 2**21  # numbers in the largest tensor of a network, times the directions followed at once, at most


def value_and_slope(field: Field, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``f(x)`` and the directional derivative ``(∂f/∂x) direction``, by one forward-mode derivative.

    Parameters
    ----------
    field
        ``f``, a function of states that has forward-mode derivatives.
    x
        The states, ``(B, *)``.
    direction
        The direction of the derivative, of the shape of `x`.
    """
    with _ONE_THREAD:
        value, slope = torch.func.jvp(field, (x,), (direction,))[:2]
    return value, slope


_ONE_THREAD = threading.RLock()  # PyTorch counts the levels of forward-mode derivatives for all threads together


def value_and_slopes(field: Field, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``f(x)`` and the derivatives ``(∂f/∂x) v``, ``(m, B, *)``, along directions `v` ``(m, B, *)``, all at a time.

    Parameters
    ----------
    field, x
        As for `value_and_slope`.
    directions
        The directions `v`, ``(m, B, *)``.
    """

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        return value_and_slope(field, x, direction)

    if len(directions) == 1:
        value, slope = along(directions[0])
        return value, slope[None]
    out_dims: Any = (None, 0)  # the value does not depend on the direction, so it is computed once for all
    found: tuple[Tensor, Tensor] = torch.func.vmap(along, out_dims=out_dims)(directions)
    return found


def value_and_slopes_back(field: Field, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``f(x)`` and ``(∂f/∂x)ᵀ v``, ``(m, B, *)``, for vectors `v` ``(m, B, *)``, by one backward pass for all of them.

    Parameters
    ----------
    field, x
        As for `value_and_slope`.
    vectors
        The vectors `v`.
    """
    value, pull = torch.func.vjp(field, x)[:2]
    with uncast(x):
        found: tuple[Tensor] = torch.func.vmap(pull)(vectors)
    return value, found[0]


class Products:
    """Products of a field's Jacobian with vectors: by forward mode, and from the first time that this fails by reverse mode.

    One object serves a whole run, so that what a network has no derivatives for is found out once.

    Attributes
    ----------
    forward
        Whether calls that may not take either mode take forward mode, as they do until it has failed once.
    """

    def __init__(self) -> None:
        self.forward = True
        self._called = False  # by forward mode
        self._backward: bool | None = None  # whether reverse mode does as well, once that was tried
        self._width = 0  # numbers in the largest tensor that the field makes of a state, once it is known

    def __call__(self, field: Field, x: Tensor, directions: Tensor, either: bool = False) -> tuple[Tensor, Tensor]:
        """Return ``f(x)`` and ``J v``, or ``Jᵀ v`` in reverse mode, ``(m, B, *)``, with the Jacobian `J` of a field.

        Parameters
        ----------
        field
            Maps ``(B, *)`` to the same shape.
        x
            The states, ``(B, *)``.
        directions
            The vectors `v`, ``(m, B, *)``.
        either
            Whether ``Jᵀ v`` will do for ``J v``, as where the product is multiplied by `v` itself: ``vᵀ J v = vᵀ Jᵀ v``.
        """
        few = directions.numel() <= FEW and not torch.is_grad_enabled()
        with plain_attention():
            if self.forward:
                try:
                    if either and few and self._take_back(field, x, directions):
                        return value_and_slopes_back(field, x, directions)
                    self._called = True
                    return value_and_slopes(field, x, directions)
                except torch.OutOfMemoryError:
                    raise
                except _FAILURES:  # NotImplementedError too; what is wrong with the field itself comes up again
                    self.forward = False
            return pulled_back(field, x, directions)

    def _take_back(self, field: Field, x: Tensor, v: Tensor) -> bool:
        """Tell whether ``vᵀ J v`` is to be taken by reverse mode: if at the second call it has the value of forward mode.

        What a network computes under ``no_grad`` has derivatives by forward mode alone. A single call is not worth the trial.
        """
        if self._called and self._backward is None:
            ahead = dot(v, value_and_slopes(field, x, v)[1], axes=2)
            try:
                back = dot(v, value_and_slopes_back(field, x, v)[1], axes=2)
            except _FAILURES:
                self._backward = False
            else:
                rounding = 100 * torch.finfo(x.dtype).eps * v.square().sum()
                self._backward = bool((ahead - back).norm() <= 1e-3 * ahead.norm() + rounding)
        return bool(self._backward)

    def traces(self, field: Field, x: Tensor, m: int, directions: Callable[[slice], Tensor]) -> tuple[Tensor, Tensor]:
        """Return ``f(x)`` and ``vᵀ J v``, ``(m, B)``, in memory that does not grow with the number `m` of vectors.

        Parameters
        ----------
        field, x
            As for a call.
        m
            How many vectors.
        directions
            Returns the vectors of a slice, ``(·, B, *)``.
        """
        size = self._together(field, x, m)
        traces = []
        for start in range(0, m, size):
            v = directions(slice(start, min(m, start + size)))
            value, products = self(field, x, v, either=True)
            traces.append(dot(v, products, axes=2))
        return value, torch.cat(traces)

    def _together(self, field: Field, x: Tensor, m: int) -> int:
        """Return how many of `m` directions are followed at once: as many as let no tensor have more than `HELD` numbers."""
        if m == 1 or m * x.numel() <= FEW:
            return m
        if not self._width:
            with plain_attention(), torch.no_grad(), _Largest() as largest:
                field(x)
            self._width = max(largest.numbers, x.numel()) // max(1, len(x))
        return max(1, min(m, HELD // (len(x) * self._width)))


class _Largest(TorchDispatchMode):
    """Keeps the number of numbers in the largest tensor that is computed within a ``with`` block; views hold none."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and not func.is_view:
            self.numbers = max(self.numbers, made.numel())
        return made


def check_derivatives(field: Field, x: Tensor, dtype: torch.dtype) -> None:
    """Refuse a field whose derivatives are not those of its values, as of a network that detaches its input or leaves torch.

    Derivatives along one direction are compared with differences of values. Where differences over three steps disagree, as by
    rounding, or at a kink, nothing is known, and nothing refused.

    Parameters
    ----------
    field
        Maps ``(B, *)`` to the same shape.
    x
        The states, ``(B, *)``.
    dtype
        The dtype in which the field is computed; its rounding sets the steps.

    Raises
    ------
    ValueError
        If derivatives and differences of values disagree by more than a tenth.
    """
    v = rademacher_like(x, torch.Generator().manual_seed(SEED))
    h = torch.finfo(dtype).eps ** (1 / 3) * x.square().mean().sqrt()

    def steepness(step: Tensor) -> Tensor:
        return dot(v, field(x + step * v) - field(x - step * v)) / (2 * step)

    with torch.no_grad():
        near, *wider = (steepness(k * h) for k in (1, 2, 4))
        value, told = Products().traces(field, x, 1, lambda part: v[None])
        lost = torch.finfo(dtype).eps * as_vectors(x.abs() + value.abs()).sum(1) / h
        sure = all((other - near).norm() <= 0.01 * near.norm() for other in wider)
        if sure and (told[0] - near).norm() > 0.1 * near.norm() + lost.norm():
            raise ValueError(
                "the model's derivatives by the state, which a divergence needs, are not those of its values: a network detaches "
                "its input, or computes outside of torch. Let derivatives through, or use sdegen.elbo, which needs none."
            )


def pulled_back(field: Field, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``f(x)`` and ``(∂f/∂x)ᵀ v``, ``(m, B, *)``, for vectors `v` ``(m, B, *)``, by one reverse-mode derivative each.

    Parameters
    ----------
    field, x
        As for `value_and_slope`.
    vectors
        The vectors `v`.

    Raises
    ------
    ValueError
        If the value has no derivatives at all.
    """

    def look(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        value = field(x)
        if not value.requires_grad:
            raise ValueError(
                "the model's answer has no derivative by the state, which a divergence needs: it is computed under no_grad, "
                "detached, or outside of torch. Let gradients through, or use sdegen.elbo, which needs none."
            )
        return value, ()

    value, _, pull = _pull_back_recorded(look, x)
    return value, torch.stack([pull(v) for v in vectors])


def pull_back(look: Look, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Field]:
    """Return the tensor that `look` returns at `x`, the other tensors that it returns, and the map ``v -> Jᵀ v`` with the
    Jacobian of the first.

    Derivatives are those of ``torch.func`` where there are any. They nest: wrappers go into each other, and into likelihoods. A
    function whose backward pass is written by hand has derivatives by a recorded graph, which go into a divergence by reverse
    mode.

    Parameters
    ----------
    look
        Returns a tensor, whose Jacobian is meant, and others that are found on the way.
    x
        The states, ``(B, *)``.
    """
    check_tensor("x", x, finite=False)
    try:
        functional: Any = torch.func.vjp(look, x, has_aux=True)
    except _FAILURES:  # what is wrong with the function itself comes up again
        return _pull_back_recorded(look, x)
    seen, pulled, besides = functional

    def pull(u: Tensor) -> Tensor:
        with uncast(u):
            product: Tensor = pulled(u)[0]
        return product

    return seen, besides, pull


def _pull_back_recorded(look: Look, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Field]:
    """Return what `pull_back` does, by the graph that is recorded of a call."""
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        at = x if x.requires_grad else x.detach().requires_grad_()
        seen, besides = look(at)

    def pull(u: Tensor) -> Tensor:
        with uncast(u):
            (found,) = torch.autograd.grad(
                seen, at, u, retain_graph=True, create_graph=recorded, materialize_grads=True
            )
        return found

    if recorded:
        return seen, besides, pull
    return seen.detach(), tuple(v.detach() for v in besides), pull


@contextmanager
def plain_attention() -> Iterator[None]:
    """Compute attention by its plain formula within a ``with`` block, which has derivatives of every kind and order."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
