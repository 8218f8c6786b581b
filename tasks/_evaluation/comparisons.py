"""The tests of an evaluation: what is compared with what, in which family, and what may be said of it.

Pure: from scores [seeds, images] and hits to plain values fit for JSON, with null for what is undefined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import statistics

Values = Callable[[str, str], NDArray[np.float64]]  # (predictor, metric) -> [seeds, images]
Test = dict[str, Any]
OTHER_METRICS = ("nss", "kld", "sim", "auc_judd", "sauc", "ig")


def finite(value: Any) -> Any:
    """The same value with null for every number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def alignment_tests(values: Values, seed: int) -> dict[str, Any]:
    """Primary, exploratory and replication tests on per-image scores, each image's mean over the seeds.

    `exploratory` is one family, its p values adjusted by Holm's method beside the plain ones.
    """
    exploratory = [
        paired(values, "guided", "baseline", "cc", seed),
        paired(values, "guided", "centre_prior", "cc", seed),
        paired(values, "guided.refit", "baseline.refit", "cc", seed),
        paired(values, "guided.common", "baseline.common", "cc", seed),
        paired(values, "guided.common", "permuted.common", "cc", seed),
        *(paired(values, "guided", "permuted", metric, seed) for metric in OTHER_METRICS),
    ]
    return {
        "primary": paired(values, "guided", "permuted", "cc", seed),
        "exploratory": adjusted(exploratory),
        "replication": replication(values),
    }


def paired(values: Values, first: str, second: str, metric: str, seed: int) -> Test:
    """First minus second, image by image: t-test with 95 % interval, Wilcoxon, d_z; a bootstrap if there are seeds.

    Images on which either is undefined are left out and counted.
    """
    a, b = values(first, metric), values(second, metric)
    usable = np.isfinite(a).all(0) & np.isfinite(b).all(0)
    a, b = a[:, usable], b[:, usable]
    found: Test = {"first": first, "second": second, "metric": metric}
    found |= {"left_out": int((~usable).sum()), "seeds": len(a)}
    if a.shape[1] < 2:
        return found | {"n": a.shape[1]} | dict.fromkeys(_UNDEFINED)
    t = statistics.paired_t(a.mean(0), b.mean(0))
    signed = statistics.wilcoxon(a.mean(0), b.mean(0))
    shared = len(a) > 1 and len(b) in (1, len(a))
    drawn = statistics.bootstrap(a - b, seed=seed) if shared else None
    found |= {"mean_first": a.mean(), "mean_second": b.mean(), **_t(t), "d_z": t.d}
    found |= {"wilcoxon": signed.statistic, "wilcoxon_p": signed.p, "resolved": t.low > 0 or t.high < 0}
    found["bootstrap"] = [drawn.low, drawn.high] if drawn else None
    found["bootstrap_resolved"] = drawn.resolved if drawn else None
    plain: Test = finite(found)
    return plain


_UNDEFINED = (
    "mean_first", "mean_second", "difference", "low", "high", "t", "df", "p", "d_z", "wilcoxon", "wilcoxon_p",
    "resolved", "bootstrap", "bootstrap_resolved",
)  # fmt: skip


def adjusted(tests: Sequence[Test]) -> list[Test]:
    """The tests of one family with Holm's p beside their own; undefined ones are no members."""
    members = [n for n, t in enumerate(tests) if t["p"] is not None]
    holm = dict(zip(members, statistics.holm([tests[n]["p"] for n in members]) if members else [], strict=True))
    return [t | {"p_holm": holm.get(n)} for n, t in enumerate(tests)]


def replication(values: Values) -> dict[str, Test]:
    """The paper's own tests of CC: each student against 0, and both as if they had seen different images."""
    guided, baseline = (_clean(values(arm, "cc").mean(0)) for arm in ("guided", "baseline"))
    if min(len(guided), len(baseline)) < 2:
        return {}
    found = {
        "guided_above_0": statistics.one_sample_t(guided),
        "baseline_above_0": statistics.one_sample_t(baseline),
        "guided_minus_baseline_welch": statistics.welch_t(guided, baseline),
    }
    plain: dict[str, Test] = finite({name: _t(test) for name, test in found.items()})
    return plain


def accuracy_tests(top1: Mapping[tuple[str, str], NDArray[np.bool_]]) -> dict[str, Any]:
    """Top-1 of guided minus baseline, in percentage points, under each set of statistics; the unit is the seed."""
    sets = dict.fromkeys(s for _, s in top1)
    return {s: finite(_by_seed(top1["guided", s], top1["baseline", s])) for s in sets}


def _by_seed(guided: NDArray[np.bool_], baseline: NDArray[np.bool_]) -> Test:
    first, second = 100.0 * guided.mean(1), 100.0 * baseline.mean(1)
    difference = statistics.summary(first - second)
    found: Test = {
        "guided": asdict(statistics.summary(first)),
        "baseline": asdict(statistics.summary(second)),
        "difference": difference.mean,
        "by_seed": (first - second).tolist(),
        "mcnemar": asdict(statistics.mcnemar(guided.ravel(), baseline.ravel())),
    } | dict.fromkeys(("low", "high", "p", "smallest_detectable", "resolved"))
    if difference.n >= 2:
        t = statistics.paired_t(first, second)
        least = statistics.smallest_effect(difference.sd, difference.n)
        found |= {"low": t.low, "high": t.high, "p": t.p, "smallest_detectable": least}
        found["resolved"] = t.low > 0 or t.high < 0
    return found


def _t(test: statistics.TTest) -> Test:
    return {k: v for k, v in asdict(test).items() if k != "d"}


def _clean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[np.isfinite(values)]
