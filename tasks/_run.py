"""What a flow is asked for: options that become a form in Prefect, checked before anything runs."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from storage.errors import InvalidInput, NotFound
from storage.runs import last_run
from storage.store import Store
from tasks._config import Config, environment_settings, load_config

_LAST_SHARD = 999_999  # shards are named by six digits


class PipelineOptions(BaseModel):
    """Parameters of the pipeline flow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: str = Field(description="a TOML file, or a preset's name such as demo.toml")
    set: list[str] = Field([], description="overrides, TABLE.KEY=VALUE")
    only: str | None = Field(None, description="this node alone")
    from_: str | None = Field(None, description="this node and what depends on it")
    until: str | None = Field(None, description="this node and what it needs")
    force: list[str] = Field([], description="nodes to make again though they are complete")
    rehash: bool = Field(False, description="read every file of every dataset again")
    command: str = Field("", description="what was typed, kept in the run's record")


class NodeOptions(BaseModel):
    """Parameters of the single-node flow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: str = Field(description="the node to make again")
    config: str | None = Field(None, description="a TOML file or preset; the last run's when not given")
    set: list[str] = Field([], description="overrides, TABLE.KEY=VALUE")
    shards: str | None = Field(None, description="shards to make again, such as 3,17-20")
    failed: bool = Field(False, description="make the shards with broken images again")
    damaged: bool = Field(False, description="make the shards whose bytes are damaged again")
    only: bool = Field(False, description="leave what depends on the node alone")
    command: str = Field("", description="what was typed, kept in the run's record")


def run_pipeline(options: PipelineOptions) -> dict[str, str]:
    """Run the nodes the options ask for, inside a flow."""
    from tasks._prefect import run_nodes

    config = load_config(options.config, options.set)
    wanted = wanted_nodes(config, options.only, options.from_, options.until)
    for name in options.force:
        config.node(name)
    return run_nodes(config, options.command, wanted, options.force, rehash=options.rehash)


def run_node(options: NodeOptions) -> dict[str, str]:
    """Make one node again, inside a flow."""
    from tasks._prefect import run_nodes

    config = chosen_config(options.config, options.set)
    config.node(options.node)
    wanted = [options.node] if options.only else [options.node, *config.downstream(options.node)]
    redo = redo_shards(config, options)
    return run_nodes(config, options.command, wanted, [options.node], {} if redo is None else {options.node: redo})


def wanted_nodes(config: Config, only: str | None, from_: str | None, until: str | None) -> list[str]:
    """The nodes that --only, --from and --until leave, in order. Raises NotFound, InvalidInput."""
    if only and (from_ or until):
        raise InvalidInput("--only goes with neither --from nor --until; give one of them")
    wanted = set(config.nodes)
    if only:
        wanted = {config.node(only).name}
    if from_:
        wanted &= {config.node(from_).name, *config.downstream(from_)}
    if until:
        wanted &= {config.node(until).name, *config.upstream(until)}
    if not wanted:
        raise InvalidInput(f"--from {from_} --until {until}: no node lies between them")
    return [n for n in config.nodes if n in wanted]


def chosen_config(path: str | None, overrides: list[str]) -> Config:
    """The config a command means: the one given, else the last run's."""
    if path is not None:
        return load_config(path, overrides)
    if overrides:
        raise InvalidInput("--set goes with --config; the last run's config is used as it was")
    record: dict[str, Any] = last_run(Store.existing(environment_settings().store))
    config = Config.model_validate(record["config"])
    return config.narrowed(config.nodes)  # a record's keys are sorted; nodes stand with their inputs first


def redo_shards(config: Config, options: NodeOptions) -> list[int] | None:
    """The shards a rerun names, from numbers or from the node's last version; None for all."""
    if sum((options.shards is not None, options.failed, options.damaged)) > 1:
        raise InvalidInput("--shards, --failed and --damaged exclude each other; give one of them")
    if options.shards is not None:
        return _known_shards(config, options.node, parse_shards(options.shards))
    if not (options.failed or options.damaged):
        return None
    manifest = current_manifest(config, options.node)
    if options.failed:
        found = [r.shard for r in manifest.shards if r.failed]
    else:
        from storage.verify import damaged

        store = Store.existing(config.settings.store)
        damage = list(damaged(store.backend, manifest, deep=True))
        found = sorted({d.shard for d in damage if d.shard is not None})
        if damage and not found:
            return None  # no shard's bytes: the whole node is made again, which puts them right
    if not found:
        what = "failed" if options.failed else "damaged"
        raise NotFound(f"{options.node}: no {what} shard in {manifest.kind}@{manifest.version}; nothing to do")
    return found


def _known_shards(config: Config, node: str, numbers: list[int]) -> list[int]:
    """The same numbers. Raises InvalidInput for a node without shards, NotFound for shards that it has not."""
    known = [r.shard for r in current_manifest(config, node).shards]
    if not known:
        raise InvalidInput(f"{node}: --shards goes with sharded stages; this one is made whole. Leave it out")
    missing = sorted(set(numbers) - set(known))
    if missing:
        raise NotFound(f"{node}: no shards {missing[:10]}; it has {len(known)}, 0 to {max(known)}. Nothing was run")
    return numbers


def current_manifest(config: Config, node: str) -> Any:
    """The manifest of the version a node has now. Raises NotFound when it has none."""
    from tasks._datasets import reopen
    from tasks._plan import pinned, plan_run

    store = Store.existing(config.settings.store)
    config = pinned(config, store)
    datasets = {n: reopen(store, n, d) for n, d in config.datasets.items()}
    plan = next(p for p in plan_run(config, store, datasets, list(config.nodes)) if p.node == node)
    if plan.state != "hit":
        raise NotFound(f"{node}: expected a complete version, found none ({plan.reason}); use `gazeflow run`")
    return store.resolve(plan.ref)


def parse_shards(text: str) -> list[int]:
    """Shard numbers from text such as "3,17-20". Raises InvalidInput."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise InvalidInput(f"shards {text!r}: expected numbers and ranges such as 3,17-20")
        low, high = int(first), int(last or first)
        if not low <= high <= _LAST_SHARD:
            raise InvalidInput(f"shards {text!r}: expected ranges upwards, to {_LAST_SHARD} at most, found {part!r}")
        numbers |= set(range(low, high + 1))
    return sorted(numbers)
