"""The shipped models sample pictures of the classes they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sdegen
from sdegen import metrics, samplers
from sdegen.files import JUMPING, SHIPPED

# The classifier, and the least accuracy: the sprites' five classes are of 30 to 941 images, and hard to tell.
EXPECTED = {
    "mnist": ("mnist-cnn-v1", 0.8),
    "fashion_mnist": ("fashion-cnn-v1", 0.7),
    "sprites": ("sprites-cnn-v1", 0.35),
}


@pytest.mark.turns("fashion_mnist", "mnist")
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


@pytest.mark.parametrize("name", JUMPING)
def test_one_jump_is_of_the_class_asked_for(name, device):
    model = sdegen.pretrained(name, jumps=True).to(device)
    classifier, least = EXPECTED[name]
    net = metrics.features(classifier)
    label = torch.arange(40) % len(net.architecture.classes)
    x = sdegen.sample(model, 40, sampler=samplers.Jumps(1), seed=0, label=label.to(device)).cpu()
    right = metrics.accuracy((x.clamp(-1, 1) + 1) / 2, label, net).overall
    assert right.value > least


@pytest.mark.parametrize("name", JUMPING)
def test_a_map_is_smaller_than_four_megabytes_and_follows_its_teacher(name):
    path = Path(sdegen.__file__).parent / "weights" / f"{JUMPING[name]}.safetensors"
    assert path.stat().st_size < 4e6
    teacher, model = sdegen.pretrained(name), sdegen.pretrained(name, jumps=True)
    flow = samplers.default(teacher, 10, eta=0.0)
    label = torch.arange(12) % 5
    like = sdegen.sample(teacher, 12, sampler=flow, seed=0, label=label)
    off = [
        (sdegen.sample(model, 12, sampler=samplers.Jumps(1), seed=seed, label=label) - like).square().mean().sqrt()
        for seed in (0, 1)
    ]
    assert off[0] < 0.5 * off[1]  # of the same noise, and of other


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="no shipped model 'cifar'; the library ships mnist, fashion_mnist, sprites"):
        sdegen.pretrained("cifar")
    with pytest.raises(ValueError, match="no shipped model 'cifar'; the library ships mnist, fashion_mnist, sprites"):
        sdegen.pretrained("cifar", jumps=True)
