"""One-line representations of objects: the call that makes the object, with tensors as shapes and networks as numbers of
weights.

``__repr__ = show_call`` in the body of a class is enough if the arguments of the constructor are kept as attributes of the same
names. Arguments that are not kept are not shown.
"""

from __future__ import annotations

__all__ = ["show_call", "show_picture", "show_value", "with_article"]

import base64
import html
import inspect
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FEW = 4  # numbers of a tensor, or parts of a list, that are shown themselves
LONG = 160  # letters of one argument
PLAIN = (bool, int, float, str, list, tuple, dict, type(None))


def show_call(thing: Any) -> str:
    """Return the call that makes an object, as text for its `repr`: the class, and the arguments that differ from the defaults.

    For a named tuple, which is a result, every field is shown.

    Parameters
    ----------
    thing
        An object whose class keeps the arguments as attributes.

    Examples
    --------
    >>> import sdegen
    >>> sdegen.VP(), sdegen.grids.Angle()
    (VP(beta_min=0.1, beta_max=20), Angle(scale=1, power=1, time=0))
    >>> sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP())
    Model(MLP(2,210 weights), VP(beta_min=0.1, beta_max=20), parametrization=EDMParametrization(delta=0.001, detail=0))
    """
    return f"{type(thing).__name__}({', '.join(_arguments(thing))})"


def show_value(value: Any) -> str:
    """Return a short text for a value: numbers as they are, tensors by dtype and shape, networks by their number of weights.

    Parameters
    ----------
    value
        Any value.

    Examples
    --------
    >>> show_value(torch.zeros(8, 2)), show_value(torch.tensor(0.25)), show_value([0.5] * 9)
    ('float32[8, 2]', '0.25', '[0.5, 0.5, 0.5, 0.5, …]')
    >>> show_value(nn.Linear(3, 2))
    'Linear(8 weights)'
    """
    if isinstance(value, (Tensor, np.ndarray)):
        return _shown_array(torch.as_tensor(value))
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return f"{{{', '.join(_some([f'{show_value(k)}: {show_value(v)}' for k, v in value.items()]))}}}"
    if type(value) in (list, tuple, set, frozenset):
        shown = ", ".join(_some([show_value(v) for v in value]))
        return f"[{shown}]" if isinstance(value, list) else f"({shown}{',' if len(value) == 1 else ''})"
    if type(value).__repr__ is nn.Module.__repr__:
        return f"{type(value).__name__}({sum(p.numel() for p in value.parameters()):,} weights)"
    if callable(value) and hasattr(value, "__qualname__"):  # functions and classes
        return str(value.__name__)
    shown = show_call(value) if type(value).__repr__ is object.__repr__ else repr(value)
    return shown if len(shown) <= LONG else f"{type(value).__name__}(…)"


def show_picture(text: str, png: bytes) -> str:
    """Return HTML for a notebook: a text as it stands, and a picture below.

    Parameters
    ----------
    text
        The text above the picture.
    png
        The bytes of the picture, a PNG.
    """
    picture = base64.b64encode(png).decode()
    return f'<pre>{html.escape(text)}</pre><img alt="" src="data:image/png;base64,{picture}">'


def _arguments(thing: Any) -> list[str]:
    result = hasattr(thing, "_fields")  # a named tuple
    hidden = {f.name for f in fields(thing) if not f.repr} if is_dataclass(thing) else set()
    shown = []
    try:
        parameters = inspect.signature(type(thing)).parameters
    except ValueError:  # of a class that is not written in Python
        return []
    for name, parameter in parameters.items():
        value: Any = getattr(thing, name, getattr(thing, f"_{name}", parameter.empty))
        if value is parameter.empty or name in hidden or name.startswith("_"):
            continue
        if not result and _goes_without_saying(value, parameter):
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            shown += [f"{key}={show_value(v)}" for key, v in value.items()]
        elif parameter.kind is parameter.VAR_POSITIONAL:
            shown += _some([show_value(v) for v in value])
        else:
            # Its class says what it is.
            bare = not (result or isinstance(value, PLAIN)) and parameter.default is parameter.empty
            shown.append(show_value(value) if bare else f"{name}={show_value(value)}")
    return shown


def _goes_without_saying(value: Any, parameter: inspect.Parameter) -> bool:
    """Tell whether an argument is not shown: it has the default value, and is not a number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return False
    return value is parameter.default or (isinstance(value, (bool, str, tuple)) and value == parameter.default)


def _shown_array(x: Tensor) -> str:
    if x.numel() > FEW or x.numel() == 0 or x.is_meta:
        return f"{str(x.dtype).removeprefix('torch.')}[{', '.join(map(str, x.shape))}]"
    return show_value(x.item() if x.ndim == 0 else x.tolist())


def _some(parts: list[str]) -> list[str]:
    return parts if len(parts) <= FEW else [*parts[:FEW], "…"]


def with_article(noun: str) -> str:
    """Return a noun, such as the name of a class, with its article: "a Tensor", "an int"; "an ndarray", as it is spoken."""
    return f"a{'n' if noun[0] in 'AEIOaeio' or noun == 'ndarray' else ''} {noun}"
