import pytest
import torch
from torch import nn

from models.batchnorm import BatchNorm2d, set_view, use_statistics


@pytest.fixture
def batches():
    g = torch.Generator().manual_seed(0)
    return [torch.randn(6, 4, 5, 5, generator=g) * (i + 1) + i for i in range(4)]


def test_trains_and_evaluates_as_torch_does(batches):
    ours, theirs = BatchNorm2d(4), nn.BatchNorm2d(4)
    for x in batches:
        assert torch.equal(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(batches[0]), theirs.eval()(batches[0]))


def test_each_set_follows_its_views(batches):
    layer, contrastive, everything = BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    for x, view in zip(batches, ["contrastive", "whole", "whole", "contrastive"], strict=True):
        set_view(layer, view)
        layer(x)
        everything(x)
        if view == "contrastive":
            contrastive(x)
    torch.testing.assert_close(layer.running_mean, contrastive.running_mean)
    torch.testing.assert_close(layer.running_var, contrastive.running_var)
    torch.testing.assert_close(layer.running_mean_all, everything.running_mean)
    torch.testing.assert_close(layer.running_var_all, everything.running_var)


def test_the_view_never_changes_what_a_training_forward_returns(batches):
    layer = BatchNorm2d(4)
    set_view(layer, "contrastive")
    first = layer(batches[0])
    set_view(layer, "whole")
    assert torch.equal(first, layer(batches[0]))


def test_evaluation_uses_the_chosen_set_and_changes_none(batches):
    layer = BatchNorm2d(4)
    set_view(layer, "whole")
    layer(batches[1])
    layer.eval()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    untouched = layer(batches[0])
    torch.testing.assert_close(untouched, batches[0], rtol=1e-4, atol=1e-4)
    use_statistics(layer, "all")
    assert not torch.allclose(layer(batches[0]), untouched)
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_settings_reach_nested_layers_and_refuse_unknown_names():
    net = nn.Sequential(nn.Sequential(BatchNorm2d(2)), BatchNorm2d(2))
    set_view(net, "whole")
    use_statistics(net, "all")
    assert net[0][0].view == net[1].view == "whole"
    assert net[0][0].statistics == net[1].statistics == "all"
    with pytest.raises(ValueError, match="unknown view 'both'"):
        set_view(net, "both")
    with pytest.raises(ValueError, match="unknown statistics 'whole'"):
        use_statistics(net, "whole")
