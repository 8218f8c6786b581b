import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention import (
    CommonReadout,
    MaxChannelReadout,
    apply_readout,
    chosen_channels,
    readout_maps,
    refit_readout,
    resize_bilinear,
    spatial_softmax,
)


def _taps(batch=5, seed=0, channels=(6, 7, 8), sides=(16, 8, 4)):
    g = torch.Generator().manual_seed(seed)
    return [torch.rand(batch, c, s, s, generator=g) for c, s in zip(channels, sides, strict=True)]


def _kld(logits, targets):
    log_p = F.log_softmax(logits.flatten(1), 1)
    return (targets.flatten(1) * (targets.flatten(1).log() - log_p)).sum(1).mean().item()


@given(source=st.integers(1, 20), target=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_resize_equals_torch_interpolate(source, target, seed):
    maps = torch.rand(3, source, source, generator=torch.Generator().manual_seed(seed))
    expected = F.interpolate(maps[:, None], (target, target), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(resize_bilinear(maps, target), expected, rtol=1e-5, atol=1e-6)


def test_the_channel_with_the_largest_mean_is_chosen_and_ties_take_the_lowest():
    tap = torch.zeros(3, 4, 2, 2)
    tap[0, 2] = 1
    tap[0, 3, 0, 0] = 3.9            # the largest value, but not the largest mean
    tap[1, 1] = tap[1, 3] = 0.5
    assert chosen_channels(tap).tolist() == [2, 1, 0]


def test_maps_are_the_chosen_channels_resized():
    taps = _taps()
    maps = readout_maps(taps, 32)
    assert maps.shape == (5, 3, 32, 32)
    for k, tap in enumerate(taps):
        for b in range(5):
            channel = int(np.argmax(tap[b].numpy().mean((1, 2))))
            expected = F.interpolate(tap[b, channel][None, None], (32, 32), mode="bilinear")[0, 0]
            torch.testing.assert_close(maps[b, k], expected)


def test_gradient_reaches_the_chosen_channels_alone():
    taps = [tap.requires_grad_() for tap in _taps()]
    logits = MaxChannelReadout()(taps, 32)
    spatial_softmax(logits)[:, 3, 5].sum().backward()
    for tap in taps:
        touched = tap.grad.flatten(2).abs().sum(2) > 0
        assert torch.equal(touched, F.one_hot(chosen_channels(tap), tap.shape[1]).bool())


def test_the_bias_cancels_in_the_softmax():
    readout, taps = MaxChannelReadout(), _taps()
    before = spatial_softmax(readout(taps, 32))
    with torch.no_grad():
        readout.bias.fill_(7.5)
    torch.testing.assert_close(spatial_softmax(readout(taps, 32)), before, rtol=1e-4, atol=1e-8)
    density = spatial_softmax(readout(taps, 32))
    torch.testing.assert_close(density.sum((1, 2)), torch.ones(5))
    density[:, 0, 0].log().sum().backward()
    assert readout.bias.grad.abs() < 1e-5
    assert (readout.weight.grad.abs() > 1e-4).all()


def test_readout_is_a_1x1_convolution():
    conv, maps = torch.nn.Conv2d(3, 1, 1), torch.rand(2, 3, 8, 8)
    found = apply_readout(maps, conv.weight.flatten(), conv.bias[0])
    torch.testing.assert_close(found, conv(maps)[:, 0])


def test_bfloat16_features_are_read_in_float32():
    taps = [tap.bfloat16() for tap in _taps()]
    with torch.autocast("cpu", torch.bfloat16):
        found = MaxChannelReadout()(taps, 32)
    assert found.dtype == torch.float32
    assert torch.equal(found, MaxChannelReadout()([tap.float() for tap in taps], 32))


def test_refit_recovers_the_weights_that_made_the_targets():
    maps = readout_maps(_taps(40), 24) * torch.tensor([1.0, 30.0, 0.02])[:, None, None]
    true = torch.tensor([4.0, -0.1, 60.0])
    targets = spatial_softmax(apply_readout(maps, true, torch.zeros(())))
    fit = refit_readout(maps, targets)
    torch.testing.assert_close(fit.weights, true, rtol=1e-2, atol=1e-3)
    assert fit.bias == 0
    assert abs(fit.kld) < 1e-5
    assert torch.equal(refit_readout(maps, targets).weights, fit.weights)


def test_refit_is_a_minimum_and_leaves_a_dead_tap_alone():
    maps = readout_maps(_taps(30), 16)
    maps[:, 1] = 0
    targets = spatial_softmax(torch.rand(30, 16, 16, generator=torch.Generator().manual_seed(9)))
    fit = refit_readout(maps, targets)
    assert fit.weights[1] == 0
    assert fit.kld == pytest.approx(_kld(apply_readout(maps, fit.weights, fit.bias), targets), abs=1e-6)
    for shift in torch.eye(3):
        for sign in (-0.05, 0.05):
            moved = _kld(apply_readout(maps, fit.weights + sign * shift, fit.bias), targets)
            assert moved >= fit.kld - 1e-7


def test_common_readout_weights_every_channel_of_every_tap():
    taps, readout = _taps(), CommonReadout([6, 7, 8])
    readout.weight.copy_(torch.randn(21, generator=torch.Generator().manual_seed(1)))
    readout.bias.fill_(0.5)
    resized = torch.cat([F.interpolate(tap, (32, 32), mode="bilinear") for tap in taps], dim=1)
    expected = torch.einsum("bchw,c->bhw", resized, readout.weight) + 0.5
    torch.testing.assert_close(readout(taps, 32), expected, rtol=1e-4, atol=1e-5)


def test_common_readout_converges_to_the_labels_it_can_express():
    taps, truth = _taps(60), CommonReadout([6, 7, 8])
    truth.weight.copy_(torch.randn(21, generator=torch.Generator().manual_seed(1)))
    targets = spatial_softmax(truth(taps, 16))
    chunks = [([tap[i : i + 20] for tap in taps], targets[i : i + 20]) for i in (0, 20, 40)]
    readout = CommonReadout([6, 7, 8])
    assert readout.fit(chunks) < 1e-5
    torch.testing.assert_close(readout.weight, truth.weight, rtol=2e-2, atol=2e-2)


def test_targets_of_another_length_are_refused():
    with pytest.raises(ValueError, match="expected 4 densities"):
        refit_readout(torch.rand(4, 3, 8, 8), torch.rand(3, 8, 8))
