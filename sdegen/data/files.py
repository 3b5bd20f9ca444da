"""Files of published data: found, checked by their hash, and downloaded where that is allowed; an incomplete file is never
used.

A file is looked for in the folder that the environment variable SDEGEN_DATA names, then in the package, then, if no folder is
named, in the user's cache. A missing file is downloaded to the named folder, or to the cache, and bears another name there until
its checksum is right.
"""

from __future__ import annotations

__all__ = ["EMBEDDED", "File", "import_optional"]

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..arguments import check_arguments

EMBEDDED = Path(__file__).with_name("embedded")  # what comes with the package, laid out as under SDEGEN_DATA


@check_arguments
@dataclass(frozen=True)
class File:
    """A published data file: its place in the data folder, its checksums and where to download it.

    Parameters
    ----------
    path
        ``folder/name`` under the data folder; a name that ends in ``.gz`` is decompressed.
    md5
        MD5 checksum of the file as published.
    content_md5
        MD5 checksum of its decompressed bytes, by which a file that was compressed anew is known too.
    mirrors
        Addresses of the folders that the file can be downloaded from, tried in turn; without any it is not downloaded.
    """

    path: str
    md5: str
    content_md5: str | None = None
    mirrors: tuple[str, ...] = ()

    def read(self) -> bytes:
        """Read the file, downloaded first if need be, and return its (decompressed) bytes.

        Raises
        ------
        FileNotFoundError
            If SDEGEN_DATA does not name a folder, or the file is missing and cannot be downloaded.
        ImportError
            If it must be downloaded and pooch is missing.
        ConnectionError
            If every mirror failed.
        ValueError
            If the file is damaged.
        """
        place = self._place()
        if not place.exists():
            self._download(place)
        raw = place.read_bytes()
        found = _md5(raw)
        try:
            content = gzip.decompress(raw) if place.suffix == ".gz" else raw
        except (OSError, EOFError, zlib.error):
            content = None
        if content is not None and (found == self.md5 or _md5(content) == self.content_md5):
            return content
        remedy = "delete it to have it downloaded again" if self.mirrors else "put the original in its place"
        raise ValueError(f"{place} is damaged: its md5 is {found}, expected {self.md5}; {remedy}.")

    def _place(self) -> Path:
        """Return where the file lies, or is to be downloaded to, in the order that the docstring of this module tells."""
        embedded = EMBEDDED / self.path
        named = os.environ.get("SDEGEN_DATA")
        if named:
            if not Path(named).is_dir():
                raise FileNotFoundError(
                    f"SDEGEN_DATA = {named} is not a folder; let it name the one that holds {self.path}."
                )
            place = Path(named, self.path)
            return embedded if embedded.exists() and not place.exists() else place
        if embedded.exists():
            return embedded
        if not self.mirrors:
            raise FileNotFoundError(
                f"{self.path} is not downloaded; let the environment variable SDEGEN_DATA name the folder that holds it."
            )
        return Path(self._pooch().os_cache("sdegen"), self.path)

    def _download(self, place: Path) -> None:
        """Bring the file to the given place from the first mirror that has it."""
        if not self.mirrors:
            raise FileNotFoundError(f"{place} is missing, and is not downloaded; put it there.")
        failed = []
        for mirror in self.mirrors:
            url = f"{mirror.rstrip('/')}/{place.name}"
            try:
                # Writes to a temporary file, which takes its name when its checksum is right and else is deleted.
                self._pooch().retrieve(url, known_hash=f"md5:{self.md5}", fname=place.name, path=place.parent)
                return
            except (OSError, ValueError) as error:  # what requests raises is an OSError, a wrong checksum a ValueError
                failed.append(f"{url}: {error}")
        raise ConnectionError(f"{self.path} could not be downloaded to {place.parent}; " + "; ".join(failed))

    def _pooch(self) -> Any:
        return import_optional("pooch", "pooch", f"{self.path} is not under SDEGEN_DATA, and downloading it")


def import_optional(module: str, package: str, purpose: str) -> Any:
    """Import an optional package, and return it; raise an error that says how to install it if it is missing."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # it is there, and lacks something itself
        raise ModuleNotFoundError(f"{purpose} needs {package}: pip install {package}", name=error.name) from None


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
