import pytest
import torch
import torchvision
from torch import nn

from models.batchnorm import BatchNorm2d
from models.resnet import ResNet


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("arch", "published"), [("resnet18", 11_689_512), ("resnet50", 25_557_032)])
def test_parameter_count_is_the_published_one(arch, published):
    net = ResNet(arch)
    assert _size(net) + _size(nn.Linear(net.features, 1000)) == published


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
@pytest.mark.parametrize("training", [False, True])
def test_equals_torchvision_with_its_weights(arch, training):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, arch)()
    theirs.fc = nn.Identity()
    ours = ResNet(arch)
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected
    assert all(name.endswith("_all") for name in missing)
    x = torch.randn(4, 3, 64, 64)
    theirs.train(training)
    ours.train(training)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    expected = {name: value for name, value in theirs.state_dict().items() if "running" in name}
    found = ours.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("stem", "sides"), [("imagenet", [32, 16, 8, 4, 2]), ("small", [32, 32, 16, 8, 4])]
)
@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_stages_have_the_strides_and_channels_of_the_stem(arch, stem, sides):
    net = ResNet(arch, width=8, stem=stem)
    outputs = net.stages(torch.rand(1, 3, 64, 64))
    assert [o.shape[-1] for o in outputs] == sides
    assert [o.shape[1] for o in outputs[2:]] == net.tap_channels
    assert all(o.min() >= 0 for o in outputs)
    features, taps = net.eval().forward_taps(torch.rand(2, 3, 64, 64))
    assert features.shape == (2, net.features)
    torch.testing.assert_close(features, taps[2].mean((2, 3)))


def test_initialise_depends_on_the_generator_alone():
    nets = [ResNet("resnet18", 8, "small") for _ in range(3)]
    for net, seed in zip(nets, (1, 1, 2), strict=True):
        net.initialise(torch.Generator().manual_seed(seed), zero_last_gamma=False)
    first, same, other = (net.state_dict() for net in nets)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_zero_last_gamma_silences_every_residual_branch():
    net = ResNet("resnet50", 8, "small")
    net.initialise(torch.Generator().manual_seed(0), zero_last_gamma=True)
    zeros = [name for name, m in net.named_modules() if isinstance(m, BatchNorm2d) and not m.weight.any()]
    assert len(zeros) == 3 + 4 + 6 + 3
    assert all(name.endswith("bn3") for name in zeros)
    # a block without its branch is the ReLU of its shortcut
    block, x = net.layer1[1], torch.rand(2, 32, 8, 8)
    torch.testing.assert_close(block(x), x)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="arch 'resnet19'"):
        ResNet("resnet19")
    with pytest.raises(ValueError, match="stem 'tiny'"):
        ResNet("resnet18", stem="tiny")
