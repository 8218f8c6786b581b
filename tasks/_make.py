"""Make one node's artifact: open the attempt, run the stage, record shards, publish. No Prefect here."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from storage.attempt import OpenAttempt, open_attempt
from storage.canonical import now
from storage.errors import InvalidInput
from storage.manifest import Key, Manifest, Producer, ShardRecord
from storage.store import Store, Version
from storage.verify import damaged
from tasks._config import Config
from tasks._datasets import reopen
from tasks._plan import adoptable, datasets_of, inputs_of, reusable, shard_key
from tasks._stage import Context, Event, Result, Shard, Sharded, load_stage

Report = Callable[[Event], None]


class Order(BaseModel):
    """What is asked of whoever makes a node: all of it travels as JSON to another process."""

    model_config = ConfigDict(frozen=True)

    config: Config
    node: str
    key: Key
    version: str  # of the attempt that is open
    run: str


def open_order(
    config: Config, node: str, key: Key, run: str, reason: str, forced: bool, redo: list[int] | None
) -> tuple[Order, OpenAttempt]:
    """Open or resume the attempt a node needs."""
    store = Store.open(config.settings.store)
    done = store.complete(key.stage, key.digest())
    base = done.name if done and forced else None
    attempt = open_attempt(store, key, node, reason, run, base, redo if base else None)
    return Order(config=config, node=node, key=key, version=attempt.version.name, run=run), attempt


def make_whole(order: Order, report: Report) -> str:
    """Run an unsharded stage and publish what it made; returns the ref that stands."""
    started = time.monotonic()
    context = _context(order, report)
    stage = load_stage(order.key.stage)
    assert not isinstance(stage.run, Sharded)
    result = stage.run(context)
    return _publish(order, context, result, [], time.monotonic() - started)


def remaining_shards(order: Order) -> list[Shard]:
    """Shards still to make, after those that can be taken over have been."""
    store = Store.open(order.config.settings.store)
    attempt = _attempt(store, order)
    plan = load_stage(order.key.stage).sharded
    assert plan is not None
    shards = plan.plan(inputs_of(store, order.key), _datasets(store, order))
    finished = attempt.finished()
    ready = _reusable(store, attempt)
    remaining = []
    for shard in shards:
        if shard.number in finished:
            continue
        record = reusable(ready, order.key, shard)
        asked_for = attempt.attempt.redo is not None and shard.number in attempt.attempt.redo
        if record is not None and not asked_for and store.holds(record.members):
            attempt.finish(record)
        else:
            remaining.append(shard)
    return remaining


def make_shards(order: Order, numbers: Sequence[int], report: Report) -> int:
    """Make some shards, each recorded as soon as it is done; returns how many this call made."""
    context = _context(order, report)
    stage = load_stage(order.key.stage).sharded
    assert stage is not None
    wanted = set(numbers)
    shards = [s for s in stage.plan(context.inputs, context.datasets) if s.number in wanted]
    made, clock = 0, time.monotonic()
    for result in stage.run(context, _starting(context.attempt, shards, report)):
        record = ShardRecord(
            shard=result.shard.number,
            shard_key=shard_key(order.key, result.shard.inputs),
            members=result.members,
            done=result.done,
            failed=result.failed,
            errors=result.errors[:20],
            counts=result.counts,
            seconds=round(time.monotonic() - clock, 3),
        )
        report(Event(kind="shard", record=context.attempt.finish(record)))
        made, clock = made + 1, time.monotonic()
    return made


def finish_sharded(order: Order, report: Report) -> str:
    """Publish a sharded artifact whose shards are all done; returns the ref that stands."""
    context = _context(order, report)
    stage = load_stage(order.key.stage).sharded
    assert stage is not None
    numbers = [s.number for s in stage.plan(context.inputs, context.datasets)]
    finished = context.attempt.finished()
    records = [finished[n] for n in numbers]
    result = stage.finish(context, records)
    whole = Result(
        members=[m for r in records for m in r.members],
        views=result.views,
        summary=result.summary,
        done=sum(r.done for r in records),
        failed=sum(r.failed for r in records),
        errors=[e for r in records for e in r.errors],
    )
    return _publish(order, context, whole, records, sum(r.seconds for r in records))


def _starting(attempt: OpenAttempt, shards: Sequence[Shard], report: Report) -> Iterator[Shard]:
    """The shards as the stage asks for them, each start marked; another run's finished ones are left out."""
    for shard in shards:
        if not attempt.is_finished(shard.number):
            attempt.start(shard.number)
            report(Event(kind="shard", text=str(shard.number)))
            yield shard


def _reusable(store: Store, attempt: OpenAttempt) -> dict[str, ShardRecord]:
    """Finished shards this attempt may take over: its base's when it redoes some, else any version's."""
    base = attempt.attempt.base
    if base is None:
        return adoptable(store, attempt.version.kind)
    if attempt.attempt.redo is None:
        return {}
    manifest = store.manifest(attempt.version.kind, base)
    return {r.shard_key: r.model_copy(update={"adopted": base}) for r in manifest.shards}


def _publish(order: Order, context: Context, result: Result, records: list[ShardRecord], seconds: float) -> str:
    _check_failures(order, context, result)
    attempt = context.attempt
    manifest = attempt.publish(
        Manifest(
            kind=order.key.stage,
            version=order.version,
            node=order.node,
            key=order.key,
            members=result.members,
            views=result.views,
            shards=records,
            done=result.done,
            failed=result.failed,
            summary=result.summary,
            seconds=round(seconds, 3),
            published=now(),
            producer=producer(str(getattr(context.params, "device", "cpu")), context.store.create_only),
            run=order.run,
        )
    )
    if manifest.version != order.version:
        context.log(f"{order.node}: made again with the same result as {manifest.kind}@{manifest.version}")
        _tell_damaged_views(order, context, manifest)
    elif manifest.run != order.run:
        context.log(f"WARNING {order.node}: another run published {manifest.kind}@{manifest.version} first; using it")
    return f"{manifest.kind}@{manifest.version}"


def _tell_damaged_views(order: Order, context: Context, manifest: Manifest) -> None:
    """A view that came out with other bytes cannot stand in for one that is damaged: its manifest never changes."""
    views = manifest.model_copy(update={"members": [], "shards": []})
    names = [d.member.name for d in damaged(context.store.backend, views, deep=True)]
    if names:
        context.log(
            f"WARNING {order.node}: expected to put right the damaged views {', '.join(names)} of "
            f"{manifest.kind}@{manifest.version}, made others; its results are whole, and nothing was replaced. "
            "To mend the views too, run again with the release and packages that its manifest names"
        )


def _check_failures(order: Order, context: Context, result: Result) -> None:
    total, limit = result.done + result.failed, context.settings.max_failed_share
    if result.failed > limit * total:
        named = "; ".join(result.errors[:5])
        raise InvalidInput(
            f"{order.node}: expected at most {limit:.2%} broken images, found {result.failed} of {total} ({named}); "
            "the finished shards are kept, nothing was published. Mend or remove those images and run again, or "
            "raise settings.max_failed_share"
        )
    if result.failed:
        named = "; ".join(result.errors[:5])
        context.log(f"WARNING {order.node}: {result.failed} of {total} images are broken: {named}")


def _context(order: Order, report: Report) -> Context:
    store = Store.open(order.config.settings.store)
    return Context(
        params=load_stage(order.key.stage).params.model_validate(order.key.params),
        inputs=inputs_of(store, order.key),
        datasets=_datasets(store, order),
        store=store,
        attempt=_attempt(store, order),
        settings=order.config.settings,
        report=report,
    )


def _datasets(store: Store, order: Order) -> dict[str, list[Any]]:
    names = {n for names in order.config.node(order.node).datasets.values() for n in names}
    opened = {n: reopen(store, n, order.config.datasets[n]) for n in names}
    return datasets_of(order.config, order.node, opened)


def _attempt(store: Store, order: Order) -> OpenAttempt:
    version = Version(order.key.stage, order.version, "open")
    return OpenAttempt(store, version, store.attempt(version))


def producer(device: str, create_only: bool) -> Producer:
    """What makes results here: release, commit, libraries, device, and what the store promises."""
    torch = sys.modules.get("torch")
    try:
        release = metadata.version("gazeflow")
    except metadata.PackageNotFoundError:
        release = "not installed"
    return Producer(
        release=release,
        commit=_commit(),
        python=platform.python_version(),
        torch=getattr(torch, "__version__", None),
        device=device,
        create_only=create_only,
    )


def _commit() -> str | None:
    here = Path(__file__).parent
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
