"""Where an evaluation's numbers come from, and what in that already speaks against them."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from storage.canonical import canonical_json
from tasks._stage import Context

_LIBRARIES = ("torch", "numpy", "scipy", "opencv-python-headless", "matplotlib")


def tables_of(context: Context) -> dict[str, list[dict[str, Any]]]:
    """Inputs, data sets, params and environment, as rows for reading."""
    inputs = [
        {"role": role, "node": m.node, "version": f"{m.kind}@{m.version}", "seed": m.key.params.get("seed", "")}
        for role, manifests in context.inputs.items()
        for m in manifests
    ]
    datasets = [
        {"role": role, "name": d.name, "format": d.index.format, "images": len(d.index)}
        | {"fingerprint": d.index.fingerprint}
        for role, opened in context.datasets.items()
        for d in opened
    ]
    params = [{"param": k, "value": v} for k, v in context.params.model_dump(mode="json").items()]
    environment = [{"library": "Python", "version": platform.python_version()}]
    environment += [{"library": name, "version": _version(name)} for name in _LIBRARIES]
    return {"Inputs": inputs, "Data sets": datasets, "Params": params, "Environment": environment}


def overlaps(context: Context) -> list[str]:
    """Data sets that were trained on and are evaluated on too, same bytes and same options."""
    trained = {
        canonical_json(identity): f"{m.kind}@{m.version}"
        for manifests in context.inputs.values()
        for m in manifests
        for identities in m.key.datasets.values()
        for identity in identities
    }
    own = context.attempt.attempt.key.datasets
    return [
        f"The data set {opened.name!r} is evaluated on and {trained[canonical_json(identity)]} was trained on it: its "
        "scores are not held out."
        for role, datasets in context.datasets.items()
        for opened, identity in zip(datasets, own[role], strict=True)
        if canonical_json(identity) in trained
    ]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
