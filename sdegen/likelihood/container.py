"""The file of a `Codec`: a header of what its reader has to know, a checksum, and the bits."""

from __future__ import annotations

__all__ = ["Header", "digest", "pack", "unpack"]

import hashlib
import json
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from ..identity import identify

MAGIC = b"sdegen\x02\n"
DIGEST = 8  # bytes
# A preset dictionary of zlib: text that most headers have, so that next to nothing of it is written.
USUAL = b'["Python 3.1","sdegen 0.","torch 2.","numpy 2.","constriction 0.5.0","cpu x86_64 AVX512"],[[1,1,"cuda NVIDIA '


class Header(NamedTuple):
    """What the reader of a file has to know.

    Attributes
    ----------
    surroundings
        Versions of packages and the device (`reproducible.surroundings`).
    digests
        Digests of the model and of the settings.
    probe
        A digest of the network's answer to a fixed state.
    runs
        Batches in the order of writing, equal ones together: cells to a standard deviation, images to a batch, number of batches.
    kept
        Number of words at the bottom of the stack that no image touched. All stacks begin with the same words, so these are not
        in the file.
    """

    surroundings: list[str]
    digests: tuple[str, str]
    probe: str
    runs: list[tuple[int, int, int]]
    kept: int

    def compare(self, surroundings: list[str], digests: tuple[str, str]) -> None:
        """Refuse a file that was not written here, by the same model and on the same settings.

        Parameters
        ----------
        surroundings, digests
            Those of the reader.

        Raises
        ------
        ValueError
            If any of these differ from those of the file.
        """
        other = [(then, now) for then, now in zip(self.surroundings, surroundings) if then != now]
        if other:
            then, now = (", ".join(names) for names in zip(*other))
            raise ValueError(
                f"the images were written by {then}, and here is {now}, where a network may answer otherwise in the last digit; "
                "decode them where they were written."
            )
        if self.digests[0] != digests[0]:
            raise ValueError("the images were written by another model; give the Codec the one that wrote them.")
        if self.digests[1] != digests[1]:
            raise ValueError(
                "the images were written with other settings; give the Codec the scaling, steps, cells and batch that wrote them."
            )


def pack(header: Header, words: np.ndarray) -> bytes:
    """Return the bytes of a file.

    Parameters
    ----------
    header
        What its reader has to know.
    words
        The bits of the stack, uint32.
    """
    told = [header.surroundings, header.runs, header.kept]
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS, zdict=USUAL)
    text = packer.compress(json.dumps(told, separators=(",", ":")).encode()) + packer.flush()
    rest = (
        bytes.fromhex("".join((*header.digests, header.probe)))
        + struct.pack("<H", len(text))
        + text
        + words.astype("<u4").tobytes()
    )
    return MAGIC + struct.pack("<I", zlib.crc32(rest)) + rest


def unpack(file: bytes) -> tuple[Header, np.ndarray]:
    """Return header and bits of a file.

    Parameters
    ----------
    file
        What `pack` has returned.

    Raises
    ------
    ValueError
        If the bytes are no such file, or damaged.
    """
    if not file.startswith(MAGIC):
        raise ValueError(
            f"the {len(file)} bytes do not begin as a file of a Codec does; give what its encode has returned."
        )
    rest = file[len(MAGIC) + 4 :]
    if not rest or file[len(MAGIC) :][:4] != struct.pack("<I", zlib.crc32(rest)):
        raise ValueError("the checksum of the file is wrong: it is damaged or cut off; take another copy.")
    at = 3 * DIGEST
    digests = [rest[k : k + DIGEST].hex() for k in range(0, at, DIGEST)]
    (length,) = struct.unpack("<H", rest[at : at + 2])
    words = rest[at + 2 + length :]
    text = zlib.decompressobj(-zlib.MAX_WBITS, zdict=USUAL).decompress(rest[at + 2 : at + 2 + length])
    surroundings, runs, kept = json.loads(text)
    header = Header(surroundings, (digests[0], digests[1]), digests[2], [tuple(run) for run in runs], kept)
    return header, np.frombuffer(words, dtype="<u4").astype(np.uint32)


def digest(*values: Any) -> str:
    """Return a short digest of numbers, tensors and models; a model enters by what it is made of and by its weights.

    Parameters
    ----------
    values
        The values that the digest is of.
    """
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            found.update(value.detach().double().cpu().numpy().tobytes())
            continue
        found.update(json.dumps(identify(value), sort_keys=True).encode())
        for name, weight in value.state_dict().items() if isinstance(value, nn.Module) else ():
            found.update(name.encode() + weight.detach().double().cpu().numpy().tobytes())
    return found.digest()[:DIGEST].hex()
