"""The shipped models sample pictures of the classes they are asked for."""

from __future__ import annotations

import pytest
import torch

import sdegen
from sdegen import metrics
from sdegen.files import SHIPPED

# The classifier, and the least accuracy: the sprites' five classes are of 30 to 941 images, and hard to tell.
EXPECTED = {
    "mnist": ("mnist-cnn-v1", 0.8),
    "fashion_mnist": ("fashion-cnn-v1", 0.7),
    "sprites": ("sprites-cnn-v1", 0.35),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_samples_are_of_the_class_asked_for(name, device):
    model = sdegen.pretrained(name).to(device)
    assert not model.training and all(p.dtype == torch.float32 for p in model.parameters())
    classifier, least = EXPECTED[name]
    net = metrics.features(classifier)
    label = torch.arange(40) % len(net.architecture.classes)
    x = sdegen.sample(model, 40, steps=8, seed=0, label=label.to(device)).cpu()
    assert x.shape == (40, *net.architecture.shape)
    right = metrics.accuracy((x.clamp(-1, 1) + 1) / 2, label, net).overall
    assert right.value > least


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="no shipped model 'cifar'; the library ships mnist, fashion_mnist, sprites"):
        sdegen.pretrained("cifar")
