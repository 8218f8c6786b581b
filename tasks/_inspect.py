"""What the reading commands answer: plain data, ready for JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.errors import InvalidInput, NotFound
from storage.manifest import Manifest
from storage.runs import last_run, living, own_run
from storage.store import Store
from storage.verify import contradictions, damaged
from tasks._config import Config, environment_settings, is_ref
from tasks._datasets import refreshed
from tasks._plan import pinned, plan_run
from tasks._run import (
    NodeOptions,
    PipelineOptions,
    chosen_config,
    redo_shards,
    wanted_nodes,
)
from tasks._settings import Settings


def check_options(options: PipelineOptions | NodeOptions) -> None:
    """Raise what is wrong with the options of a run, so that it is told before anything starts."""
    config = chosen_config(options.config, options.set)
    if isinstance(options, PipelineOptions):
        _check_pins(config, _selected(config, options.only, options.from_, options.until, options.force))
        return
    _check_pins(config, [config.node(options.node).name, *([] if options.only else config.downstream(options.node))])
    if not options.damaged or options.failed or options.shards is not None:
        redo_shards(config, options)  # of damage alone the run looks for itself: it reads every byte


def _check_pins(config: Config, nodes: list[str]) -> None:
    """Raise what is wrong with the versions and tags that nodes name as inputs; a run opens its store only then."""
    config = config.narrowed(nodes)
    if any(is_ref(n) for node in config.nodes.values() for names in node.inputs.values() for n in names):
        pinned(config, Store.existing(config.settings.store))


def _selected(config: Config, only: str | None, from_: str | None, until: str | None, force: list[str]) -> list[str]:
    """The nodes that options leave, in order. Raises InvalidInput where one is unknown or they contradict."""
    wanted = wanted_nodes(config, only, from_, until)
    for name in force:
        if config.node(name).name not in wanted:
            raise InvalidInput(f"--force {name}: expected one of the nodes asked for: {', '.join(wanted)}")
    return wanted


def planned(
    path: str | None, overrides: list[str], forced: list[str], only: str | None, from_: str | None, until: str | None
) -> list[dict[str, Any]]:
    """The plan of a config's wanted nodes; no data is listed but theirs."""
    config = chosen_config(path, overrides)
    wanted = _selected(config, only, from_, until, forced)
    store = Store.open(config.settings.store)
    config = pinned(config.narrowed(wanted), store)
    datasets = refreshed(store, config.datasets, config.sources(wanted))
    plans = plan_run(config, store, datasets, wanted, forced)
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
    nodes = record["order"] or record["config"]["nodes"]  # old records keep no order
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
    inputs = {role: [_lineage_of(store, ref) for ref in refs] for role, refs in manifest.key.inputs.items()}
    return {
        "ref": manifest.ref,
        "node": manifest.node,
        "inputs": inputs,
        "datasets": manifest.key.datasets,
    }


def _lineage_of(store: Store, ref: str) -> dict[str, Any]:
    try:
        return _lineage(store, store.resolve(ref))
    except NotFound:
        return {"ref": ref, "node": "no longer in the store", "inputs": {}, "datasets": {}}


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
        "ref": manifest.ref,
        "node": manifest.node,
        "deep": deep,
        "members": members,
        "damaged": found,
        "records": list(contradictions(store.backend, manifest, deep)),
    }


def previewed(ref: str, dest: Path, path: str | None) -> dict[str, Any]:
    """Write a version's views to a folder."""
    store = open_store(path)
    manifest = store.resolve(ref)
    folder = dest / manifest.ref
    if not manifest.views:
        raise NotFound(f"{ref}: this kind keeps no pictures; use `gazeflow show {ref}`")
    folder.mkdir(parents=True, exist_ok=True)
    for view in manifest.views:
        (folder / view.name).write_bytes(store.read(view))
    return {"ref": manifest.ref, "files": [str(folder / v.name) for v in manifest.views]}


def open_store(path: str | None) -> Store:
    """The store a reading command means: the config's when one is given, else the settings'."""
    return Store.existing(store_url(path))


def store_url(path: str | None) -> str:
    """Where that store lies."""
    settings: Settings = chosen_config(path, []).settings if path is not None else environment_settings()
    return settings.store


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


