"""Decide, then do: what each node of a config would come to, and why. Nothing here writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from storage.attempt import OpenAttempt
from storage.canonical import digest
from storage.datasets.base import AttentionReader
from storage.errors import GazeflowError, InvalidInput
from storage.manifest import Key, Manifest, ShardRecord
from storage.store import Store
from tasks._config import Config, is_ref
from tasks._datasets import OpenDataset
from tasks._stage import Shard, Stage, load_stage


@dataclass(frozen=True)
class NodePlan:
    """What one node would come to."""

    node: str
    stage: str
    state: Literal["hit", "partial", "miss", "forced", "waits"]
    version: str  # the version a hit has, else the one it would get
    reason: str
    shards: int | None = None  # None: not sharded, or not known before an input is made
    remaining: tuple[int, ...] = ()

    @property
    def ref(self) -> str:
        return f"{self.stage}@{self.version}"


def node_key(config: Config, name: str, refs: Mapping[str, str], datasets: Mapping[str, OpenDataset]) -> Key:
    """A node's key, given the refs of its input nodes and its datasets."""
    node = config.node(name)
    stage = load_stage(node.stage)
    return Key(
        stage=stage.name,
        stage_version=stage.version,
        params=node.params,
        inputs={role: [n if is_ref(n) else refs[n] for n in names] for role, names in node.inputs.items()},
        datasets={
            role: [datasets[n].identity(config.datasets[n].options) for n in names]
            for role, names in node.datasets.items()
        },
    )


def pinned(config: Config, store: Store) -> Config:
    """The config with every tag and shortened ref among its inputs replaced by the version it means now.

    Raises NotFound for one that means none, InvalidInput for one that is no ref, naming file, node and role.
    """
    nodes = {}
    for name, node in config.nodes.items():
        where = f"{config.source} [{name}] input"
        inputs = {r: [_pinned(n, store, f"{where} {r}") for n in names] for r, names in node.inputs.items()}
        nodes[name] = node.model_copy(update={"inputs": inputs})
    return config.model_copy(update={"nodes": nodes})


def _pinned(name: str, store: Store, where: str) -> str:
    try:
        return store.resolve(name).ref if is_ref(name) else name
    except GazeflowError as error:
        raise type(error)(f"{where}: {error}") from None


def reusable(ready: Mapping[str, ShardRecord], key: Key, shard: Shard) -> ShardRecord | None:
    """The finished shard that may stand for this one: same shard key, same number (its members are named by it)."""
    record = ready.get(shard_key(key, shard.inputs))
    return record if record is not None and record.shard == shard.number else None


def shard_key(key: Key, inputs: str) -> str:
    """A shard's own key: the stage's, with input versions replaced by the digest of this shard's inputs."""
    own = {"stage": key.stage, "version": key.stage_version, "params": key.params, "format": key.format}
    return digest(own | {"inputs": inputs})


def plan_run(
    config: Config, store: Store, datasets: Mapping[str, OpenDataset], wanted: Sequence[str], forced: Sequence[str] = ()
) -> list[NodePlan]:
    """Plan the wanted nodes in order; nodes outside `wanted` count with the version they have."""
    _check_roles(config, datasets)
    plans: dict[str, NodePlan] = {}
    for name in config.nodes:
        waiting = [p for p in config.parents(name) if plans[p].state == "waits" or plans[p].state == "forced"]
        made = {p: plans[p].ref for p in config.parents(name)}
        key = node_key(config, name, made, datasets)
        plans[name] = _plan_node(config, store, datasets, name, key, plans, waiting, name in forced)
    return [plans[n] for n in config.nodes if n in set(wanted)]


def _check_roles(config: Config, datasets: Mapping[str, OpenDataset]) -> None:
    """Raise InvalidInput where a data set without fixations is to give them."""
    for name, node in config.nodes.items():
        for role, what in load_stage(node.stage).datasets.items():
            for dataset in node.datasets[role]:
                if what == "attention" and not isinstance(datasets[dataset].reader, AttentionReader):
                    raise InvalidInput(
                        f"{config.source} [{name}] dataset {role}: expected a data set with fixations, found "
                        f"{dataset!r} of format {config.datasets[dataset].format}; nothing was run"
                    )


def _plan_node(
    config: Config,
    store: Store,
    datasets: Mapping[str, OpenDataset],
    name: str,
    key: Key,
    plans: Mapping[str, NodePlan],
    waiting: Sequence[str],
    forced: bool,
) -> NodePlan:
    stage = load_stage(config.node(name).stage)
    version = key.digest()[:12]
    if waiting:
        return NodePlan(name, stage.name, "waits", version, f"depends on what {', '.join(waiting)} comes to")
    attempts = store.of_key(stage.name, key.digest())
    done = [v for v in attempts if v.state == "complete"]
    if done and not forced:
        return NodePlan(name, stage.name, "hit", done[-1].name, "complete in the store")
    unmade = [p for p in config.parents(name) if plans[p].state != "hit"]
    if unmade:
        return NodePlan(name, stage.name, "miss", version, f"{', '.join(unmade)} will be made first")
    state: Literal["forced", "miss"] = "forced" if forced and done else "miss"
    reason = "asked for by --force" if state == "forced" else why_missed(store, key)
    if not stage.sharded:
        opened = [v for v in attempts if v.state == "open"]
        if opened and state == "miss":
            return NodePlan(name, stage.name, "partial", version, "an earlier attempt goes on from its checkpoint")
        return NodePlan(name, stage.name, state, version, reason)
    return _plan_shards(config, store, datasets, name, key, stage, state, reason)


def _plan_shards(
    config: Config,
    store: Store,
    datasets: Mapping[str, OpenDataset],
    name: str,
    key: Key,
    stage: Stage,
    state: Literal["forced", "miss"],
    reason: str,
) -> NodePlan:
    assert stage.sharded is not None
    version = key.digest()[:12]
    shards = stage.sharded.plan(inputs_of(store, key), datasets_of(config, name, datasets))
    if state == "forced":
        return NodePlan(name, stage.name, state, version, reason, len(shards), tuple(s.number for s in shards))
    ready = adoptable(store, stage.name)
    remaining = tuple(s.number for s in shards if reusable(ready, key, s) is None)
    if len(remaining) < len(shards):
        reason = f"{len(shards) - len(remaining)} of {len(shards)} shards are there already; {reason}"
        return NodePlan(name, stage.name, "partial", version, reason, len(shards), remaining)
    return NodePlan(name, stage.name, "miss", version, reason, len(shards), remaining)


def inputs_of(store: Store, key: Key) -> dict[str, list[Manifest]]:
    """The manifests of a key's inputs, by role."""
    return {role: [store.resolve(ref) for ref in refs] for role, refs in key.inputs.items()}


def datasets_of(config: Config, name: str, datasets: Mapping[str, OpenDataset]) -> dict[str, list[OpenDataset]]:
    """A node's datasets, by role."""
    return {role: [datasets[n] for n in names] for role, names in config.node(name).datasets.items()}


def adoptable(store: Store, kind: str) -> dict[str, ShardRecord]:
    """All finished shards of any version of a kind, by shard key; those of complete versions win."""
    complete: dict[str, ShardRecord] = {}
    underway: dict[str, ShardRecord] = {}
    for version in store.versions(kind):
        if version.state == "complete":
            records = store.manifest(kind, version.name).shards
            complete |= {r.shard_key: r.model_copy(update={"adopted": version.name}) for r in records}
        elif version.state == "open":
            finished = OpenAttempt(store, version, store.attempt(version)).finished().values()
            underway |= {r.shard_key: r.model_copy(update={"adopted": version.name}) for r in finished}
    return underway | complete


def why_missed(store: Store, key: Key) -> str:
    """Which field of the key differs from the nearest earlier version."""
    earlier = [v for v in store.versions(key.stage) if v.state == "complete"]
    if not earlier:
        return f"no version of {key.stage} yet"
    differences = [(v, key_difference(store.attempt(v).key, key)) for v in earlier]
    version, fields = min(differences, key=lambda pair: len(pair[1]))
    if not fields:
        return f"{version.ref} has this key but is not complete"
    shown = "; ".join(f"{f}: {old!r} -> {new!r}" for f, old, new in fields[:3])
    return f"differs from {version.ref} in {shown}" + (f" and {len(fields) - 3} more" if len(fields) > 3 else "")


def key_difference(old: Key, new: Key) -> list[tuple[str, Any, Any]]:
    """Fields in which two keys differ, as (dotted name, old, new)."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    names = sorted(before.keys() | after.keys())
    return [(n, before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n)]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{prefix}{name}.").items()}
    return {prefix[:-1]: value}


