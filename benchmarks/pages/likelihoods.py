"""Write the sections about densities, bounds and bits."""

from __future__ import annotations

from benchmarks.pages.blocks import illustrated, tables

LIKELIHOOD = {
    "flow": """### Integrating the flow

The ring, 500 points, from the true law at T; nats.""",
    "divergence": """### Estimated divergences

Root mean square error in nats on a law of sixteen dimensions under VP.""",
    "bounds": """### Bounds

Nats below the density, and the standard deviation of one draw, by the law that times are drawn from; then chains of N steps.""",
    "processes": """### Every process, trained

The ring, the double well on a smaller one; KL and negative log-likelihood by the flow, of CLD of the whole state, in
nats. For the nonlinear process also the bound of its reversed SDE, from the true score on a grid, and what the target
of short kernels is off by.""",
    "learned": """### Learned processes

Nats below the true density on the ring, of a chain of 20 states at equal distances in `t`, before training with the
true score and after training network and process on that bound; and of the process itself.""",
    "identity": """### A diffusion model is a hierarchical VAE

Terms of the negative bound in nats, of two trained models and of the hierarchical VAE with their encoder: fixed
variances, learned ones.""",
    "images": """### Bits per dimension, and foreign images

8 bits, uniform dequantisation (the digits have 17 levels), flow with one probe an image, the shipped models without
class, of the digits one trained for it, beside the flows of the families table; then areas under the curve, 0.5 being
chance, of five scores that should be larger for images of the other set (docs/likelihood.md): MNIST of Fashion-MNIST
and the other way round. Rows *trained for bits* are bounds by a chain of 25 steps, of 50 images of each kind.
Published for MNIST: RealNVP 1.06, residual flow 0.97.""",
}

RECIPE = {
    "parts": """### What tells fine detail apart

Digits after 600 steps of a small network, one seed: 100 test images. *Flow, uniform noise* is that of `bits_per_dim`, which
asks the network about states between bytes, and below the noise that it was trained with.""",
    "starts": """### How training starts

MNIST seen at every third pixel, 8 x 8, 250 steps of a small network, batches of 64: the bound in continuous time of 500 test
images, with averaged weights. ± is over three seeds of the training; norms are those before clipping.""",
    "clip": """### How training ends without clipping

The digits by their recipe, and Fashion-MNIST seen at every third pixel, 800 steps of a network of that size: bounds in
continuous time, bits per number of the test images (500 of Fashion-MNIST), with averaged weights. Both trainings of a pair
begin with the same weights and see the same batches; differences are those of each image. ± of one seed is over images.""",
    "dequantised": """### Noise in the cells that is learned

Digits, bits per number of all test images by RealNVP after 600 steps in all: of the flow under uniform noise, the last third
of them of the noise alone where it is learned after (`likelihood.Dequantiser`), or of both together. *Score model*: 24 test
digits of 4 x 4, by the flow of a perceptron with exact divergences, whose noise learned by the bound in continuous time. All
columns are bounds from above in the mean over noise, weighted by importance where there are several draws. There are 64 draws
of each image, and a figure of fewer is the mean over all groups of so many. ± of one seed is over images.""",
    "schedule": """### A learned schedule

Digits, 300 steps of a small network on the bound of a chain of 12 states at equal distances in `t` (`losses.Variational` with
`cells`), by which test images are judged: of a schedule even in the log-SNR between the recipe's ends, and of the same where
its ends, its shape, or both were learned with the network (`LearnedSchedule`). Four chains for each image; ± of one seed is
over images.""",
}

SECONDS = "bits of images that are not trained on, against seconds of training"

CODEC = {
    "codec": "",
    "recipe": """### Parts of a training for bits

Of the same small network of the digits, in nats an image of the test set: bounds of chains of 50 steps that end at noise
of two steps between bytes, and of one. 600 steps of training; one seed.""",
    "gradient": """### How noisy gradients of the likelihood are

The variance of the gradient of a batch of 64 over the square of its mean, from 50 batches, after 100 steps of training,
by laws of the times. All have the same mean; with opposite pairs a batch is 128 evaluations.""",
}


def sections() -> dict[str, str]:
    """Return the sections by their markers in the page of tables."""
    return {
        "likelihood": tables("likelihood_table", LIKELIHOOD),
        "bits": "\n".join([illustrated("likelihood_recipe", "images", SECONDS), tables("likelihood_recipe", RECIPE)]),
        "codec": tables("codec_table", CODEC),
    }
