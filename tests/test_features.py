"""The shipped feature networks are what they are named, and refuse what they were not made for."""

from __future__ import annotations

import hashlib
import math
import sys
import types
from importlib.resources import files

import pytest
import torch
from torch import Tensor, nn

from sdegen.data import Images, digits, fashion_mnist, mnist, sprites_held_out
from sdegen.metrics import FeatureNet, Inception, accuracy, feature_moments, features, fid
from sdegen.metrics.features import ARCHITECTURES, HASHES, Architecture, read_network, weights_hash

NETWORKS = list(ARCHITECTURES)
SMALL = Architecture((1, 4, 4), (5, 6), (1, 2), ("yes", "no"))


def images(name: str, n: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(n, *ARCHITECTURES[name].shape, generator=torch.Generator().manual_seed(seed))


# --- the networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_small_pinned_and_frozen(name):
    net = features(name)
    content = (files("sdegen") / "weights" / f"{name}.safetensors").read_bytes()
    assert net.name == name and net.hash == HASHES[name] == hashlib.sha256(content).hexdigest()
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert sum(p.numel() for p in net.parameters()) < 300_000
    x = images(name)
    assert net(x).shape == (6, net.dim) and net.dim >= 64
    assert net.logits(x).shape == (6, len(net.architecture.classes))
    assert torch.equal(net(x), features(name)(x.double()))
    torch.testing.assert_close(net(x)[2:4], net(x[2:4]))  # an image's features are its own
    assert (net(images(name, 200)).var(0) > 0).float().mean() > 0.9  # hardly a feature is dead
    assert name in repr(net)


def test_a_wrong_file_is_named_with_both_hashes(tmp_path):
    path = tmp_path / "digits-cnn-v1.safetensors"
    content = bytearray((files("sdegen") / "weights" / path.name).read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(ValueError, match=f"{path} has SHA-256 {found}, but digits-cnn-v1 is {HASHES['digits-cnn-v1']}"):
        read_network("digits-cnn-v1", path)
    with pytest.raises(ValueError, match="no feature network 'lenet'; the library ships digits-cnn-v1, mnist-cnn-v1"):
        features("lenet")


def test_networks_refuse_other_images():
    net = features("digits-cnn-v1")
    x = images("digits-cnn-v1")
    with pytest.raises(TypeError, match=r"x has dtype torch\.uint8; expected floating point in \[0, 1\]: bytes are"):
        net((255 * x).byte())
    with pytest.raises(ValueError, match=r"x has values from -1 to 1; this network takes images in \[0, 1\]: map"):
        net(torch.tensor([-1.0, 1.0]).repeat(32).reshape(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"x has values from 0 to 16"):
        net((16 * x).round().clamp(max=16).index_fill(3, torch.tensor([0]), 16.0).index_fill(3, torch.tensor([1]), 0.0))
    with pytest.raises(ValueError, match="x has values from nan"):
        net(x * math.nan)
    with pytest.raises(ValueError, match=r"x has shape \(6, 8, 8\); this network takes \(B, 1, 8, 8\)"):
        net(x[:, 0])
    assert net(x[:0]).shape == (0, 128)


def test_gradients_reach_the_images():
    x = images("digits-cnn-v1").requires_grad_()
    features("digits-cnn-v1").logits(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def correct(name: str, data: Images) -> float:
    assert data.labels is not None
    return accuracy(data.scaled(0, 1).rows(), data.labels, features(name)).overall.value


def test_the_digits_network_is_as_accurate_as_it_says():
    pytest.importorskip("sklearn")
    assert correct("digits-cnn-v1", digits().split(0.8, seed=0).test) == pytest.approx(1.0, abs=1e-4)


SETS = {
    "mnist-cnn-v1": (lambda: mnist().test, 0.9954),
    "fashion-cnn-v1": (lambda: fashion_mnist().test, 0.9299),
    "sprites-cnn-v1": (sprites_held_out, 270 / 309),
}


@pytest.mark.data
@pytest.mark.parametrize("name", SETS)
def test_networks_are_about_as_accurate_as_they_say(name):
    load, right = SETS[name]
    part = load()[:300]
    assert correct(name, part) == pytest.approx(right, abs=4 * math.sqrt(right * (1 - right) / len(part)))


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_networks_are_as_accurate_as_they_say(name, full_sets):
    load, right = SETS[name]
    assert correct(name, load()) == pytest.approx(right, abs=3e-4)  # a tie may fall otherwise on another machine


def test_features_tell_noisy_digits_from_clean_ones():
    pytest.importorskip("sklearn")
    train, test = digits().split(0.5, seed=0)
    x, y = (part.scaled(0, 1).rows() for part in (train, test))
    net = features("digits-cnn-v1")
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    floor, little, much = (fid((x + s * noise).clamp(0, 1), y, net) for s in (0.0, 0.15, 0.3))
    assert little.value > floor.value + 5 * little.stderr
    assert much.value > little.value + 5 * much.stderr
    assert str(floor).startswith(f"FID[digits-cnn-v1 {net.hash[:6]}] ") and str(floor).endswith(" (898 vs 899)")


# --- any other network ------------------------------------------------------------------------------------------------


def test_any_module_has_a_hash_of_its_weights():
    nets = [FeatureNet("mine", SMALL).eval() for _ in range(2)]
    x = torch.rand(5, 1, 4, 4)
    first, second = (feature_moments(x, net) for net in nets)
    assert first.extractor == "mine" and first.hash == weights_hash(nets[0]) != second.hash
    with pytest.raises(ValueError, match="compute both with one network"):
        fid(first, second)
    nets[1].load_state_dict(nets[0].state_dict())
    assert weights_hash(nets[1]) == first.hash
    linear = nn.Linear(16, 2).eval()
    assert feature_moments(x.flatten(1), linear).extractor == "Linear"
    # Names, dtypes and shapes count as bytes do.
    named = lambda name, value: weights_hash(nn.ParameterDict({name: nn.Parameter(value, requires_grad=False)}))
    assert len({named("a", torch.zeros(4)), named("b", torch.zeros(4)), named("a", torch.zeros(2, 2)),
        named("a", torch.zeros(8).bfloat16()), named("a", torch.zeros(8).half())}) == 5  # fmt: skip
    assert weights_hash(nn.BatchNorm1d(3)) != weights_hash(nn.BatchNorm1d(3, momentum=0.5, affine=False))


def test_networks_that_cannot_be_used_are_refused():
    x = torch.rand(5, 1, 4, 4)
    with pytest.raises(ValueError, match=r"FeatureNet is in training mode.*call eval\(\) first"):
        fid(x, x, FeatureNet("mine", SMALL))
    with pytest.raises(ValueError, match="returned no tensor with 5 rows for 5 samples"):
        fid(x, x, lambda v: v.sum())
    with pytest.raises(ValueError, match=r"log\(data\) holds NaN or infinite values in 5 of 5 rows"):
        fid(0 * x, x, torch.log)
    with pytest.raises(TypeError, match="data yields a list; give a tensor, or an iterable of tensors: "):
        fid([[x, torch.zeros(5)]], x)
    with pytest.raises(ValueError, match="batch_size = 0"):
        fid(x, x, batch_size=0)


# --- accuracy ---------------------------------------------------------------------------------------------------------


def test_accuracy_counts_by_class():
    """A "network" whose logits are the samples: right where the largest entry is at the label."""
    x = torch.eye(3)[[0, 0, 0, 1, 1, 2]]
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    result = accuracy(x, labels, lambda v: v, batch_size=4)
    assert result.overall.value == pytest.approx(4 / 6)
    assert {c: e.value for c, e in result.per_class.items()} == {0: 1.0, 1: 0.5}
    assert result.overall.stderr == pytest.approx(math.sqrt(5 / 8 * 3 / 8 / 6))
    assert result.per_class[0].stderr == pytest.approx(math.sqrt(3 / 4 * 1 / 4 / 2))
    assert str(result).startswith("accuracy[<lambda>] 0.7 ± 0.2 (6): 0: 1.0 ± 0.3, 1: 0.5 ± ")


def test_accuracy_knows_its_error():
    generator = torch.Generator().manual_seed(0)
    logits = torch.rand(300, 400, 2, generator=generator) + torch.tensor([0.5, 0.0])
    found = torch.tensor([accuracy(x, torch.zeros(400).long(), lambda v: v).overall for x in logits]).double()
    assert found[:, 1].mean() / found[:, 0].std() == pytest.approx(1, abs=0.15)
    assert found[:, 0].mean() == pytest.approx(1 - 0.5**3, abs=0.005)


def test_accuracy_refuses_what_are_no_classes():
    net, x = features("digits-cnn-v1"), images("digits-cnn-v1")
    with pytest.raises(TypeError, match=r"labels has dtype torch\.float32"):
        accuracy(x, torch.zeros(6), net)
    with pytest.raises(ValueError, match=r"labels has shape \(5,\); expected one class per sample, \(6,\)"):
        accuracy(x, torch.zeros(5).long(), net)
    with pytest.raises(ValueError, match="labels are from 0 to 10; digits-cnn-v1 knows classes 0 to 9"):
        accuracy(x, torch.tensor([0, 1, 2, 3, 4, 10]), net)
    with pytest.raises(ValueError, match="in training mode"):
        accuracy(x, torch.zeros(6).long(), features("digits-cnn-v1").train())


# --- Inception --------------------------------------------------------------------------------------------------------


def test_inception_asks_for_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ImportError, match="come through torch-fidelity, which is not installed: pip install"):
        Inception()


def test_inception_is_given_bytes(monkeypatch):
    """The library's network stood in for by one that keeps what it is given; its weights cannot be had offline."""

    class Extractor(nn.Module):
        def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str | None) -> None:
            super().__init__()
            assert features_list == ["2048"] and feature_extractor_weights_path == "inception.pth"
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> tuple[Tensor]:
            assert x.dtype == torch.uint8
            return (self.scale * x.float().mean((2, 3)),)

    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    net = Inception("inception.pth")
    x = torch.rand(50, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(x), (255 * x).mean((2, 3)), atol=0.2, rtol=0)
    assert str(fid(x, x.flip(0), net)).startswith(f"FID[inception-v3 {weights_hash(net.net)[:6]}] ")
    with pytest.raises(ValueError, match="x has values from"):
        net(2 * x - 1)
    with pytest.raises(ValueError, match=r"this network takes \(B, 3, 5, 5\)"):
        net(x[:, :1])
