"""A callback that writes a training run to TensorBoard, through any writer."""

from __future__ import annotations

__all__ = ["TensorBoard", "Writer"]

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from ..arguments import check_arguments
from ..checks import check_count
from .listeners import Listener
from .run import Run, Step
from .state import Training


class Writer(Protocol):
    """The interface of TensorBoard writers, as of ``torch.utils.tensorboard.SummaryWriter``: numbers and images by name
    and step.
    """

    def add_scalar(self, tag: str, value: float, step: int, /) -> Any:
        """Write a number."""

    def add_images(self, tag: str, images: Tensor, step: int, /) -> Any:
        """Write images ``(N, C, H, W)`` in [0, 1]."""


class TensorBoard(Listener):
    """A callback that writes loss, gradient norm, learning rate, validation loss and, if asked for, images to TensorBoard.

    Curves are means over `every` steps, written when the record has them: nothing waits for an accelerator.

    Parameters
    ----------
    writer
        A `Writer`, such as ``torch.utils.tensorboard.SummaryWriter("runs/first")``; the user closes it.
    every
        The number of steps in a point of a curve.
    images
        Called with the averaged model; returns images ``(N, C, H, W)``, whose values are clipped to [0, 1].
    images_every
        Steps between two batches of images.

    Raises
    ------
    ValueError
        If a number of steps is not whole, or below 1.

    Examples
    --------
    >>> class Printing:
    ...     def add_scalar(self, tag, value, step):
    ...         print(step, tag)
    ...     def add_images(self, tag, images, step):
    ...         print(step, tag)
    >>> import sdegen
    >>> model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP())
    >>> board = sdegen.training.TensorBoard(Printing(), every=4)
    >>> run = sdegen.fit(model, sdegen.data.gaussian_ring(), steps=4, batch_size=32, seed=0, callbacks=[board])
    4 training/loss
    4 training/gradient norm
    4 training/learning rate
    """

    @check_arguments
    def __init__(
        self,
        writer: Writer,
        every: int = 50,
        images: Callable[[nn.Module], Tensor] | None = None,
        images_every: int = 1000,
    ) -> None:
        check_count("every", every), check_count("images_every", images_every)
        self.writer, self.every, self.images, self.images_every = writer, every, images, images_every

    def begin(self, training: Training) -> None:
        """Go on after the last step of the record."""
        self.written, self.measured = training.run.steps, len(training.run.validation)

    def __call__(self, step: Step) -> None:
        """Write what is new in the record, and images where they are due."""
        if len(step.run.loss) - self.written >= self.every:
            self.write(step.run)
        if self.images is not None and step.step % self.images_every == 0:
            with step.averaged() as model:
                x = self.images(model)
            self.writer.add_images("samples", x.detach().clamp(0, 1).cpu(), step.step)

    def end(self, training: Training) -> None:
        """Write the steps that have not been written yet."""
        self.write(training.run)

    def write(self, run: Run) -> None:
        """Write curves up to the end of the record."""
        curves = {"loss": run.loss, "gradient norm": run.grad_norm, "learning rate": run.lr}
        while self.written < len(run.loss):
            last = min(self.written + self.every, len(run.loss))
            for name, values in curves.items():
                mean = sum(values[self.written : last]) / (last - self.written)
                self.writer.add_scalar(f"training/{name}", mean, last)
            self.written = last
        for step, (value, stderr) in list(run.validation.items())[self.measured :]:
            self.writer.add_scalar("validation/loss", value, step)
            self.writer.add_scalar("validation/standard error", stderr, step)
        self.measured = len(run.validation)
