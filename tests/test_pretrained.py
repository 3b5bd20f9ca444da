"""The shipped models sample pictures of the classes they are asked for."""

from __future__ import annotations

import pytest
import torch

import sdegen
from sdegen import metrics
from sdegen.pretrained import NAMES

CLASSIFIERS = {"mnist": "mnist-cnn-v1", "fashion_mnist": "fashion-cnn-v1", "sprites": "sprites-cnn-v1"}


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_of_the_class_asked_for(name, device):
    model = sdegen.pretrained(name).to(device)
    assert not model.training and all(p.dtype == torch.float32 for p in model.parameters())
    net = metrics.features(CLASSIFIERS[name])
    label = torch.arange(40) % len(net.architecture.classes)
    x = sdegen.sample(model, 40, steps=8, seed=0, label=label.to(device)).cpu()
    assert x.shape == (40, *net.architecture.shape)
    right = metrics.accuracy((x.clamp(-1, 1) + 1) / 2, label, net).overall
    assert right.value > 0.7  # 0.1 to 0.2 by chance


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="no shipped model 'cifar'; the library ships mnist, fashion_mnist, sprites"):
        sdegen.pretrained("cifar")
