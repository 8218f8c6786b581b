"""What predictors, metrics and tests are called in front of people, and in which colour they are drawn."""

from __future__ import annotations

from collections.abc import Mapping

PREDICTORS = {
    "people": "People (ceiling)",
    "teacher": "Teacher",
    "teacher_small": "Teacher at the student's resolution",
    "guided": "Guided student",
    "permuted": "Student on permuted labels",
    "baseline": "Baseline student (stop-gradient)",
    "centre_prior": "Centre prior",
    "centre_bias": "Centre bias of the other images",
    "untrained": "Untrained network",
}
SHORT = {
    "people": "People (ceiling)",
    "teacher": "Teacher",
    "teacher_small": "Teacher, student's\nresolution",
    "guided": "Guided student",
    "permuted": "Permuted labels",
    "baseline": "Baseline student",
    "centre_prior": "Centre prior",
}
COLOURS = {
    "people": "#3c4654",
    "teacher": "#7a5195",
    "teacher_small": "#b08fc7",
    "guided": "#0b6e99",
    "permuted": "#c98a1b",
    "baseline": "#c4473a",
    "centre_prior": "#8a94a0",
    "centre_bias": "#b4bcc5",
}
METRICS = {
    "cc": "CC",
    "nss": "NSS",
    "kld": "KLD",
    "sim": "SIM",
    "auc_judd": "AUC",
    "sauc": "sAUC",
    "ig": "IG",
    "shuffled_cc": "CC, other image",
}
READOUTS = {"": "own readout", "refit": "refitted weights", "common": "common readout"}


def predictor(name: str) -> str:
    """A predictor's name, with its readout where that is not its own."""
    stem, _, readout = name.partition(".")
    plain = PREDICTORS.get(stem, stem)
    return f"{plain}, {READOUTS[readout]}" if readout else plain


def comparison(test: Mapping[str, object]) -> str:
    """`guided - baseline, common readout`."""
    first, _, readout = str(test["first"]).partition(".")
    names = (SHORT[n].lower().removesuffix(" student") for n in (first, str(test["second"]).partition(".")[0]))
    return " − ".join(names) + (f", {READOUTS[readout]}" if readout else "")
