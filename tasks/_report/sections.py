"""The sections of the report: tables from the numbers, and a few words on how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tasks._report import names
from tasks._report.words import number, p_value, verdict

Metrics = Mapping[str, Any]
DISTRIBUTIONS = (
    "Each image gives one value, the mean over the seeds; the line is the mean over images, each shape as high as its "
    "own maximum. For people it is what a model without noise could reach on that image."
)
DIFFERENCES = (
    "Paired differences, image by image. The diamond is the primary comparison, declared beforehand. A pale band, "
    "where there is one, draws seeds as well as images anew; grey is not resolved."
)
_LOWER_IS_BETTER = "kld"
_ORDER = ("teacher", "teacher_small", "guided", "permuted", "baseline", "centre_prior", "centre_bias")


def montage_caption(shown: Sequence[str]) -> str:
    keys = ", ".join(shown)
    return (
        "From an image on which the guided student does well to one on which it does badly, at even steps of the rank, "
        f"so none was picked. First seed; brightest is most likely to be looked at. Images: {keys}."
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], strong: Sequence[int] = (), kind: str = "") -> str:
    """A table whose cells are HTML already; `strong` rows stand out; `kind` is narrow or words, or neither."""
    top = "".join(f"<th>{h}</th>" for h in head)
    body = "".join(
        f"<tr{' class=strong' if n in strong else ''}>{''.join(f'<td>{c}</td>' for c in row)}</tr>"
        for n, row in enumerate(rows)
    )
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def alignment_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Mean metrics of every predictor, for a run page."""
    means = metrics["means"]
    return [
        {"predictor": names.predictor(n)} | {m: round(means[n][m]["mean"], 3) for m in names.METRICS if m in means[n]}
        for n in _ORDER
        if n in means
    ]


def alignment(metrics: Metrics) -> str:
    """Predictors by metrics."""
    means = metrics["means"]
    rows = [
        [names.predictor(n), *(number(means[n][m]["mean"]) if m in means[n] else "–" for m in names.METRICS)]
        for n in _ORDER
    ]
    head = ["", *(f"{label} ↓" if m == _LOWER_IS_BETTER else label for m, label in names.METRICS.items())]
    note = (
        "Means over images and seeds. Every density is resized to the image's own frame; higher is better, except for "
        "KLD (nats). IG is bits a fixation over the centre bias of the other images. The last column holds the map "
        "against another image's people: what remains there is not about the image."
    )
    return table(head, rows, strong=[_ORDER.index("guided")]) + _note(note)


def tests(metrics: Metrics) -> str:
    """The primary test and the exploratory family."""
    listed = [metrics["tests"]["primary"], *metrics["tests"]["exploratory"]]
    rows = [
        [
            escape(names.comparison(t)) + (" (primary)" if n == 0 else ""),
            names.METRICS[t["metric"]],
            number(t["difference"], 3, True),
            f"{number(t['low'], 3, True)} to {number(t['high'], 3, True)}",
            tag(t),
            number(t["d_z"]),
            p_value(t["p"]),
            p_value(t.get("p_holm")) if n else "",
            p_value(t["wilcoxon_p"]),
            _bootstrap(t),
        ]
        for n, t in enumerate(listed)
    ]
    head = ["Comparison", "", "Difference", "95 % interval", "", "d<sub>z</sub>", "p", "Holm", "Wilcoxon", "Bootstrap"]
    note = (
        "Images are shared, so differences are taken image by image (t-test on the mean over the seeds); better is "
        "closer to people, which for KLD is lower. Holm's adjustment covers all rows but the first. The bootstrap "
        "draws seeds and images anew."
    )
    return table(head, rows, strong=[0]) + _note(note)


def _bootstrap(test: Mapping[str, Any]) -> str:
    found = test["bootstrap"]
    return f"{number(found[0], 3, True)} to {number(found[1], 3, True)}" if found else "one seed"


def tag(test: Mapping[str, Any]) -> str:
    """The verdict as a small label."""
    found = verdict(test)
    kind = {"better": "better", "worse": "worse", "not resolved": "open"}.get(found, "")
    return f'<span class="tag {kind}">{found}</span>'


def ceiling(metrics: Metrics) -> str:
    """What people reach in predicting people."""
    c, guided = metrics["ceiling"], metrics["means"]["guided"]
    share = guided["cc"]["mean"] / c["cc"] if c["cc"] and "cc" in guided else None
    rows = [
        ["Correlation of two random halves of the people, r", number(c["split_half_r"], 3)],
        ["Reliability of all people, 2r / (1 + r)", number(c["reliability"], 3)],
        ["<b>CC that a model without noise could reach</b>, its square root", f"<b>{number(c['cc'], 3)}</b>"],
        ["The guided student's CC as a share of it", f"{number(100 * share, 0)} %" if share is not None else "–"],
        ["NSS of one person from the others", number(c["nss"])],
        ["AUC of one person from the others", number(c["auc_judd"], 3)],
        ["Information gain of one person from the others, bits a fixation", number(c["ig"])],
    ]
    return table(["", "Mean over images"], rows, kind="narrow")


def readouts(metrics: Metrics) -> str:
    """CC under three readouts of the same frozen features, and how well the labels were learnt."""
    means, fitted = metrics["means"], metrics["readouts"]

    def cc(name: str) -> str:
        return number(means[name]["cc"]["mean"]) if "cc" in means.get(name, {}) else "–"

    rows = []
    for arm in ("guided", "permuted", "baseline", "untrained"):
        skill = [s for s in fitted[arm]["label_skill"] or [] if s is not None]
        columns = [cc(arm), cc(f"{arm}.refit"), cc(f"{arm}.common")]
        rows.append([names.predictor(arm), *columns, number(sum(skill) / len(skill)) if skill else "–"])
    note = (
        f"Readouts were fitted on {metrics['held_out_images']} of the evaluation's labelled images, against the "
        "teacher's labels, and scored on the images that people looked at. The common readout is a 1×1 convolution "
        "over all channels of three stages; the untrained network with it is the floor. Label skill is 1 − KLD / KLD "
        "of the mean training label, of the student's own readout: 1 is perfect, 0 no better than the mean."
    )
    head = ["", "CC, own readout", "CC, refitted weights", "CC, common readout", "Label skill"]
    return table(head, rows) + _note(note)


def accuracy(metrics: Metrics) -> str:
    """Top-1 and top-5, and the secondary test."""
    found, by_set = metrics["accuracy"], metrics["tests"]["secondary"]
    if not found["arms"]:
        return f"<p>Not measured: {escape(found['reason'])}.</p>"
    rows, sets = [], {"contrastive": "contrastive views", "all": "all views"}
    for arm in ("guided", "permuted", "baseline"):
        for key, label in sets.items():
            top1, top5 = found["arms"][arm][key]["top1"], found["arms"][arm][key]["top5"]
            by_seed = ", ".join(number(v, 2) for v in top1["by_seed"])
            rows.append([names.predictor(arm), label, number(top1["mean"], 2), number(top5["mean"], 2), by_seed])
    head = ["", "Batch statistics", "Top-1 %", "Top-5 %", "Top-1 by seed"]
    compared = [[sets[key].capitalize(), *_accuracy_test(test)] for key, test in by_set.items()]
    test_head = ["Guided − baseline", "Points", "95 % interval", "", "Seeds", "Guided SD; SE", "Baseline SD; SE"]
    note = (
        f"{found['images']} labelled images, their central square. The unit is the seed; both arms are compared under "
        "the same batch statistics. Detectable: the smallest difference that so many seeds with this spread would show "
        "in four of five trials. McNemar's test pools the predictions of all seeds and speaks of these networks alone."
    )
    return table(head, rows) + table([*test_head, "Detectable", "McNemar p"], compared) + _note(note)


def _accuracy_test(test: Mapping[str, Any]) -> list[str]:
    spread = [f"{number(test[a]['sd'])}; {number(test[a]['se'])}" for a in ("guided", "baseline")]
    bounds = "–" if test["low"] is None else f"{number(test['low'], 2, True)} to {number(test['high'], 2, True)}"
    verdict_tag = tag(test) if test["resolved"] is not None else '<span class="tag open">not resolved</span>'
    return [
        number(test["difference"], 2, True), bounds, verdict_tag, str(test["guided"]["n"]), *spread,
        number(test["smallest_detectable"]), p_value(test["mcnemar"]["p"]),
    ]  # fmt: skip


def replication(metrics: Metrics) -> str:
    """One-sample and Welch tests of CC."""
    labels = {
        "guided_above_0": "Guided against 0 (one sample)",
        "baseline_above_0": "Baseline against 0 (one sample)",
        "guided_minus_baseline_welch": "Guided − baseline (Welch, unpaired)",
    }
    rows = [
        [labels[k], number(t["difference"], 3, True), number(t["t"], 1), number(t["df"], 0), p_value(t["p"])]
        for k, t in metrics["tests"]["replication"].items()
    ]
    note = "As published (CC 0.48 guided, 0.07 baseline, on OSIE); they ignore that the images are shared."
    return table(["Test of CC", "Estimate", "t", "df", "p"], rows, kind="narrow") + _note(note)


def provenance(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Every table of names and values, escaped."""
    parts = []
    for title, rows in tables.items():
        head = [escape(str(h)) for h in rows[0]] if rows else []
        cells = [[f"<code>{escape(str(v))}</code>" for v in row.values()] for row in rows]
        parts.append(f"<h3>{escape(title)}</h3>{table(head, cells, kind='words')}")
    return "\n".join(parts)


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'
