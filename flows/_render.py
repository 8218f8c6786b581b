"""Answers as text for people: a table, a line, what to type next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Rows as aligned columns under a heading."""
    cells = [[c.upper() for c in columns]] + [[_cell(r.get(c)) for c in columns] for r in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def run(found: dict[str, Any]) -> str:
    """The end of a run."""
    lines = ["", table(found["nodes"], ["node", "state", "ref", "seconds"]), ""]
    if found["headline"]:
        width = max(len(k) for k in found["headline"])
        lines += [f"{k.ljust(width)}  {_figure(v)}" for k, v in found["headline"].items()] + [""]
    lines += [f"report: {r}" for r in found["reports"]]
    if found["nodes"]:
        lines.append(f"next: gazeflow show {found['nodes'][-1]['ref']}")
    return "\n".join(lines)


def plan(found: list[dict[str, Any]]) -> str:
    """A plan, a line per node."""
    rows = [r | {"shards": "" if r["shards"] is None else f"{len(r['remaining'])}/{r['shards']}"} for r in found]
    return table(rows, ["node", "state", "ref", "shards", "reason"])


def status(found: dict[str, Any]) -> str:
    """A run in one screen."""
    alive = "" if found["ended"] else (" (alive)" if found["living"] else " (not refreshed: it died)")
    head = f"run {found['id']}: {found['state']}{alive}, started {found['started']}, ended {found['ended'] or '-'}"
    body = table(found["nodes"], ["node", "state", "ref", "seconds", "error"])
    return f"{head}\n{found['command']}\n\n{body}"


def versions(found: list[dict[str, Any]]) -> str:
    """Versions, oldest first."""
    return table(found, ["ref", "node", "state", "made", "done", "failed", "bytes", "seconds"])


def manifest(found: dict[str, Any]) -> str:
    """One version."""
    key = found["key"]
    lines = [
        f"{found['kind']}@{found['version']}  node {found['node']}  published {found['published']}",
        f"samples done {found['done']}, failed {found['failed']}; {found['seconds']} s; run {found['run']}",
        "producer: " + ", ".join(f"{k} {v}" for k, v in found["producer"].items()),
        "",
        "params:",
        *[f"  {k} = {v}" for k, v in key["params"].items()],
        "lineage:",
        *_lineage(found["lineage"], 1),
        "summary:",
        *[f"  {k} = {_figure(v)}" for k, v in found["summary"].items()],
        "members:",
        *[f"  {m['name']}  {m['bytes']} bytes  {m['sha256'][:16]}" for m in found["members"][:20]],
    ]
    if len(found["members"]) > 20:
        lines.append(f"  and {len(found['members']) - 20} more (--json shows all)")
    return "\n".join([*lines, f"next: gazeflow pull {found['kind']}@{found['version']} DEST"])


def _lineage(tree: dict[str, Any], depth: int) -> list[str]:
    pad = "  " * depth
    lines = [f"{pad}{tree['ref']} ({tree['node']})"]
    for role, found in tree["datasets"].items():
        lines += [f"{pad}  {role}: {d['format']} {d['fingerprint'][:16]}" for d in found]
    for trees in tree["inputs"].values():
        lines += [line for t in trees for line in _lineage(t, depth + 1)]
    return lines


def pull(found: dict[str, Any]) -> str:
    """The end of a pull."""
    told = f"{found['ref']}: {found['files']} files in {found['folder']}, {found['copied']} copied now "
    return told + f"({found['bytes']} bytes), every byte verified\nnext: ls {found['folder']}"


def verify(found: dict[str, Any]) -> str:
    """What a verification found."""
    how = "bytes" if found["deep"] else "presence and size"
    if not found["damaged"]:
        more = "" if found["deep"] else f"\nnext: gazeflow verify {found['ref']} --deep"
        return f"{found['ref']}: {how} of {found['members']} members are as the manifest promises{more}"
    rows = table(found["damaged"], ["member", "shard", "problem"])
    count = len(found["damaged"])
    told = f"{found['ref']}: {count} of {found['members']} members are damaged"
    return f"{told}\n{rows}\nnext: gazeflow rerun {found['node']} --damaged"


def preview(found: dict[str, Any]) -> str:
    """Where the pictures are."""
    return "\n".join([f"{found['ref']}:", *[f"  {f}" for f in found["files"]]])


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + ", ".join(_figure(v) for v in value[:12]) + (", …]" if len(value) > 12 else "]")
    return str(value)
