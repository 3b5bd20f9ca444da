"""Saving and loading: `save` and `load` store weights as safetensors and objects as their constructors' arguments. Nothing
is pickled.

Every class that is saved keeps its constructor's arguments as attributes of the same names. Loading constructs only
classes of this library, and those the caller names. A file is written whole or not at all.
"""

from __future__ import annotations

__all__ = ["SHIPPED", "class_name", "load", "pretrained", "renamed", "save", "upgrade", "write_whole"]

import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from . import baselines, guidance, laws, models, nets, processes, samplers
from .guidance import measurements
from .laws.mixtures import Moments
from .models import foreign
from .models.score import ScoreModel
from .processes import times
from .samplers import Fitted

FORMAT = "sdegen-2"
_LIBRARY = (baselines, foreign, guidance, laws, measurements, models, nets, processes, samplers, times)
# What the first format called classes and their chapters.
_CLASSES_OF_1 = {
    f"models.{name}": f"{name}Parametrization" for name in ("Data", "EDM", "Noise", "Score", "Velocity")
} | {
    "foreign.Steps": "StepIndex", "foreign.Times": "ScaledTime", "foreign.Level": "NoiseLevel",
    "baselines.Chain": "Composition", "baselines.Flow": "NormalizingFlow", "baselines.Affine": "AffineMap",
    "baselines.Layer": "LatentLayer",
    "guidance.Affine": "AffineExtrapolation",
}  # fmt: skip
_CHAPTERS_OF_1 = {"distributions": "laws", "foreign": "models", "measurements": "guidance", "weightings": "processes"}
SHIPPED = {"mnist": "mnist-unet-v1", "fashion_mnist": "fashion-mnist-unet-v1", "sprites": "sprites-unet-v1"}
_PLAIN = (int, float, str, bool, type(None))


def save(model: nn.Module | Fitted, path: str | Path) -> None:
    """Write a model, guided or not, or a fitted solver, to one file, atomically.

    Parameters
    ----------
    model
        What to write: its class, its constructor's arguments, its weights and the moments of its data.
    path
        The file, in a folder that is there; one of the same name is replaced.

    Raises
    ------
    TypeError
        If an object in the model does not keep a constructor argument as an attribute, or one is of a kind that cannot be
        written without code, as functions are.
    OSError
        If the file cannot be written. One that was there before is whole.
    """
    weights = model.state_dict() if isinstance(model, nn.Module) else {}
    tensors: dict[str, Tensor] = {f"weight:{k}": v for k, v in weights.items()}
    described = _describe(model, tensors, "model")
    moments = getattr(model, "moments", None)
    if moments is not None:
        tensors |= {"moments:mean": moments.mean, "moments:covariance": moments.covariance}
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    dtype = next((str(p.dtype).removeprefix("torch.") for p in parameters if p.is_floating_point()), "float32")
    header = {"format": FORMAT, "model": json.dumps(described), "dtype": dtype}
    write_whole(tensors, header, Path(path))


def write_whole(tensors: dict[str, Tensor], header: dict[str, str], path: Path) -> None:
    """Write a safetensors file that is complete or absent, even if the process or the machine stops on the way.

    It is written beside its place in a folder ``.NAME.*.part``, which only a killed process leaves behind, brought to the
    disk, and moved.

    Raises
    ------
    OSError
        If there is no such folder, the path is one itself, or the disk does not take the file. One that was there before is
        whole.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder; make it before {path.name} is written there.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file in it.")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".part", dir=path.parent) as folder:
            part = Path(folder) / path.name
            save_file({name: _own(value) for name, value in tensors.items()}, part, metadata=header)
            usual = Path(folder) / "mode"
            usual.touch()
            part.chmod(usual.stat().st_mode)  # safetensors lets only its owner read
            with part.open("r+b") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{path} could not be written ({error}); make room and call again: what was there before is whole."
        ) from error
    if os.name == "posix":  # the move is an entry of the folder
        entry = os.open(path.parent, os.O_RDONLY)
        os.fsync(entry)
        os.close(entry)


def load(path: str | Path, classes: Iterable[type] = (), dtype: torch.dtype | None = None) -> Any:
    """Read a file that `save` wrote, and return the model or fitted solver.

    Parameters
    ----------
    path
        The file.
    classes
        Classes of your own (networks, SDEs) that the model is made of.
    dtype
        The model's dtype; by default that of the weights. What a network computes for itself, such as frequencies, then has never
        been coarser.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or the path is a folder.
    ValueError
        If the file is truncated, of another format, or names a class that is neither the library's nor given.
    """
    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "is not there"
        raise FileNotFoundError(f"{path} {what}; give the file that save wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); save the model again.") from None
    described = upgrade(header, path)
    ours = (c for module in _LIBRARY for c in vars(module).values() if isinstance(c, type))
    known = {class_name(c): c for c in (*(c for c in ours if class_name(c) != c.__name__), *classes)}
    model: ScoreModel = _construct(described, tensors, known, str(path))
    if isinstance(model, nn.Module):
        model.to(getattr(torch, header["dtype"]) if dtype is None else dtype).eval()
        _load_weights(
            model, {k.removeprefix("weight:"): v for k, v in tensors.items() if k.startswith("weight:")}, path
        )
    if "moments:mean" in tensors:
        model.moments = Moments(tensors["moments:mean"], tensors["moments:covariance"])
    return model


def renamed(value: Any, name: Callable[[str], str]) -> Any:
    """Return a model's description with the name of each class replaced by ``name(old name)``."""
    if isinstance(value, list):
        return [renamed(v, name) for v in value]
    if not isinstance(value, dict):
        return value
    return {k: name(v) if k == "class" else renamed(v, name) for k, v in value.items()}


def _name_of_2(name: str) -> str:
    """Return the name that the second format has for a class: by its folder, where the first had the module."""
    chapter, dot, cls = name.rpartition(".")
    return f"{_CHAPTERS_OF_1.get(chapter, chapter)}{dot}{_CLASSES_OF_1.get(name, cls)}"


UPGRADES: dict[str, tuple[str, Callable[[Any], Any]]] = {  # from each older format to the next
    "sdegen-1": ("sdegen-2", partial(renamed, name=_name_of_2)),
}


def upgrade(header: dict[str, str], path: str | Path) -> Any:
    """Return the description of the model in a file's header, converted to the present file format.

    Raises
    ------
    ValueError
        If the format is none that is known.
    """
    found = header.get("format", "")
    if found not in (FORMAT, *UPGRADES):
        expected = " or ".join(map(repr, (FORMAT, *UPGRADES)))
        raise ValueError(f"{path} has format {found!r}, expected {expected}; it is not a saved sdegen model.")
    described = json.loads(header["model"])
    while found != FORMAT:
        found, upgrade = UPGRADES[found]
        described = upgrade(described)
    return described


def class_name(cls: type) -> str:
    """Return the name by which files refer to a class: ``processes.VP`` with its chapter, a user's class by its name alone."""
    module = cls.__module__.split(".")
    return f"{module[1]}.{cls.__name__}" if module[0] == __package__ else cls.__name__


def _load_weights(model: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Load weights into a model; raise a ValueError unless they are the model's. One that parts of the model share, as in
    guidance without a class, may be there under one of its names alone.
    """
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f"{path} holds weights of another architecture: {str(error).splitlines()[-1].strip()}"
        ) from None
    once = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    for where, names in (("the model", [name for name in missing if name in once]), ("the file", unexpected)):
        if names:
            raise ValueError(f"{path} holds weights of another architecture: only {where} has {', '.join(names[:3])}.")


def _own(value: Tensor) -> Tensor:
    """Return a contiguous copy on the CPU: safetensors refuses tensors that share their memory."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _describe(value: Any, tensors: dict[str, Tensor], place: str) -> Any:
    """Describe a value as plain data; tensors go to the file's own table."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        tensors[f"argument:{place}"] = value
        return {"tensor": f"argument:{place}"}
    if isinstance(value, (list, tuple)):
        return [_describe(v, tensors, f"{place}.{i}") for i, v in enumerate(value)]
    if isinstance(value, dict):
        return {"pairs": _describe(list(value.items()), tensors, place)}
    if inspect.isroutine(value):
        raise TypeError(
            f"{place} is a function, and no code is saved; give an object of a class that keeps its arguments, such as "
            "guidance.LinearScale, or save the model inside without it."
        )
    cls = type(value)
    arguments = {}
    signature = inspect.signature(cls.__init__) if cls.__init__ is not object.__init__ else None
    for name in list(signature.parameters)[1:] if signature else ():
        if signature.parameters[name].kind.name.startswith("VAR"):  # type: ignore[union-attr]
            raise TypeError(f"{cls.__name__}.__init__ takes *args or **kwargs; name its arguments so it can be saved.")
        if not hasattr(value, name):
            raise TypeError(
                f"{cls.__name__} does not keep its argument {name!r}; set self.{name} in its constructor so it can be saved."
            )
        arguments[name] = _describe(getattr(value, name), tensors, f"{place}.{name}")
    return {"class": class_name(cls), "arguments": arguments}


def _construct(value: Any, tensors: dict[str, Tensor], known: dict[str, type], path: str) -> Any:
    if isinstance(value, list):
        return [_construct(v, tensors, known, path) for v in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "pairs" in value:
        return dict(_construct(value["pairs"], tensors, known, path))
    name = value["class"]
    if name not in known:
        raise ValueError(f"{path} uses the class {name!r}; pass it: load(path, classes=[{name}]).")
    return known[name](**{k: _construct(v, tensors, known, path) for k, v in value["arguments"].items()})


def pretrained(name: str) -> Any:
    """Load a shipped model, in float32 and evaluation mode.

    A DDPM of 1,000 linear betas with a U-Net of 1.8 million parameters, conditional on ``label``, which may be left out; its
    samples are numbers in [−1, 1], bytes by ``sdegen.data.Scaling(-1, 1).inverse(x, clip=True)``. Weights are kept in half
    precision.

    | name | images | trained by `benchmarks.train_images` on |
    |---|---|---|
    | `mnist` | (1, 28, 28) | MNIST, 60,000 images |
    | `fashion_mnist` | (1, 28, 28) | Fashion-MNIST, 60,000 images |
    | `sprites` | (3, 16, 16) | DawnLike sprites, the training part of fold 0 |

    Their cards, with the command, its cost and their FIDs, are in ``sdegen/weights/README.md``.

    Parameters
    ----------
    name
        One of these.

    Raises
    ------
    ValueError
        If there is no such model.

    Examples
    --------
    >>> import sdegen
    >>> model = sdegen.pretrained("fashion_mnist")
    >>> sdegen.sample(model, 2, steps=5, seed=0, label=torch.tensor([3, 8])).shape
    torch.Size([2, 1, 28, 28])
    """
    if name not in SHIPPED:
        raise ValueError(f"there is no shipped model {name!r}; the library ships {', '.join(SHIPPED)}.")
    with resources.as_file(resources.files("sdegen") / "weights" / f"{SHIPPED[name]}.safetensors") as path:
        return load(path, dtype=torch.float32)
