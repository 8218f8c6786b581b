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
    """A run in one screen; of an error its first line, --json has all of it."""
    alive = "" if found["ended"] else (" (alive)" if found["living"] else " (not refreshed: it died)")
    head = f"run {found['id']}: {found['state']}{alive}, started {found['started']}, ended {found['ended'] or '-'}"
    rows = [n | {"error": n.get("error", "").partition("\n")[0]} for n in found["nodes"]]
    body = table(rows, ["node", "state", "ref", "seconds", "error"])
    return f"{head}\n{found['command']}\n\n{body}"


def versions(found: list[dict[str, Any]]) -> str:
    """Versions, oldest first."""
    body = table(found, ["ref", "node", "state", "made", "done", "failed", "bytes", "seconds"])
    return f"{body}\nnext: gazeflow show {found[-1]['ref']}"


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
    """The end of a pull, or what it would copy."""
    if found["dry_run"]:
        files, there = f"{found['copied']} of {found['files']} files", size(found["bytes_there"])
        told = f"{found['ref']}: would copy {files}, {size(found['bytes'])}; {there} are there already"
        return f"{told}\nnext: the same without --dry-run"
    told = f"{found['ref']}: {found['files']} files in {found['folder']}, {found['copied']} copied now "
    return told + f"({size(found['bytes'])} read), every byte verified\nnext: ls {found['folder']}"


def tag(found: dict[str, Any]) -> str:
    """A tag as it is now."""
    told = f"{found['tag']} is {found['ref']} (entry {found['entry']}, {found['who']}, {found['when']})"
    back = f"; gazeflow rollback {found['tag']}" if found["entry"] > 1 else ""
    return f"{told}\nnext: gazeflow pull {found['tag']} DEST{back}"


def tags(found: list[dict[str, Any]]) -> str:
    """Tags, or the entries of one."""
    if not found:
        return "no tag yet\nnext: gazeflow tag KIND@VERSION NAME"
    return table(found, ["tag", "entry", "ref", "restores", "who", "when"])


def gc(found: dict[str, Any]) -> str:
    """What garbage there is, or what became of it."""
    lines = [f"kept     {ref}: {why}" for ref, why in found["kept"].items()]
    grace = f"its bytes go {found['days']:g} days after"
    lines += [f"waits    {ref}: {since}; {grace}" for ref, since in found["waiting"].items()]
    lines += [f"missing  {ref}: {why}" for ref, why in found["missing"].items()]
    lines += [f"settle   {ref}: marked by a collection that died; --apply ends or spares it" for ref in found["marked"]]
    lines += [f"collect  {v['ref']}: {size(v['bytes'])} later; {v['why']}" for v in found["versions"]]
    lines.append(f"delete   {found['objects']} objects, {size(found['bytes'])}, that nothing names any more")
    done = found["done"]
    if done is None:
        nothing = not (found["versions"] or found["objects"] or found["marked"])
        again = f"nothing was changed\nnext: gazeflow gc --apply --days {found['days']:g}"
        return "\n".join([*lines, "nothing to do" if nothing else again])
    lines += [f"spared   {ref}: somebody named it meanwhile" for ref in done["spared"]]
    told = f"done: {len(done['versions'])} versions collected, {done['objects']} objects deleted, {size(done['bytes'])}"
    lines += [told] + ([f"{done['leftovers']} leftovers of writers that died are gone"] if done["leftovers"] else [])
    if done["versions"]:
        lines.append(f"next: gazeflow gc --apply, {found['days']:g} days from now: then their bytes go")
    return "\n".join(lines)


def doctor(found: dict[str, Any]) -> str:
    """What trying out a place came to."""
    lines = [f"{found['store']}:", table(found["findings"], ["verdict", "name", "found"]), ""]
    lines += [f"{f['name']}: {f['advice']}" for f in found["findings"] if f["advice"] and f["verdict"] != "ok"]
    if found["accepted"]:
        lines.append("accepted: this store is used although it overwrites; every manifest will say so")
    elif found["asked to accept"]:
        lines.append("--accept-unsafe: nothing was found that it would accept; nothing was changed")
    if all(f["verdict"] in ("ok", "warning") for f in found["findings"]):
        lines.append("a store may lie here\nnext: gazeflow run CONFIG")
    return "\n".join(lines).rstrip()


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def verify(found: dict[str, Any]) -> str:
    """What a verification found."""
    how = "bytes" if found["deep"] else "presence and size"
    records = [f"its records: {problem}" for problem in found["records"]]
    if not (found["damaged"] or records):
        more = "" if found["deep"] else f"\nnext: gazeflow verify {found['ref']} --deep"
        return f"{found['ref']}: {how} of {found['members']} members are as the manifest promises{more}"
    lines = [f"{found['ref']}: {len(found['damaged'])} of {found['members']} members are damaged", *records]
    if found["damaged"]:
        rows = table(found["damaged"], ["member", "shard", "problem"])
        lines += [rows, f"next: gazeflow rerun {found['node']} --damaged"]
    return "\n".join(lines)


def diff(found: dict[str, Any]) -> str:
    """What two versions have in common and what not."""
    lines = [f"{found['a']} and {found['b']}: " + ("equal results" if found["equal"] else "different results")]
    if found["key"]:
        lines += ["key:", _indented(table(found["key"], ["field", "a", "b"]))]
    for part in ("shards", "samples", "members", "drift"):
        if found.get(part):
            lines.append(f"{part}: " + ", ".join(f"{k} {_count(v)}" for k, v in found[part].items() if k != "lowest"))
    if found["summary"]:
        lines += ["summary:", _indented(table(found["summary"], ["figure", "a", "b"]))]
    return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _count(value: Any) -> str:
    """A list by its length and first items, anything else as a figure."""
    if not isinstance(value, list):
        return _figure(value)
    return f"{len(value)} ({', '.join(map(str, value[:3]))}{', …' if len(value) > 3 else ''})" if value else "0"


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
