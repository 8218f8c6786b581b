"""What predictors, metrics and tests are called in front of people, and in which colour they are drawn."""

from __future__ import annotations

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


def short(name: str) -> str:
    """The name in a comparison: one or two words."""
    stem, _, _ = name.partition(".")
    return {
        "guided": "guided", "baseline": "baseline", "permuted": "permuted labels", "centre_prior": "centre prior",
    }.get(stem, stem)  # fmt: skip


def comparison(test: dict[str, object]) -> str:
    """`guided - baseline, common readout`."""
    first, second = str(test["first"]), str(test["second"])
    readout = first.partition(".")[2]
    return f"{short(first)} − {short(second)}" + (f", {READOUTS[readout]}" if readout else "")
