"""What the reading commands answer: plain data, ready for JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.errors import NotFound
from storage.manifest import Manifest
from storage.runs import last_run, living, own_run
from storage.store import Store
from storage.verify import damaged
from tasks._config import Config, environment_settings
from tasks._datasets import refresh
from tasks._plan import plan_run
from tasks._run import chosen_config, parse_shards
from tasks._settings import Settings


def planned(path: str | None, overrides: list[str], forced: list[str]) -> list[dict[str, Any]]:
    """The plan of a config's nodes."""
    config = chosen_config(path, overrides)
    for name in forced:
        config.node(name)
    store = Store.open(config.settings.store)
    datasets = {n: refresh(store, n, d) for n, d in config.datasets.items()}
    plans = plan_run(config, store, datasets, list(config.nodes), forced)
    return [
        {
            "node": p.node,
            "state": p.state,
            "ref": p.ref,
            "reason": p.reason,
            "shards": p.shards,
            "remaining": list(p.remaining),
        }
        for p in plans
    ]


def run_status(path: str | None) -> dict[str, Any]:
    """The last run's record, with nodes in the order of its config."""
    record = last_run(open_store(path))
    nodes = record["config"]["nodes"]
    rows = [{"node": n} | record["nodes"].get(n, {"state": "not begun"}) for n in nodes]
    return {k: record[k] for k in ("id", "command", "host", "pid", "started", "refreshed", "ended", "state")} | {
        "nodes": rows,
        "living": living(record),
    }


def version_list(kind: str, path: str | None) -> list[dict[str, Any]]:
    """All versions of a kind, oldest first. Raises NotFound when the store has none."""
    store = open_store(path)
    found = [_version_row(store, v.kind, v.name, v.state) for v in store.versions(kind)]
    if not found:
        raise NotFound(
            f"{kind}: no version in {store.backend.url}; kinds there: {', '.join(store.kinds()) or 'none yet'}"
        )
    return sorted(found, key=lambda r: str(r["made"]))


def _version_row(store: Store, kind: str, name: str, state: str) -> dict[str, Any]:
    attempt = store.attempt(store.version(kind, name))
    row: dict[str, Any] = {"ref": f"{kind}@{name}", "node": attempt.node, "state": state, "made": attempt.opened}
    if state == "complete":
        manifest = store.manifest(kind, name)
        row |= {"made": manifest.published, "done": manifest.done, "failed": manifest.failed}
        row |= {"bytes": sum(m.bytes for m in manifest.members), "seconds": manifest.seconds}
    return row


def shown(ref: str, path: str | None) -> dict[str, Any]:
    """A version's manifest as plain data, with the tree of its inputs."""
    store = open_store(path)
    manifest = store.resolve(ref)
    return manifest.model_dump(mode="json") | {"lineage": _lineage(store, manifest)}


def _lineage(store: Store, manifest: Manifest) -> dict[str, Any]:
    inputs = {role: [_lineage(store, store.resolve(r)) for r in refs] for role, refs in manifest.key.inputs.items()}
    return {
        "ref": f"{manifest.kind}@{manifest.version}",
        "node": manifest.node,
        "inputs": inputs,
        "datasets": manifest.key.datasets,
    }


def pulled(ref: str, dest: Path, shards: str | None, path: str | None) -> dict[str, Any]:
    """Copy a version out of the store."""
    from storage.pull import pull

    store = open_store(path)
    manifest = store.resolve(ref)
    chosen = None if shards is None else parse_shards(shards)
    done = pull(store.backend, manifest, dest, chosen)
    return {"ref": f"{manifest.kind}@{manifest.version}", "kind": manifest.kind} | done


def verified(ref: str, deep: bool, path: str | None) -> dict[str, Any]:
    """What is damaged of a version."""
    store = open_store(path)
    manifest = store.resolve(ref)
    found = [
        {"member": d.member.name, "key": d.member.key, "shard": d.shard, "problem": d.problem}
        for d in damaged(store.backend, manifest, deep)
    ]
    members = len(manifest.members) + len(manifest.views)
    return {
        "ref": f"{manifest.kind}@{manifest.version}",
        "node": manifest.node,
        "deep": deep,
        "members": members,
        "damaged": found,
    }


def previewed(ref: str, dest: Path, path: str | None) -> dict[str, Any]:
    """Write a version's views to a folder."""
    store = open_store(path)
    manifest = store.resolve(ref)
    folder = dest / f"{manifest.kind}@{manifest.version}"
    if not manifest.views:
        raise NotFound(f"{ref}: this kind keeps no pictures; use `gazeflow show {ref}`")
    folder.mkdir(parents=True, exist_ok=True)
    for view in manifest.views:
        (folder / view.name).write_bytes(store.read(view))
    return {"ref": f"{manifest.kind}@{manifest.version}", "files": [str(folder / v.name) for v in manifest.views]}


def open_store(path: str | None) -> Store:
    """The store a reading command means: the config's when one is given, else the settings'."""
    settings: Settings = chosen_config(path, []).settings if path is not None else environment_settings()
    return Store.open(settings.store)


def finished_run(config: Config, refs: dict[str, str]) -> dict[str, Any]:
    """What to tell at the end of a run: each node's ref, the headline figures, where the report lies."""
    store = Store.open(config.settings.store)
    record = own_run(store)
    rows: list[dict[str, Any]] = []
    reports: list[str] = []
    headline: dict[str, Any] = {}
    for node, ref in refs.items():
        manifest = store.resolve(ref)
        noted = record["nodes"].get(node, {})
        rows.append({"node": node, "state": noted.get("state"), "ref": ref, "seconds": noted.get("seconds")})
        reports += [f"{store.backend.url}/{v.key}" for v in manifest.views if v.name == "report.html"]
        if manifest.kind == "evaluation":
            headline |= manifest.summary
    return {"run": record["id"], "nodes": rows, "reports": reports, "headline": headline}


