import math

import numpy as np
import pytest

from models import metrics
from models.alignment import Gaze
from models.ceiling import leave_one_out, split_half


def gaze(people=6, spread=3.0, points=8, seed=0):
    rng = np.random.default_rng(seed)
    x = np.clip(rng.normal(30, spread, people * points), 0, 79.9)
    y = np.clip(rng.normal(25, spread, people * points), 0, 59.9)
    return Gaze(x, y, np.repeat(np.arange(1, people + 1), points), 80, 60)


def test_two_people_have_one_split():
    pair = gaze(people=2)
    result = split_half(pair, splits=5)
    halves = [pair.only(pair.subject == person).map() for person in (1, 2)]
    r = float(metrics.correlation(*halves))
    assert result.r == pytest.approx(r, rel=1e-4)
    assert result.reliability == pytest.approx(2 * r / (1 + r), rel=1e-4)
    assert result.ceiling == pytest.approx(math.sqrt(2 * r / (1 + r)), rel=1e-4)


def test_four_people_have_three_splits():
    """With many draws the mean tends to that over the three ways to split, each from maps built outright."""
    four = gaze(people=4, spread=8)
    by_hand = [
        metrics.correlation(*(four.only(np.isin(four.subject, half)).map() for half in split))
        for split in (((1, 2), (3, 4)), ((1, 3), (2, 4)), ((1, 4), (2, 3)))
    ]
    assert min(by_hand) - 1e-6 <= split_half(four, 1).r <= max(by_hand) + 1e-6
    assert split_half(four, 3000).r == pytest.approx(np.mean(by_hand), abs=0.01)


def test_people_who_agree_have_a_higher_ceiling():
    close, apart = split_half(gaze(spread=2)), split_half(gaze(spread=15))
    assert close.r > apart.r
    assert 0 < apart.r < apart.reliability < apart.ceiling < 1
    assert split_half(gaze(people=7)).r > 0.5


def test_the_seed_decides_the_splits():
    assert split_half(gaze(), 10, seed=1) == split_half(gaze(), 10, seed=1)
    assert split_half(gaze(spread=9), 10, seed=1) != split_half(gaze(spread=9), 10, seed=2)


def test_leave_one_out_is_the_mean_over_people():
    three = gaze(people=3)
    uniform = np.full((60, 80), 1 / 4800, np.float32)
    expected = []
    for person in (1, 2, 3):
        own = three.only(three.subject == person)
        others = three.only(three.subject != person).map()
        expected.append(metrics.nss(others, own.x.astype(int), own.y.astype(int)))
    result = leave_one_out(three, uniform)
    assert result["nss"] == pytest.approx(np.mean(expected))
    assert result["auc_judd"] > 0.8
    assert result["ig"] > 1


def test_one_person_has_no_ceiling():
    alone = gaze(people=1)
    assert math.isnan(split_half(alone).ceiling)
    assert all(math.isnan(value) for value in leave_one_out(alone, np.ones((60, 80), np.float32)).values())
