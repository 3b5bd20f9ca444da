"""`Codec`, which writes images of bytes to as many bits as a diffusion model's discrete bound says, and reads them again.

Bits-back coding: J. Townsend, T. Bird, D. Barber, *Practical lossless compression with latent variables using bits back
coding*, 2019, arXiv:1901.04866; along a Markov chain of latents, F. Kingma, P. Abbeel, J. Ho, *Bit-Swap*, 2019,
arXiv:1905.06845; of diffusion models, D. Kingma, T. Salimans, B. Poole, J. Ho, 2021, arXiv:2107.00630.
"""

from __future__ import annotations

__all__ = ["Codec"]

import copy
import math
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from itertools import accumulate, groupby, pairwise, starmap
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

from ..arguments import check_arguments
from ..checks import check_count
from ..data import Scaling
from ..fixed import Fixed
from ..models.modes import evaluating
from ..models.score import ScoreModel
from ..processes.scalar import as_scalar
from ..show import show_call
from .bits import byte_times, middles
from .container import Header, digest, pack, unpack
from .hierarchy import Rise, diffusion_hierarchy
from .reproducible import reproducible, surroundings
from .stack import WINDOW, WORD, BitStack

POOL = 32  # bits that a stack begins with, for each number of a batch; those that no image touches are not in the file
COARSE = 1  # cells of a standard deviation in the first images, which so draw on fewer bits
FINEST = 256  # cells of a standard deviation: all cells of a latent share 2^24 parts of probability


class _Rung(NamedTuple):
    """One latent of the chain: its law given the one below, ``N(ratio x, std²)``, and the cells into which it is cut.

    Attributes
    ----------
    ratio, std
        The factor and the standard deviation of the step to this latent from the one below, or from the data.
    width, limit
        The width of a cell, and the number of the outermost cell, counted from 0 in the middle.
    place
        The number of the latent, 0 for the lowest.
    generate
        The law of the latent below given this one; of the data for the lowest.
    """

    place: int
    ratio: float
    std: float
    width: float
    limit: int
    generate: Callable[[Tensor], Normal]


class Codec(Fixed):
    """A lossless code for images of bytes by a diffusion model: the file is as long as the model's discrete bound.

    The states at the times of a chain are latents. For each image ``x_1`` is drawn off the bits of the images before, under
    ``q(x_1 | x)``, and the image is written under ``P(x | x_1)``; then ``x_{k+1}`` is drawn under ``q(x_{k+1} | x_k)`` and
    ``x_k`` written under ``p(x_k | x_{k+1})``; at last ``x_N`` is written under the prior. Whoever reads the file runs all
    this backwards, and gives back the bits that were drawn. An image adds
    ``log2 q(x_1 ... x_N | x) − log2 p(x, x_1 ... x_N)`` bits, in the mean `discrete_bits_per_dim`. The first image has no bits
    to draw from, so a file has some more bits for each number of one image, and a header of some 100 bytes. Coarse cells draw on
    fewer bits, and so latents are cut coarsely until there are enough.

    Images are read as they were written if the network answers as it did then, to the last digit. So `encode` and `decode` ask
    the network about the same states in the same batches, on one thread, by deterministic algorithms and in full precision, with
    weights that lie alike in memory. The file says by which versions and on what device it was written; others are refused.

    Parameters
    ----------
    model
        A score model of a scalar process; a copy of it is kept. Fix conditions by `Conditioned`.
    scaling
        How bytes became the model's data, a `Scaling` or a `Dequantisation`; ``Scaling(-1, 1)`` by default.
    steps
        As for `discrete_bits_per_dim`; each image takes as many evaluations of the network as there are times.
    cells
        How many cells a standard deviation of a latent's step is cut into.
    batch
        Most images that go through the network at a time; the first few go in smaller batches.

    Raises
    ------
    TypeError
        If the process is not scalar, or has data in other coordinates than their own.
    ValueError
        If a number is not positive, there are more than 256 cells, times do not fall, or the model does not know its data's
        moments.

    Examples
    --------
    >>> import sdegen
    >>> law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 4), torch.full((1,), 0.1))
    >>> codec = Codec(sdegen.Exact(sdegen.VP(), law), steps=20)
    >>> images = torch.tensor([[100, 130, 90, 150]], dtype=torch.uint8)
    >>> file = codec.encode(images)  # doctest: +SKIP
    >>> codec.decode(file).tolist()  # doctest: +SKIP
    [[100, 130, 90, 150]]
    """

    __repr__ = show_call

    @check_arguments
    def __init__(
        self,
        model: ScoreModel,
        scaling: Scaling | None = None,
        steps: int | Tensor = 100,
        cells: int = 4,
        batch: int = 16,
    ) -> None:
        check_count("cells", cells), check_count("batch", batch)
        if cells > FINEST:
            raise ValueError(f"cells = {cells}; give {FINEST} at most: finer ones have no probability of their own.")
        self._sde = as_scalar(model.sde, ": its latents are not numbers. Use sdegen.discrete_bits_per_dim.")
        self.scaling = Scaling(-1, 1) if scaling is None else scaling
        self.model, self.steps, self.cells, self.batch = copy.deepcopy(model), steps, cells, batch
        self.times = byte_times(self.model, self.scaling, steps)
        self._hierarchy = diffusion_hierarchy(self.model, self.times)
        self.shape = tuple(self.model.require_moments().mean.shape)

    @check_arguments
    def encode(self, images: Tensor) -> bytes:
        """Write images to bytes, and return them; `decode` gives the images back.

        Parameters
        ----------
        images
            Bytes, uint8 ``(n, *)``.

        Raises
        ------
        ImportError
            If constriction is not installed.
        TypeError
            If `images` are not bytes.
        ValueError
            If there are no images, they are of another shape than the model's data, or a byte is beyond the levels of the
            scaling.
        """
        if images.ndim != 1 + len(self.shape) or images.shape[1:] != self.shape or not len(images):
            raise ValueError(
                f"images has shape {tuple(images.shape)}; give bytes (n, *) for data of shape {self.shape}, one at least."
            )
        middles(images, self.scaling)
        stack, done, need = BitStack(self._pool(), raw=True), 0, 0.0  # words that an image in fine cells draws on
        finer = 2 * self._dim * math.log2(self.cells / COARSE) / WORD  # two latents are drawn before one is written
        batches: list[tuple[int, int]] = []
        with reproducible(), evaluating(self.model):
            while done < len(images):
                began, lowest = stack.height, stack.lowest
                fine = 0 < need <= began - lowest  # and as many images as the stack holds words for
                cells, size = (self.cells, 1 << int((began - lowest) / need).bit_length() - 1) if fine else (COARSE, 1)
                size = min(size, self.batch, len(images) - done)
                stack.lowest = began
                self._write(stack, images[done : done + size].cpu(), done, self._ladders[cells])
                need = max(need, (began - stack.lowest) / size + (0.0 if fine else finer))
                stack.lowest = min(lowest, stack.lowest)
                batches.append((cells, size))
                done += size
            kept = max(0, stack.lowest - 3)  # two words are always in work
            runs = [(*batch, len(list(run))) for batch, run in groupby(batches)]
            header = Header(surroundings(self.model), self._digest, self._probe(), runs, kept)
        return pack(header, stack.words()[kept:])

    @check_arguments
    def decode(self, file: bytes) -> Tensor:
        """Read what `encode` has written, and return the images, uint8 ``(n, *)``.

        Parameters
        ----------
        file
            The bytes.

        Raises
        ------
        ImportError
            If constriction is not installed.
        ValueError
            If the bytes are damaged or no such file, or were written by another model, with other settings, by other versions or
            on another device; or if the network does not answer as it did.
        """
        header, words = unpack(file)
        stack, found = BitStack(words), list[Tensor]()
        header.compare(surroundings(self.model), self._digest)
        batches = [(cells, size) for cells, size, times in header.runs for _ in range(times)]
        firsts = list(accumulate((size for _, size in batches), initial=0))
        with reproducible(), evaluating(self.model):
            if self._probe() == header.probe:
                with suppress(KeyError):  # which the stack raises where its bits make no sense
                    for (cells, size), first in reversed(list(zip(batches, firsts))):
                        found.insert(0, self._read(stack, size, first, self._ladders[cells]))
        begun = BitStack(self._pool()[header.kept :], raw=True)
        if not found or not np.array_equal(stack.words(), begun.words()):
            raise ValueError(
                "the network does not answer here as it did when the images were written, though versions and device are the "
                "same; decode on the machine, and with the settings of torch, that they were written with."
            )
        return torch.cat(found)

    @property
    def _dim(self) -> int:
        return math.prod(self.shape)

    def _pool(self) -> np.ndarray:
        """Return the bits that every stack begins with, always the same."""
        n = self._dim * (self.batch + 4) * POOL // WORD
        return np.random.default_rng(0).integers(0, 2**WORD, n + 8, dtype=np.uint32)

    @cached_property
    def _digest(self) -> tuple[str, str]:
        """The digests by which models, and settings, are told apart."""
        settings = [self.shape, repr(self.scaling), self.times.tolist(), self.cells, self.batch]
        law = self._hierarchy.prior(self._data(torch.zeros(1, *self.shape, dtype=torch.uint8)))
        return digest(self.model, law.mean, law.stddev), digest(settings)

    def _probe(self) -> str:
        """Return a digest of what the network answers to a state that is always the same."""
        z = torch.linspace(-1, 1, self._dim, dtype=torch.float64).reshape(1, *self.shape)
        ladder = self._ladders[self.cells]
        law = ladder[len(ladder) // 2].generate(z.to(self._data(torch.zeros(1, *self.shape).byte())))
        return digest(law.mean, law.stddev)

    def _data(self, images: Tensor) -> Tensor:
        """Return the states at 0 of images, in float64 on the device of the model."""
        x = middles(images, self.scaling)
        return self.model.sde.lift(x if self.model.like is None else x.to(self.model.like.device))

    @cached_property
    def _ladders(self) -> dict[int, list[_Rung]]:
        """The latents, by the cells of a standard deviation: coarse ones for the first images, finer ones for all others."""
        return {cells: self._ladder(cells) for cells in (COARSE, self.cells)}

    def _ladder(self, cells: int) -> list[_Rung]:
        """Return the latents from the lowest up, cut into `cells` cells a standard deviation."""
        at = self._sde.marginal(self.times.flip(0))
        alpha, sigma = (A.matrix()[..., 0, 0].tolist() for A in (at.Phi, at.R))
        ends = torch.tensor([0, self.scaling.levels - 1], dtype=torch.uint8)
        top = self._data(ends.reshape(2, *[1] * len(self.shape)).expand(2, *self.shape))
        reach, std = top.abs().max().item(), self._hierarchy.prior(top[:1]).stddev.min().item()
        laws = [self._hierarchy.data, *(layer.generate for layer in reversed(self._hierarchy.layers))]
        steps = list(starmap(Rise.between, pairwise([(1.0, 0.0), *zip(alpha, sigma)])))
        rungs: list[_Rung] = []
        for law, step, back in zip(laws, steps, [*(step.back for step in steps[1:]), std]):
            wide = math.sqrt(step.beta)
            width = min(wide, back) / cells
            reach = step.ratio * reach + (WINDOW + 1) * wide + width
            rungs.append(_Rung(len(rungs), step.ratio, wide, width, math.ceil(reach / width), law))
        return rungs

    def _write(self, stack: BitStack, images: Tensor, first: int, ladder: list[_Rung]) -> None:
        """Write a batch of images onto the stack."""
        below, written = self._data(images), _flat(images.double())
        for place, rung in enumerate(ladder):
            cells = _draw_cells(stack, rung, below, first)
            z = self._state(cells, rung, below)
            law = rung.generate(z)
            if place:
                lower = ladder[place - 1]
                stack.push(written, *_cut(law, lower), lower.limit)
            else:
                stack.push_bytes(written, *self._in_levels(law), self.scaling.levels)
            below, written = z, cells
        stack.push(written, *_cut(self._hierarchy.prior(below), rung), rung.limit)

    def _read(self, stack: BitStack, size: int, first: int, ladder: list[_Rung]) -> Tensor:
        """Return a batch of images off the stack: every step of `_write` undone, the last first."""
        like = self._data(torch.zeros(size, *self.shape, dtype=torch.uint8))
        cells = stack.pop(*_cut(self._hierarchy.prior(like), ladder[-1]), ladder[-1].limit)
        for place, rung in reversed(list(enumerate(ladder))):
            law = rung.generate(self._state(cells, rung, like))
            if place:
                lower = ladder[place - 1]
                found = stack.pop(*_cut(law, lower), lower.limit)
                below = self._state(found, lower, like)
            else:
                found = stack.pop_bytes(*self._in_levels(law), self.scaling.levels)
                images = torch.from_numpy(found).reshape(like.shape).to(torch.uint8)
                below = self._data(images)
            _give_back(stack, rung, below, first, cells)
            cells = found
        return images

    def _state(self, cells: np.ndarray, rung: _Rung, like: Tensor) -> Tensor:
        """Return the state in the middle of each cell."""
        return torch.from_numpy(cells * rung.width).reshape(like.shape).to(like)

    def _in_levels(self, law: Normal) -> tuple[np.ndarray, np.ndarray]:
        """Return means and standard deviations of data in units of bytes."""
        low, step = self.scaling.low, self.scaling.step
        return _flat((law.mean - low) / step - self.scaling.noise[0]), _flat(law.stddev / step)


def _draw_cells(stack: BitStack, rung: _Rung, below: Tensor, first: int) -> np.ndarray:
    """Draw a latent off the stack, given the latent below, and return the cells that its numbers are in.

    The bits on top of the stack were pushed last. Noise made of them would be the error of the step before, which would grow from
    step to step. So the stack is scrambled first, and numbers are drawn from the last to the first: the words that the coder
    works on are not scrambled.

    Parameters
    ----------
    stack
        Bits of the images before, which serve as randomness.
    rung
        The law of the latent given the one below, and its cells.
    below
        The value of the latent below, or the data.
    first
        Number of the first image of the batch, by which batches are scrambled differently.
    """
    mean, std = _cut(Normal(rung.ratio * below, rung.std), rung)
    stack.scramble((first, rung.place), _count_words(std))
    return stack.pop(mean[::-1], std, rung.limit)[::-1]


def _give_back(stack: BitStack, rung: _Rung, below: Tensor, first: int, cells: np.ndarray) -> None:
    """Write back the bits that a latent was drawn from, onto the stack: the inverse of `_draw_cells`."""
    mean, std = _cut(Normal(rung.ratio * below, rung.std), rung)
    stack.push(cells[::-1], mean[::-1], std, rung.limit)
    stack.scramble((first, rung.place), _count_words(std))


def _count_words(std: np.ndarray) -> int:
    """Return how many words normal numbers take on the stack, given their standard deviations in units of a cell."""
    return int(np.log2(math.sqrt(2 * math.pi * math.e) * std).sum() / WORD)


def _cut(law: Normal, rung: _Rung) -> tuple[np.ndarray, np.ndarray]:
    """Return means and standard deviations of a latent in units of its cells."""
    return _flat(law.mean / rung.width), _flat(law.stddev / rung.width)


def _flat(values: Tensor) -> np.ndarray:
    """Return numbers as a vector of numpy, in float64."""
    found: np.ndarray = values.double().cpu().numpy().reshape(-1)
    return np.ascontiguousarray(found)
