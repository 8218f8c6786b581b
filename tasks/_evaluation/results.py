"""An evaluation as plain values: what `metrics.json` holds, and the few numbers of its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks._evaluation.accuracy import Accuracy
from tasks._evaluation.comparisons import accuracy_tests, alignment_tests, finite
from tasks._evaluation.networks import ROLES, Arm
from tasks._evaluation.readouts import Readouts
from tasks._evaluation.scoring import METRICS, Table

Fitted = Sequence[tuple[Arm, Readouts]]


def metrics_of(table: Table, fitted: Fitted, accuracy: Accuracy, held_out: int, seed: int) -> dict[str, Any]:
    """All numbers of the evaluation, null where one is undefined."""
    found = {
        "images": len(table.images),
        "seeds": [arm.seed for arm, _ in fitted if arm.name == "guided"],
        "means": {name: means(table, name) for name in table.predictors()},
        "ceiling": {m: _mean(table.values("people", m)) for m in _CEILING},
        "readouts": {name: _readouts(name, fitted) for name in dict.fromkeys(a.name for a, _ in fitted)},
        "held_out_images": held_out,
        "accuracy": _accuracy(accuracy),
        "tests": alignment_tests(table.values, seed) | {"secondary": accuracy_tests(accuracy.top1)},
    }
    plain: dict[str, Any] = finite(found)
    return plain


_CEILING = ("cc", "split_half_r", "reliability", "nss", "auc_judd", "ig")


def means(table: Table, predictor: str) -> dict[str, Any]:
    """A predictor's mean of every metric over images and seeds, and how many images define it."""
    found: dict[str, Any] = {"seeds": len(table.values(predictor, "cc"))}
    for metric in METRICS:
        values = table.values(predictor, metric)
        if np.isfinite(values).any():
            by_seed = [_mean(row) for row in values]
            usable = int(np.isfinite(values).all(0).sum())
            found[metric] = {"mean": _mean(values), "by_seed": by_seed, "images": usable}
    return found


def summary_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The headline: correlations with people, differences as [mean, low, high], accuracies in percent."""
    by_name, tests = metrics["means"], metrics["tests"]
    found: dict[str, Any] = {f"{name}_cc": _cc(by_name, name) for name in _HEADLINE}
    found["human_ceiling_cc"] = metrics["ceiling"]["cc"]
    found["guided_minus_permuted"] = _interval(tests["primary"])
    found["guided_minus_permuted_p"] = tests["primary"]["p"]
    for test in tests["exploratory"]:
        if test["metric"] == "cc" and test["second"] in ("baseline", "centre_prior"):
            found[f"guided_minus_{test['second']}"] = _interval(test)
    by_arm = metrics["accuracy"]["arms"]
    for arm in ("guided", "baseline"):
        for top in ("top1", "top5"):
            found[f"{top}_{arm}"] = by_arm[arm]["contrastive"][top]["mean"] if by_arm else None
    secondary = tests["secondary"].get("contrastive")
    found["top1_guided_minus_baseline"] = _interval(secondary) if secondary else None
    return found | {"images": metrics["images"], "seeds": len(metrics["seeds"])}


_HEADLINE = ("teacher", "teacher_small", "guided", "baseline", "permuted", "centre_prior")


def _accuracy(found: Accuracy) -> dict[str, Any]:
    """Percentages by arm and set of statistics."""
    arms: dict[str, Any] = {}
    for (arm, statistics), hits in found.top1.items():
        tops = {"top1": hits, "top5": found.top5[arm, statistics]}
        arms.setdefault(arm, {})[statistics] = {
            name: {"mean": 100.0 * h.mean(), "by_seed": (100.0 * h.mean(1)).tolist()} for name, h in tops.items()
        }
    return {"images": found.images, "reason": found.reason, "arms": arms}


def _readouts(name: str, fitted: Fitted) -> dict[str, Any]:
    rows = [(arm, readouts) for arm, readouts in fitted if arm.name == name]
    return {
        "seeds": [arm.seed for arm, _ in rows],
        "weights": [r.refitted.weights.tolist() for _, r in rows],
        "refit_kld": [r.refitted.kld for _, r in rows],
        "common_kld": [r.common_kld for _, r in rows],
        "label_skill": [r.skill for _, r in rows] if name in ROLES else None,
    }


def _interval(test: Mapping[str, Any]) -> list[float | None]:
    return [test["difference"], test["low"], test["high"]]


def _cc(by_name: Mapping[str, Any], name: str) -> float | None:
    found: float | None = by_name[name]["cc"]["mean"] if name in by_name else None
    return found


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else float("nan")
