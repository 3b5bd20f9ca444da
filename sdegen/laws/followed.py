"""What follows from a law, computed again once the law has been changed in place: `Followed`."""

from __future__ import annotations

__all__ = ["Followed"]

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ..answers import versions
from ..fixed import isolated_for, tensors_of

T = TypeVar("T")


class Followed(Generic[T]):
    """A result that is computed of an object when it is first asked for, and again after tensors of the object were changed in
    place.

    A call returns it. A copy computes it anew.

    Parameters
    ----------
    compute
        Computes the result from the object.
    thing
        The object, with tensors as attributes.
    more
        Further arguments of `compute`.

    Examples
    --------
    >>> import torch
    >>> from types import SimpleNamespace
    >>> law = SimpleNamespace(means=torch.ones(2))
    >>> total = Followed(lambda law: law.means.sum().item(), law)
    >>> first = total()
    >>> law.means[0] = 5.0
    >>> first, total()
    (2.0, 6.0)
    """

    def __init__(self, compute: Callable[..., T], thing: Any, *more: Any) -> None:
        self.compute, self.thing, self.more = compute, thing, more
        self._kept: tuple[list[int], T] | None = None

    def __call__(self) -> T:
        """Return the result, of the tensors as they are now."""
        now = versions(*tensors_of(self.thing))  # none where changes are not counted
        if self._kept is None or (now and self._kept[0] != now):
            with isolated_for(self.thing):
                self._kept = (now, self.compute(self.thing, *self.more))
        return self._kept[1]

    def __reduce__(self) -> Any:
        """Return what a copy is made of, without the result: the tensors of a copy count their changes from 0."""
        return type(self), (self.compute, self.thing, *self.more)
