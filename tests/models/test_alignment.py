import math

import numpy as np
import pytest

from models import metrics
from models.alignment import Gaze, centre_prior, label_skill, references, score, to_frame
from models.human_maps import human_map


def gazes(count=6, width=80, height=60, seed=0, people=4):
    """Every image has a spot of its own, and everybody looks near it."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        spot = rng.uniform([15, 15], [width - 15, height - 15])
        points = np.clip(rng.normal(spot, 3, (people * 5, 2)), 0, [width - 0.01, height - 0.01])
        made.append(Gaze(points[:, 0], points[:, 1], np.repeat(np.arange(people), 5), width, height))
    return made


def test_to_frame_gives_a_density_in_the_frame():
    density = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    framed = to_frame(density, 80, 60)
    assert framed.shape == (60, 80)
    assert framed.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(to_frame(framed, 80, 60), framed, rtol=1e-5)
    np.testing.assert_allclose(to_frame(np.full((8, 8), 3.0), 80, 60), 1 / 4800, rtol=1e-5)


def test_people_score_perfectly_against_themselves_and_better_than_chance():
    for reference in references(gazes()):
        own = score(reference.human, reference)
        assert own["cc"] == pytest.approx(1, abs=1e-6)
        assert own["kld"] == pytest.approx(0, abs=1e-6)
        assert own["sim"] == pytest.approx(1, abs=1e-6)
        assert own["nss"] > 2
        assert own["auc_judd"] > 0.9
        assert own["sauc"] > 0.8
        assert own["ig"] > 1
        assert own["shuffled_cc"] < own["cc"]


def test_a_uniform_prediction_knows_nothing():
    reference = next(references(gazes()))
    blank = score(np.ones((16, 16), np.float32), reference)
    assert blank["cc"] == pytest.approx(0, abs=1e-3)
    assert blank["auc_judd"] == pytest.approx(0.5, abs=0.2)
    assert blank["ig"] < 1


def test_scores_are_the_metrics_in_the_frame():
    prediction = np.random.default_rng(1).random((20, 20)).astype(np.float32)
    reference = list(references(gazes()))[2]
    framed = to_frame(prediction, 80, 60)
    x, y = reference.gaze.x.astype(int), reference.gaze.y.astype(int)
    got = score(prediction, reference)
    assert got["cc"] == float(metrics.correlation(framed, human_map(reference.gaze.x, reference.gaze.y, 80, 60)))
    assert got["nss"] == metrics.nss(framed, x, y)
    assert got["ig"] == metrics.information_gain(framed, reference.centre_bias, x, y)
    assert set(got) == {"cc", "nss", "kld", "sim", "auc_judd", "sauc", "ig", "shuffled_cc"}


def test_an_image_nobody_looked_at_scores_nan_throughout():
    everyone = gazes()
    everyone[1] = everyone[1].only(np.zeros(20, bool))
    scores = score(np.random.default_rng(0).random((16, 16)).astype(np.float32), list(references(everyone))[1])
    assert {name for name, value in scores.items() if math.isnan(value)} == set(scores) - {"shuffled_cc"}


def test_references_leave_the_image_itself_out():
    everyone = gazes(4)
    before = list(references(everyone, seed=3))
    moved = Gaze(79 - everyone[2].x.clip(0, 78), everyone[2].y, everyone[2].subject, 80, 60)
    after = list(references([*everyone[:2], moved, everyone[3]], seed=3))
    np.testing.assert_allclose(before[2].centre_bias, after[2].centre_bias, atol=1e-8)
    assert np.abs(before[0].centre_bias - after[0].centre_bias).max() > 1e-5
    np.testing.assert_array_equal(before[2].others.x, after[2].others.x)
    assert [len(reference.others.x) for reference in before] == [60] * 4


def test_the_centre_bias_is_positive_everywhere_and_sums_to_one():
    for reference in references(gazes(2)):
        assert reference.centre_bias.min() > 0
        assert reference.centre_bias.sum() == pytest.approx(1, abs=1e-4)


def test_shuffled_partners_are_other_images_each_used_once():
    everyone = gazes(5)
    maps = [gaze.map() for gaze in everyone]
    partners = []
    for index, reference in enumerate(references(everyone, seed=1)):
        (partner,) = [i for i, human in enumerate(maps) if np.allclose(human, reference.other_human)]
        assert partner != index
        partners.append(partner)
    assert sorted(partners) == [0, 1, 2, 3, 4]


def test_frames_may_differ_between_images():
    mixed = [*gazes(2), *gazes(2, 40, 100, seed=1)]
    for reference in references(mixed):
        others = reference.others
        assert (others.width, others.height) == (reference.gaze.width, reference.gaze.height)
        assert ((others.x >= 0) & (others.x < others.width) & (others.y >= 0) & (others.y < others.height)).all()
        assert all(np.isfinite(value) for value in score(reference.human, reference).values())


def test_moving_gaze_keeps_its_place_and_stays_inside():
    edge = np.nextafter(np.float32(80), np.float32(0))
    gaze = Gaze(np.array([40, edge], np.float32), np.array([30, 0], np.float32), np.array([0, 0]), 80, 60)
    moved = gaze.moved_to(7, 300)
    assert moved.x[0] == pytest.approx(3.5)
    assert moved.y[0] == pytest.approx(150)
    assert moved.x[1] < 7


def test_the_centre_prior_is_the_mean_map_on_the_square():
    one, two = gazes(2)
    empty = one.only(np.zeros(20, bool))
    both = centre_prior([one, two, empty], 32)
    np.testing.assert_allclose(both, (centre_prior([one], 32) + centre_prior([two], 32)) / 2, rtol=1e-4, atol=1e-9)
    assert both.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(centre_prior([], 4), 1 / 16)


def test_label_skill_runs_from_the_mean_label_to_perfection():
    labels = np.random.default_rng(0).random((5, 8, 8)).astype(np.float32) ** 4
    mean = labels.mean(0)
    assert label_skill(labels, labels, mean) == pytest.approx(1)
    assert label_skill(labels, np.broadcast_to(mean, labels.shape), mean) == pytest.approx(0)
    assert label_skill(labels, labels[::-1], mean) < 0


def test_one_image_is_not_enough():
    with pytest.raises(ValueError, match="expected at least 2 images"):
        next(references(gazes(1)))
