"""What an evaluation found, in sentences: the headline, what it rests on, and what it does not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Metrics = Mapping[str, Any]


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number for reading; a dash where it is undefined."""
    if value is None:
        return "–"
    text = f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")
    return "0." + "0" * digits if text.strip("+−") == "0." + "0" * digits else text


def p_value(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def interval(test: Mapping[str, Any], digits: int = 2) -> str:
    """`+0.11 (95 % interval +0.10 to +0.12)`, or without an interval where there is none."""
    if test["difference"] is None:
        return "undefined"
    middle = number(test["difference"], digits, sign=True)
    if test["low"] is None:
        return f"{middle} (no interval)"
    return f"{middle} (95 % interval {number(test['low'], digits, True)} to {number(test['high'], digits, True)})"


def verdict(test: Mapping[str, Any]) -> str:
    """`better`, `worse` or `not resolved`: an interval that includes zero never says "no difference"."""
    if test.get("resolved") is None:
        return "not testable"
    if not test["resolved"]:
        return "not resolved"
    return "better" if (test["difference"] > 0) != (test.get("metric") == "kld") else "worse"


def headline(metrics: Metrics) -> str:
    """The answer to the primary question, in one line."""
    found = verdict(metrics["tests"]["primary"])
    return {
        "better": "Guidance by the right labels brings the student closer to where people look",
        "worse": "Guidance by the right labels takes the student further from where people look",
        "not resolved": "Whether the right labels matter is not resolved",
        "not testable": "The primary comparison could not be made",
    }[found]


def lead(metrics: Metrics) -> list[str]:
    """Two or three sentences under the headline: primary, controls, secondary."""
    tests, by_name = metrics["tests"], metrics["means"]
    cc = {name: number(by_name[name]["cc"]["mean"]) if "cc" in by_name[name] else "–" for name in by_name}
    primary = tests["primary"]
    sentences = [
        f"On {metrics['images']} images the guided student's maps correlate with people's at CC {cc['guided']}, those "
        f"of the same student trained on permuted labels at {cc['permuted']}: a difference of {interval(primary, 3)}, "
        f"{_resolution(primary)}.",
        f"The stop-gradient baseline reaches {cc['baseline']}, a prior for the centre that looks at no image "
        f"{cc['centre_prior']}, the teacher {cc['teacher']} ({cc['teacher_small']} with only the pixels the student "
        f"sees), and a model without noise could reach {number(metrics['ceiling']['cc'])}.",
    ]
    return [*sentences, accuracy_sentence(metrics)]


def accuracy_sentence(metrics: Metrics) -> str:
    """The secondary question: top-1, guided minus baseline."""
    test = metrics["tests"]["secondary"].get("contrastive")
    if test is None:
        return f"Accuracy was not measured: {metrics['accuracy']['reason']}."
    with_, without = (number(test[arm]["mean"], 1) for arm in ("guided", "baseline"))
    start = f"Top-1 of the probe is {with_} % with guidance and {without} % without"
    if test["low"] is None:
        return f"{start} ({number(test['difference'], 1, True)} points); with one seed that is not resolved."
    return f"{start}: {interval(test, 1)} points over {test['guided']['n']} seeds, {_resolution(test)}."


def limits(metrics: Metrics, warnings: Sequence[str]) -> list[str]:
    """What speaks against the headline, and what the numbers cannot say; always something."""
    tests, means = metrics["tests"], metrics["means"]
    by_pair = {(t["first"], t["second"]): t for t in tests["exploratory"] if t["metric"] == "cc"}
    found = [*warnings, *_failed(by_pair), *_readout(by_pair)]
    found += _seeds(len(metrics["seeds"]), tests["primary"])
    every = (tests["primary"], *tests["exploratory"])
    left_out = dict.fromkeys(f"{t['left_out']} for {t['metric']}" for t in every if t["left_out"])
    if left_out:
        found.append(f"Images without a defined score were left out, in pairs: {', '.join(left_out)}.")
    other = means["guided"].get("shuffled_cc")
    if other:
        found.append(
            f"Against another image's people the guided student still scores CC {number(other['mean'])}: that much is "
            "where people look in any image."
        )
    found.append("All tests but the primary and the secondary one are exploratory; Holm's adjustment covers them.")
    return found


def _seeds(count: int, primary: Mapping[str, Any]) -> list[str]:
    """What so many seeds allow to say."""
    if count == 1:
        return [
            "One seed in each arm: intervals and p values speak of these networks and these images. Only several "
            "seeds could speak of the method."
        ]
    found = []
    if primary["resolved"] and not primary["bootstrap_resolved"]:
        found.append("The primary difference is resolved over images, but not once seeds are drawn anew as well.")
    if count < 5:
        found.append(f"{count} seeds in each arm are few: a bootstrap over so few seeds tends to be too narrow.")
    return found


def _failed(by_pair: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    told = {
        "baseline": "the stop-gradient baseline",
        "centre_prior": "a prior for the centre that never looks at the image",
    }
    return [
        f"The guided student is not shown to be closer to people than {name}: {interval(by_pair['guided', other], 3)}, "
        f"{_resolution(by_pair['guided', other])}."
        for other, name in told.items()
        if verdict(by_pair["guided", other]) != "better"
    ]


def _readout(by_pair: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    """How much of the gap to the baseline is the readout's and not the features'."""
    own, common = by_pair["guided", "baseline"], by_pair["guided.common", "baseline.common"]
    if own["difference"] is None or common["difference"] is None:
        return []
    start = (
        "Under the common readout, fitted to all channels of the frozen features, guided minus baseline is "
        f"{interval(common, 3)}"
    )
    if abs(common["difference"]) < abs(own["difference"]):
        instead = number(own["difference"], 3, sign=True)
        return [f"{start} instead of {instead}: the rest of the gap is the three-weight readout, not the features."]
    return [f"{start}, no smaller than with their own readouts."]


def _resolution(test: Mapping[str, Any]) -> str:
    return {
        "better": "resolved",
        "worse": "resolved, against guidance",
        "not resolved": "not resolved: the interval includes zero",
        "not testable": "not testable",
    }[verdict(test)]
