"""Which tests an evaluation makes, against values worked out by hand or by scipy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from storage.canonical import pretty_json
from tasks._evaluation.comparisons import (
    OTHER_METRICS,
    Values,
    accuracy_tests,
    adjusted,
    alignment_tests,
    finite,
    paired,
    replication,
)

GUIDED = [[0.5, 0.4, 0.3, 0.6], [0.5, 0.6, 0.3, 0.4]]
PERMUTED = [[0.2, 0.3, 0.1, 0.2], [0.4, 0.3, 0.3, 0.4]]


def table(**scores: object) -> Values:
    """Scores by predictor; what is not given is noise of its own."""

    def values(predictor: str, metric: str) -> NDArray[np.float64]:
        if predictor in scores and metric == "cc":
            return np.array(scores[predictor], np.float64)
        seed = [ord(c) for c in predictor + metric]
        return np.random.default_rng(seed).random((1 if predictor == "centre_prior" else 2, 4))

    return values


def test_primary_is_the_paired_test_of_the_means_over_seeds() -> None:
    found = paired(table(guided=GUIDED, permuted=PERMUTED), "guided", "permuted", "cc", 0)
    # means over seeds: 0.5 0.5 0.3 0.5 and 0.3 0.3 0.2 0.3, so the differences are 0.2 0.2 0.1 0.2
    assert found["mean_first"] == pytest.approx(0.45)
    assert found["difference"] == pytest.approx(0.175)
    assert found["d_z"] == pytest.approx(0.175 / 0.05)
    assert found["t"] == pytest.approx(0.175 / (0.05 / 2))
    margin = stats.t.ppf(0.975, 3) * 0.025
    assert (found["low"], found["high"]) == pytest.approx((0.175 - margin, 0.175 + margin))
    assert (found["n"], found["seeds"], found["left_out"], found["resolved"]) == (4, 2, 0, True)
    low, high = found["bootstrap"]
    assert low < 0.175 < high


def test_undefined_images_are_left_out_of_both_sides_and_counted() -> None:
    guided = [[0.5, np.nan, 0.3, 0.6]]
    found = paired(table(guided=guided, permuted=[[0.2, 0.3, 0.1, np.nan]]), "guided", "permuted", "cc", 0)
    assert (found["n"], found["left_out"]) == (2, 2)
    assert found["difference"] == pytest.approx(0.25)
    assert found["bootstrap"] is None


def test_too_few_pairs_are_told_as_undefined() -> None:
    guided = [[0.5, np.nan, np.nan, np.nan]]
    found = paired(table(guided=guided, permuted=guided), "guided", "permuted", "cc", 0)
    assert found["n"] == 1
    assert found["difference"] is found["p"] is found["resolved"] is None
    assert adjusted([found])[0]["p_holm"] is None


def test_an_interval_with_zero_in_it_is_not_resolved() -> None:
    found = paired(table(guided=[[0.1, 0.5, 0.2]], permuted=[[0.5, 0.1, 0.3]]), "guided", "permuted", "cc", 0)
    assert found["low"] < 0 < found["high"]
    assert found["resolved"] is False


def test_a_prior_without_seeds_is_compared_with_every_seed() -> None:
    found = paired(table(guided=GUIDED, centre_prior=[[0.3, 0.3, 0.2, 0.3]]), "guided", "centre_prior", "cc", 0)
    assert found["difference"] == pytest.approx(0.175)
    assert found["bootstrap"] is not None


def test_holm_covers_the_exploratory_family_and_not_the_primary() -> None:
    tests = alignment_tests(table(guided=GUIDED, permuted=PERMUTED), 0)
    assert "p_holm" not in tests["primary"]
    family = tests["exploratory"]
    assert len(family) == 5 + len(OTHER_METRICS)
    smallest = min(family, key=lambda t: t["p"])
    assert smallest["p_holm"] == pytest.approx(min(1, smallest["p"] * len(family)))
    assert all(t["p"] <= t["p_holm"] <= 1 for t in family)


def test_replication_is_scipys() -> None:
    guided, baseline = np.array([[0.5, 0.4, 0.3, 0.6]]), np.array([[0.1, 0.0, 0.2, 0.1]])
    found = replication(table(guided=guided, baseline=baseline))
    assert found["guided_above_0"]["p"] == pytest.approx(stats.ttest_1samp(guided[0], 0).pvalue)
    welch = stats.ttest_ind(guided[0], baseline[0], equal_var=False)
    assert found["guided_minus_baseline_welch"]["p"] == pytest.approx(welch.pvalue)
    assert found["guided_minus_baseline_welch"]["df"] == pytest.approx(welch.df)


def test_accuracy_is_tested_over_seeds() -> None:
    guided = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], bool)  # 75, 50, 100 %
    baseline = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]], bool)  # 50, 25, 50 %
    found = accuracy_tests({("guided", "all"): guided, ("baseline", "all"): baseline})["all"]
    assert found["by_seed"] == [25, 25, 50]
    assert found["difference"] == pytest.approx(100 / 3)
    assert found["guided"]["sd"] == pytest.approx(25)
    assert found["guided"]["se"] == pytest.approx(25 / np.sqrt(3))
    expected = stats.ttest_rel([75, 50, 100], [50, 25, 50])
    assert found["p"] == pytest.approx(expected.pvalue)
    assert (found["mcnemar"]["only_first"], found["mcnemar"]["only_second"]) == (4, 0)
    assert found["smallest_detectable"] > 0


def test_one_seed_gives_no_interval_of_accuracy() -> None:
    hits = np.array([[True, False]])
    found = accuracy_tests({("guided", "all"): hits, ("baseline", "all"): ~hits})["all"]
    assert found["low"] is found["smallest_detectable"] is found["resolved"] is None
    assert found["difference"] == 0


def test_undefined_numbers_become_null() -> None:
    plain = finite({"a": float("nan"), "b": [np.float64("inf"), 1.5], "c": {"d": -float("inf")}, "e": 3})
    assert json.loads(pretty_json(plain)) == {"a": None, "b": [None, 1.5], "c": {"d": None}, "e": 3}
