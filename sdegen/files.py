"""Saving and loading: `save` and `load` store weights as safetensors and objects as their constructors' arguments. Nothing
is pickled.

Every class that is saved keeps its constructor's arguments as attributes of the same names. Loading constructs only
classes of this library, and classes that the caller names. A file is written whole or not at all.
"""

from __future__ import annotations

__all__ = ["JUMPING", "SHIPPED", "load", "pretrained", "save"]

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import baselines, guidance, laws, models, nets, processes, samplers
from .arguments import check_arguments
from .checks import check_kind
from .construction import construct
from .data import scaling
from .dense import check_held
from .description import class_name, describe
from .guidance import measurements
from .identity import changed, differences
from .laws import coordinates
from .laws.described import ASKED
from .laws.mixtures import Moments
from .likelihood import dequantiser
from .models import diffusers, foreign
from .models.score import ScoreModel
from .processes import times
from .samplers import Fitted
from .show import with_article
from .storage import parsed, read_whole, write_whole
from .upgrades import UPGRADES, upgrade

FORMAT = "sdegen-4"  # in the third a label was no condition among others
_AGAIN = "save the model again."
_COMPILED = "_orig_mod."  # what torch.compile puts before the names of weights
_LIBRARY = (
    baselines, coordinates, dequantiser, diffusers, foreign, guidance, laws, measurements, models, nets, processes, samplers,
    scaling, times,
)  # fmt: skip
SHIPPED = {"mnist": "mnist-unet-v1", "fashion_mnist": "fashion-mnist-unet-v1", "sprites": "sprites-unet-v1"}
JUMPING = {  # flow maps made of the same models
    "mnist": "mnist-jumps-v1", "fashion_mnist": "fashion-mnist-jumps-v1", "sprites": "sprites-jumps-v1",
}  # fmt: skip
_KINDS = (nn.Module, ScoreModel, Fitted)


def save(model: nn.Module | ScoreModel | Fitted, path: str | Path) -> None:
    """Write a model, guided or not, or a fitted solver, to one file, atomically.

    Before anything is written, the model is made again from its description, as `load` will do, and the description must come out
    the same. Of a network that ``torch.compile`` has wrapped the network inside is written.

    Parameters
    ----------
    model
        The model, of which its class, its constructor's arguments, its weights and the moments of its data are written.
    path
        The file, in a folder that is there; a file of the same name is replaced.

    Raises
    ------
    TypeError
        If an object in the model does not keep a constructor argument as an attribute, or an argument is of a kind that cannot be
        written without code, as functions are.
    ValueError
        If the model that is made from the description is another one.
    OSError
        If the file cannot be written. An earlier file of the same name is still whole.
    """
    path = _check_path(path)
    example = "a model, such as Model(net, VP()), or a fitted solver"
    if isinstance(getattr(model, "model", None), ScoreModel):  # as a posterior, or a density
        example += (
            f": of {with_article(type(model).__name__)} x.model, to make it again of that and its other arguments"
        )
    check_kind("model", model, _KINDS, example)
    weights = _weights(model)
    arguments: dict[str, Tensor] = {}
    classes: dict[str, type] = {}
    described = describe(model, "model", arguments, classes)
    _check_return(model, described, arguments, weights, classes)
    tensors = arguments | {f"weight:{name}": value for name, value in weights.items()}
    moments = getattr(model, "moments", None)
    if moments is not None:
        tensors |= {"moments:mean": moments.mean, "moments:covariance": moments.covariance}
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    dtype = next((_name(p.dtype) for p in parameters if p.is_floating_point()), "float32")
    write_whole(tensors, {"format": FORMAT, "model": json.dumps(described), "dtype": dtype}, path)


@check_arguments
def load(path: str | Path, classes: Iterable[type] = (), dtype: torch.dtype | None = None) -> Any:
    """Read a file that `save` wrote, and return the model or fitted solver.

    Parameters
    ----------
    path
        The file.
    classes
        Classes of your own (networks, SDEs) that the model is made of.
    dtype
        The model's dtype; by default each weight has the dtype that it was saved in. Numbers that a network computes for itself,
        such as frequencies, are not rounded to a coarser dtype on the way.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or the path is a folder.
    ValueError
        If the file is truncated or damaged, of another format, names a class that is neither the library's nor given, or
        describes what is no model.
    TypeError
        If `classes` holds anything but classes, or `dtype` is no floating-point dtype.
    """
    path = _check_path(path)
    own = _own_classes(classes)
    if not (dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point)):
        raise TypeError(f"dtype = {dtype!r}; give a floating-point dtype, such as torch.float32, or None.")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise FileNotFoundError(f"{path} {what}; give the file that save wrote.")
    header, tensors = read_whole(path, (FORMAT, *UPGRADES), _AGAIN, "it is not a saved sdegen model.")
    described = parsed(path, header, "model", dict, _AGAIN)
    described, tensors = upgrade(described, tensors, header["format"], FORMAT)
    model = construct(described, tensors, _library() | own, str(path))
    _check_model(model, path)
    if isinstance(model, nn.Module):
        kept = getattr(torch, header.get("dtype", ""), None)
        if not isinstance(kept, torch.dtype) or not kept.is_floating_point:
            raise ValueError(f"{path} has no dtype in its header that is known; {_AGAIN}")
        model.to(kept if dtype is None else dtype).eval()
        weights = {k.removeprefix("weight:"): v for k, v in tensors.items() if k.startswith("weight:")}
        if dtype is None:
            _match_dtypes(model, weights)
        _load_weights(model, weights, path)
    if "moments:mean" in tensors:
        model.moments = Moments(tensors["moments:mean"], tensors.get("moments:covariance", torch.empty(())))
    _check_moments(getattr(model, "moments", None), path)
    return model


def _check_path(path: str | Path) -> Path:
    """Return a path; refuse anything else."""
    check_kind("path", path, (str, Path), 'the name of a file, such as "model.safetensors"')
    return Path(path)


def _check_model(value: object, path: Path) -> None:
    """Refuse an object from a file that is no model."""
    if not isinstance(value, _KINDS):
        raise ValueError(f"{path} describes {with_article(type(value).__name__)}, which is no model; {_AGAIN}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _library() -> dict[str, type]:
    """Return the classes of the library that a file may name."""
    ours = (c for module in _LIBRARY for c in vars(module).values() if isinstance(c, type))
    return {class_name(c): c for c in ours if class_name(c) != c.__name__}


def _own_classes(classes: Iterable[type]) -> dict[str, type]:
    given = list(classes)
    for cls in given:
        if not isinstance(cls, type):
            raise TypeError(f"classes has {cls!r}, which is no class; give classes themselves: classes=[MyNetwork].")
    return {class_name(cls): cls for cls in given}


def _weights(model: nn.Module | ScoreModel | Fitted) -> dict[str, Tensor]:
    """Return the weights of a model under the names that they have without compilation."""
    weights = model.state_dict() if isinstance(model, nn.Module) else {}
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"the state dict has {name}, {with_article(type(value).__name__)}; keep only tensors there to save it."
            )
        check_held(f"the weight {name}", value)
    return {name.replace(_COMPILED, ""): value for name, value in weights.items()}


def _check_return(
    model: nn.Module | ScoreModel | Fitted,
    described: Any,
    arguments: dict[str, Tensor],
    weights: dict[str, Tensor],
    classes: dict[str, type],
) -> None:
    """Make a model from its description, and refuse to write one that `load` would not give back.

    Raises
    ------
    TypeError
        If a part of the model is of a class of the library that files do not know.
    ValueError
        If the model that is made from the description is another one, or none can be made.
    """
    library = _library()
    for name, cls in classes.items():
        if name != cls.__name__ and library.get(name) is not cls:
            raise TypeError(
                f"the model is made of a {name}, which no file gives back; save the model inside without it."
            )
    written = json.loads(json.dumps(described))
    again = construct(written, arguments, library | classes, "the file that save was to write")
    if isinstance(again, nn.Module):
        _load_weights(again, weights, "the file that save was to write")
    returned: dict[str, Tensor] = {}
    twice = json.loads(json.dumps(describe(again, "model", returned, {})))
    for name, was, comes in differences(written, twice, "model"):
        raise ValueError(
            f"{name} = {was} comes back as {comes}; keep what the constructor was given as self.{name.split('.')[-1]}."
        )
    for name, was, comes in changed(model, again):
        raise ValueError(
            f"{name} = {was} comes back as {comes}; a file gives back what constructors are given and make: make it an argument, "
            "or a buffer."
        )
    for name, value in arguments.items():
        back = returned[name]
        if back.dtype != value.dtype or not torch.equal(back.cpu().nan_to_num(), value.detach().cpu().nan_to_num()):
            place = name.removeprefix("argument:")
            raise ValueError(
                f"{place} comes back as another tensor; keep what the constructor was given as self.{place.split('.')[-1]}."
            )


def _check_moments(moments: Moments | None, path: Path) -> None:
    """Refuse moments that do not fit together."""
    if moments is not None and moments.covariance.shape not in ((n := moments.mean.numel(),), (n, n)):
        shapes = [tuple(moment.shape) for moment in moments]
        raise ValueError(f"{path} holds a mean of shape {shapes[0]} with a covariance of shape {shapes[1]}; {_AGAIN}")


def _match_dtypes(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give each parameter and buffer the dtype that it was saved in, as these may differ."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if name in weights and value.is_floating_point() and weights[name].is_floating_point():
            value.data = value.data.to(weights[name].dtype)


def _load_weights(model: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Load weights into a model; raise a ValueError unless they are the model's. A weight that parts of the model share, as in
    guidance without a class, may be there under one of its names alone.
    """
    own = model.state_dict()
    for name, value in weights.items():
        kinds = [v.is_complex() or (not v.is_floating_point() and v.dtype) for v in (value, own.get(name, value))]
        if kinds[0] != kinds[1]:
            raise ValueError(f"{path} holds {name} as {value.dtype}, where the model has {own[name].dtype}; {_AGAIN}")
    # The file has said what the network is asked, maybe by names of an older format: the model was made of that.
    weights = {name: value for name, value in weights.items() if name.split(".")[-1] != ASKED}
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path} holds weights of another architecture: {str(error).splitlines()[-1].strip()}"
        ) from None
    once = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    for where, names in (("the model", [name for name in missing if name in once]), ("the file", unexpected)):
        if names:
            raise ValueError(f"{path} holds weights of another architecture: only {where} has {', '.join(names[:3])}.")


@check_arguments
def pretrained(name: str, jumps: bool = False) -> Any:
    """Load a shipped model, or the flow map that was made of it, in float32 and evaluation mode.

    Each model is a DDPM of 1,000 linear betas with a U-Net of 1.8 million parameters, conditional on ``label``, which may be left
    out. Samples are numbers in [−1, 1]; ``sdegen.data.Scaling(-1, 1).inverse(x, clip=True)`` makes bytes of them. Weights are
    kept in half precision.

    | name | images | trained by `benchmarks.train_images` on |
    |---|---|---|
    | `mnist` | (1, 28, 28) | MNIST, 60,000 images |
    | `fashion_mnist` | (1, 28, 28) | Fashion-MNIST, 60,000 images |
    | `sprites` | (3, 16, 16) | DawnLike sprites, the training part of fold 0 |

    Their cards, with the command, its cost and their FIDs, are in ``sdegen/weights/README.md``.

    Parameters
    ----------
    name
        The name of one of these models.
    jumps
        Whether to load the flow map (`samplers.FlowMap`), which learned from trajectories of the model
        (`benchmarks.train_flow_maps`) and makes samples in one to four evaluations.

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
    >>> model = sdegen.pretrained("sprites", jumps=True)
    >>> sdegen.sample(model, 2, sampler=samplers.Jumps(1), seed=0, label=3).shape
    torch.Size([2, 3, 16, 16])
    """
    if name not in SHIPPED:
        raise ValueError(f"there is no shipped model {name!r}; the library ships {', '.join(SHIPPED)}.")
    file = (JUMPING if jumps else SHIPPED)[name]
    with resources.as_file(resources.files("sdegen") / "weights" / f"{file}.safetensors") as path:
        return load(path, dtype=torch.float32)
