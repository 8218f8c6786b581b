"""The report of an evaluation: one HTML page without scripts or anything outside itself."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from tasks._report import sections
from tasks._report.words import headline, lead, limits, number

Metrics = Mapping[str, Any]
_TEMPLATE = Path(__file__).with_name("report.html")


def page(metrics: Metrics, pictures: Mapping[str, bytes], facts: Mapping[str, Any]) -> str:
    """Write the page.

    Args:
        metrics: what `metrics.json` holds.
        pictures: PNGs `montage.png`, `distributions.png` and `differences.png`.
        facts: `version`, `warnings` and `tables` (title -> rows) of the provenance, and `shown`, the keys of the
            montage's images. Whatever comes from data is escaped.
    """
    montage, spread, forest = (pictures[f"{n}.png"] for n in ("montage", "distributions", "differences"))
    blocks = [
        ("Where they look", _figure(montage, sections.montage_caption(facts["shown"]), "wide")),
        ("How close to people, image by image", _figure(spread, sections.DISTRIBUTIONS, "narrow")),
        ("What differs", _figure(forest, sections.DIFFERENCES, "narrow") + sections.tests(metrics)),
        ("All metrics", sections.alignment(metrics)),
        ("People as the ceiling", sections.ceiling(metrics)),
        ("What the features hold", sections.readouts(metrics)),
        ("Accuracy of the probe", sections.accuracy(metrics)),
        ("The paper's own tests", sections.replication(metrics)),
        ("Where this comes from", sections.provenance(facts["tables"])),
    ]
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"Evaluation {facts['version']}"),
        kicker=escape(f"gazeflow · {facts['version']}"),
        headline=escape(headline(metrics)),
        lead="\n".join(f'<p class="lead">{escape(s)}</p>' for s in lead(metrics)),
        figures=_figures(metrics),
        limits=_limits(limits(metrics, facts["warnings"])),
        sections="\n".join(f"<h2>{title}</h2>\n{body}" for title, body in blocks),
    )


def _figure(png: bytes, caption: str, kind: str) -> str:
    data = base64.b64encode(png).decode()
    text = escape(caption)
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    return f'<figure class="{kind}"><div class="scroll">{image}</div><figcaption>{text}</figcaption></figure>'


def _figures(metrics: Metrics) -> str:
    """The numbers one looks for first, each with what it is."""
    means, primary = metrics["means"], metrics["tests"]["primary"]
    cc = {name: means[name].get("cc", {}).get("mean") for name in means}
    bounds = f"{number(primary['low'], 3, True)} to {number(primary['high'], 3, True)}"
    shown = [
        ("Guided, CC", number(cc["guided"]), _seeds(means["guided"])),
        ("Permuted, CC", number(cc["permuted"]), "the control"),
        ("Difference", number(primary["difference"], 3, True), bounds),
        ("Baseline, CC", number(cc["baseline"]), "stop-gradient"),
        ("Centre prior, CC", number(cc["centre_prior"]), "sees no image"),
        ("Ceiling, CC", number(metrics["ceiling"]["cc"]), "people among themselves"),
    ]
    cells = (f"<div><dt>{a}</dt><dd>{b}<small>{escape(c)}</small></dd></div>" for a, b, c in shown)
    return f'<dl class="figures">{"".join(cells)}</dl>'


def _seeds(mean: Mapping[str, Any]) -> str:
    by_seed = mean.get("cc", {}).get("by_seed", [])
    if len(by_seed) < 2:
        return "one seed"
    return f"{len(by_seed)} seeds: " + ", ".join(number(v) for v in by_seed)


def _limits(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(s)}</li>" for s in sentences)
    return f'<section class="limits"><h2>Read it with care</h2><ul>{items}</ul></section>'
