"""The report: safe with hostile data, complete, and honest in words."""

from __future__ import annotations

import copy
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks._evaluation.comparisons import accuracy_tests, alignment_tests
from tasks._report.page import page
from tasks._report.sections import alignment_rows
from tasks._report.words import headline, interval, lead, limits, number, p_value, verdict

CC = {"teacher": 0.55, "teacher_small": 0.5, "guided": 0.4, "permuted": 0.3, "baseline": 0.1, "centre_prior": 0.28}
ARMS = ("guided", "permuted", "baseline")
PNG = b"\x89PNG picture"
HOSTILE = '<script>alert("x")</script>'


def scores(predictor: str, metric: str) -> NDArray[np.float64]:
    """Two seeds, forty images; the features of all arms differ less than their readouts."""
    stem, _, readout = predictor.partition(".")
    rng = np.random.default_rng([ord(c) for c in predictor + metric])
    mean = 0.3 + CC[stem] / 4 if readout else CC[stem]
    return mean * (-1 if metric == "kld" else 1) + rng.normal(0, 0.05, (2 if stem in ARMS else 1, 40))


@pytest.fixture
def metrics() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    names = [*CC, "centre_bias", *(f"{a}.{r}" for a in ARMS for r in ("refit", "common")), "untrained.common"]
    all_metrics = ("cc", "nss", "kld", "sim", "auc_judd", "sauc", "ig", "shuffled_cc")
    level = {n: CC.get(n.split(".")[0], 0.25) for n in names}
    means = {
        n: {m: {"mean": level[n], "by_seed": [level[n]] * 2, "images": 40} for m in all_metrics[: 1 if "." in n else 8]}
        for n in names
    }
    top1 = {(a, s): rng.random((2, 500)) < 0.3 for a in ARMS for s in ("contrastive", "all")}
    hits = {"top1": {"mean": 30.1, "by_seed": [30.0, 30.2]}, "top5": {"mean": 60.0, "by_seed": [60.0, 60.0]}}
    skill = {a: {"label_skill": [0.3, 0.3]} for a in ARMS} | {"untrained": {"label_skill": None}}
    return {
        "images": 40,
        "seeds": [0, 1],
        "means": means,
        "ceiling": {"cc": 0.85, "split_half_r": 0.6, "reliability": 0.72, "nss": 2.0, "auc_judd": 0.9, "ig": 1.1},
        "readouts": skill,
        "held_out_images": 1000,
        "accuracy": {"images": 500, "reason": "", "arms": {a: {"contrastive": hits, "all": hits} for a in ARMS}},
        "tests": alignment_tests(scores, 0) | {"secondary": accuracy_tests(top1)},
    }


def written(metrics: dict[str, Any], key: str = "stimuli/1", warnings: tuple[str, ...] = ()) -> str:
    pictures = {f"{n}.png": PNG for n in ("montage", "distributions", "differences")}
    tables = {"Inputs": [{"role": "teacher", "node": key}]}
    facts = {"version": "evaluation@0123", "warnings": warnings, "shown": [key], "tables": tables}
    return page(metrics, pictures, facts)


class Tags(HTMLParser):
    """Counts what opens and closes, and keeps every address."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_it_is_whole_and_needs_nothing_else(metrics: dict[str, Any]) -> None:
    tags = Tags()
    tags.feed(written(metrics))
    assert not tags.open
    assert not tags.seen & {"script", "link", "iframe"}
    assert len(tags.addresses) == 3
    assert all(a.startswith("data:image/png;base64,") for a in tags.addresses)


def test_hostile_data_is_escaped(metrics: dict[str, Any]) -> None:
    metrics["accuracy"] = {"images": 0, "reason": HOSTILE, "arms": {}}
    metrics["tests"]["secondary"] = {}
    html = written(metrics, HOSTILE, (HOSTILE,))
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 4


def test_headline_numbers_stand_in_the_page(metrics: dict[str, Any]) -> None:
    html = written(metrics)
    primary = metrics["tests"]["primary"]
    shown_difference = [number(primary[k], 3, True) for k in ("difference", "low", "high")]
    for shown in (*shown_difference, "0.40", "0.85", "evaluation@0123"):
        assert shown in html
    assert headline(metrics).startswith("Guidance by the right labels brings")


def test_what_is_not_resolved_is_called_so(metrics: dict[str, Any]) -> None:
    metrics["tests"]["primary"] |= {"difference": 0.01, "low": -0.02, "high": 0.04, "resolved": False}
    assert headline(metrics) == "Whether the right labels matter is not resolved"
    assert "not resolved: the interval includes zero" in lead(metrics)[0]
    assert "no difference" not in written(metrics)


def test_a_harmful_guidance_is_told(metrics: dict[str, Any]) -> None:
    metrics["tests"]["primary"] |= {"difference": -0.1, "low": -0.12, "high": -0.08, "resolved": True}
    assert "takes the student further" in headline(metrics)


def test_limits_name_what_failed(metrics: dict[str, Any]) -> None:
    weak = copy.deepcopy(metrics)
    for test in weak["tests"]["exploratory"]:
        if test["second"] == "centre_prior":
            test |= {"difference": -0.05, "low": -0.07, "high": -0.03, "resolved": True}
    weak["seeds"] = [0]
    told = " ".join(limits(weak, ["A warning."]))
    assert told.startswith("A warning.")
    assert "never looks at the image" in told
    assert "One seed in each arm" in told
    assert "never looks at the image" not in " ".join(limits(metrics, []))


def test_the_readouts_share_of_the_gap_is_told(metrics: dict[str, Any]) -> None:
    assert any("the rest of the gap is the three-weight readout" in s for s in limits(metrics, []))


def test_lower_divergence_is_better() -> None:
    test = {"resolved": True, "difference": -0.2, "metric": "kld"}
    assert verdict(test) == "better"
    assert verdict(test | {"metric": "cc"}) == "worse"


def test_one_row_per_predictor_for_the_run_page(metrics: dict[str, Any]) -> None:
    rows = alignment_rows(metrics)
    assert [r["cc"] for r in rows[:3]] == [0.55, 0.5, 0.4]


@pytest.mark.parametrize(
    ("value", "digits", "sign", "text"),
    [
        (None, 2, False, "–"),
        (-0.5, 2, True, "−0.50"),
        (0.126, 2, True, "+0.13"),
        (-0.0001, 2, True, "0.00"),
        (49.4, 0, False, "49"),
        (0.2, 0, False, "0"),
    ],
)
def test_numbers_are_written_for_people(value: float | None, digits: int, sign: bool, text: str) -> None:
    assert number(value, digits, sign) == text


def test_small_p_values_are_bounded() -> None:
    assert (p_value(None), p_value(0.0), p_value(0.0421)) == ("–", "< 0.001", "0.042")


def test_intervals_without_bounds_say_so() -> None:
    assert interval({"difference": None, "low": None, "high": None}) == "undefined"
    assert interval({"difference": 1.0, "low": None, "high": None}) == "+1.00 (no interval)"
