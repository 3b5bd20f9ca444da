"""Files of tensors with a header of text, in the safetensors format, which are written whole or not at all, and checked when
read.

A header holds the name of its format and a checksum of all else, so that a file that is damaged anywhere is refused. Nothing is
pickled, here or anywhere in the library.
"""

from __future__ import annotations

__all__ = ["parsed", "read_whole", "write_whole"]

import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .dense import check_dense

CHECKSUM = "crc32"


def write_whole(tensors: dict[str, Tensor], header: dict[str, str], path: Path) -> None:
    """Write a safetensors file that is complete or absent, even if the process or the machine stops on the way.

    It is written next to its place in a folder ``.NAME.*.part``, which only a killed process leaves behind, flushed to the disk,
    and moved to its place.

    Raises
    ------
    TypeError
        If a tensor is sparse, or holds no numbers, as on the device ``meta``.
    OSError
        If there is no such folder, the path is a folder itself, or the file cannot be written. A file that was there before stays
        whole.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder; make it before {path.name} is written there.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file in it.")
    own = {name: _own(name, value) for name, value in tensors.items()}
    header = {name: text for name, text in header.items() if name != CHECKSUM}
    header[CHECKSUM] = _checksum(own, header)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".part", dir=path.parent) as folder:
            part = Path(folder) / path.name
            save_file(own, part, metadata=header)
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


def read_whole(
    path: Path, formats: tuple[str, ...], broken: str, other: str
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read a file that `write_whole` wrote, and return its header and its tensors, on the CPU.

    Parameters
    ----------
    path
        The file.
    formats
        The formats that are known, the present one first; files of older formats may have no checksum.
    broken
        What to do about a file that is not whole, as the end of the error's sentence.
    other
        What to do about a file of another format, as the end of the error's sentence.

    Raises
    ------
    ValueError
        If the file is not whole or is damaged, or its format is not known.
    OSError
        If the file cannot be read at all.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error}); give a file that is there and may be read.") from None
    except Exception as error:  # of the reader's own kinds, which depend on what is wrong with a file
        said = str(error).splitlines()[0][:90] if str(error) else type(error).__name__
        raise ValueError(f"{path} is no whole safetensors file ({said}); {broken}") from None
    found = header.get("format")
    if found not in formats:
        raise ValueError(f"{path} has format {found!r}, expected {' or '.join(map(repr, formats))}; {other}")
    kept = header.pop(CHECKSUM, None)
    if kept != _checksum(tensors, header) and (kept is not None or found == formats[0]):
        raise ValueError(f"{path} is damaged, its checksum is another than that of what it holds; {broken}")
    return header, tensors


def parsed(path: Path, header: dict[str, str], name: str, kind: type | tuple[type, ...], broken: str) -> Any:
    """Read an entry of a header as JSON, and return it.

    Parameters
    ----------
    path
        The file of the header, for its name in an error.
    header, name
        The header, and the name of the entry.
    kind
        The type that the entry must have.
    broken
        What to do about another entry, as the end of the error's sentence.

    Raises
    ------
    ValueError
        If the entry is missing, is not JSON, or has another type.
    """
    try:
        value = json.loads(header[name])
    except (KeyError, ValueError, RecursionError):
        value = None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{path} has no {name!r} in its header that could be read; {broken}")
    return value


def _own(name: str, value: Tensor) -> Tensor:
    """Return a contiguous copy on the CPU: safetensors refuses tensors that share their memory."""
    check_dense(f"the tensor {name}", value)
    return value.detach().cpu().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)


def _checksum(tensors: dict[str, Tensor], header: dict[str, str]) -> str:
    """Return a checksum of names, types, shapes and content of all tensors, and of the header."""
    total = zlib.crc32(json.dumps(sorted(header.items())).encode())
    for name in sorted(tensors):
        value = tensors[name]
        total = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), total)
        total = zlib.crc32(value.contiguous().reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"
