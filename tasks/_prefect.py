"""Where the nodes of a config become tasks of a Prefect flow; `_batches.py` and `_page.py` belong to it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from prefect import Task, states
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import UnfinishedRun
from prefect.futures import PrefectFuture

from storage.errors import GazeflowError, NotFound, Transient
from storage.manifest import Key
from storage.runs import Run, makers
from storage.store import Store
from tasks._batches import make_all_shards
from tasks._child import Call
from tasks._config import Config
from tasks._datasets import OpenDataset, refreshed, reopen
from tasks._make import open_order
from tasks._page import Page
from tasks._plan import node_key, pinned, plan_run, why_missed
from tasks._process import Cancelled, Child
from tasks._stage import Event, load_stage

_BESIDE = "is making this version too; both go on, the first to finish publishes and the other adopts it"


@dataclass(frozen=True)
class Session:
    """What a process that runs a flow lends to it: a way to stop, and an onlooker."""

    cancel: threading.Event = field(default_factory=threading.Event)
    show: Callable[[str, Event], None] = lambda node, event: None


SESSION: ContextVar[Session] = ContextVar("session")


@dataclass(frozen=True)
class _Turns:
    """Whose turn it is within one run: so many nodes at a time, and of those with one key one after the other."""

    slots: threading.BoundedSemaphore
    locks: dict[str, threading.Lock] = field(default_factory=dict)

    @contextlib.contextmanager
    def take(self, key: Key) -> Iterator[None]:
        with self.locks.setdefault(key.digest(), threading.Lock()), self.slots:  # who waits for a key holds no slot
            yield


def run_nodes(
    config: Config, command: str, wanted: list[str] | None = None, forced: list[str] | None = None,
    redo: dict[str, list[int]] | None = None, rehash: bool = False,
) -> dict[str, str]:
    """Run the wanted nodes of a config inside a Prefect flow; returns node -> ref.

    Raises the first failed node's error, after the nodes that do not need it have ended.
    """
    store = Store.open(config.settings.store)
    names = list(config.nodes) if wanted is None else [n for n in config.nodes if n in wanted]
    whole, config = config, pinned(config.narrowed(names), store)
    whole = whole.model_copy(update={"nodes": whole.nodes | config.nodes})
    used = {d for n in names for ds in config.node(n).datasets.values() for d in ds}
    datasets = refreshed(store, config.datasets, used, rehash)
    run = Run(store, whole.model_dump(mode="json"), command)
    session = SESSION.get(Session())
    with run.refreshed():
        try:
            refs = _submitted(store, config, datasets, run, session, names, forced or [], redo or {})
        except Cancelled:
            run.end("stopped")
            raise
        except Exception:
            run.end("failed")
            raise
        except BaseException:  # Ctrl-C, or Prefect telling us to terminate
            session.cancel.set()
            run.end("stopped")
            raise
        run.end("completed")
    return refs


def _submitted(
    store: Store, config: Config, datasets: dict[str, OpenDataset], run: Run, session: Session,
    names: list[str], forced: list[str], redo: dict[str, list[int]],
) -> dict[str, str]:
    known = {p.node: p for p in plan_run(config, store, datasets, list(config.nodes))}
    made: dict[str, Any] = {}
    turns = _Turns(threading.BoundedSemaphore(config.settings.workers))
    for name in config.nodes:
        if name in names:
            task = _node_task(config, name, run, session, turns, name in forced, redo.get(name))
            made[name] = task.submit({p: made[p] for p in config.parents(name)})
        elif known[name].state == "hit":
            made[name] = known[name].ref
        elif any(name in config.upstream(n) for n in names):
            raise NotFound(
                f"{name}: expected a complete version of this input, found none ({known[name].reason}); nothing was "
                f"run. Run without --only or --from, or make it first with `gazeflow run --until {name}`"
            )
    return _gathered({n: made[n] for n in names})


def _gathered(futures: dict[str, PrefectFuture[str]]) -> dict[str, str]:
    """All refs, once every node has ended. Raises the first failure; one that only followed from it is left out."""
    for future in futures.values():
        future.wait()
    errors: list[BaseException] = []
    for future in futures.values():
        try:
            found = future.result(raise_on_failure=False)
        except UnfinishedRun:  # its input failed, so that it never began
            continue
        if isinstance(found, BaseException):
            errors.append(found)
    for error in sorted(errors, key=lambda e: not isinstance(e, GazeflowError)):
        raise error
    return {n: f.result() for n, f in futures.items()}


def _node_task(
    config: Config, name: str, run: Run, session: Session, turns: _Turns, forced: bool, redo: list[int] | None
) -> Task[..., Any]:
    settings = config.settings
    stage = load_stage(config.node(name).stage)

    def node(inputs: dict[str, str]) -> State[str] | str:
        with _noted(run, name):
            key = _key(config, name, inputs)
            with turns.take(key):
                if session.cancel.is_set():
                    return states.Cancelled(message="the run was stopped before this node began")
                started = time.monotonic()
                ref, cached = _make_node(config, name, key, run, session, forced, redo)
                state = "Cached" if cached else "Made"
                run.note(name, state=state, ref=ref, seconds=round(time.monotonic() - started, 1))
        return states.Completed(name="Cached", message=f"{ref} is in the store", data=ref) if cached else ref

    return Task(
        fn=node,
        name=stage.name,
        description=stage.title,
        task_run_name=name,
        tags=["gazeflow", stage.name],
        version=str(stage.version),
        cache_policy=NO_CACHE,  # the store is the one record of what is done
        persist_result=False,
        retries=settings.retries,
        retry_delay_seconds=[settings.retry_seconds * 2**n for n in range(settings.retries)],
        retry_condition_fn=_is_transient,
    )


def _is_transient(task: Any, run: Any, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, Transient)


@contextlib.contextmanager
def _noted(run: Run, name: str) -> Iterator[None]:
    """Keep in the run's record how a node ended that was not made: stopped, or failed and why."""
    try:
        yield
    except Cancelled:
        run.note(name, state="stopped")
        raise
    except Exception as error:
        run.note(name, state="failed", error=str(error))
        raise


def _key(config: Config, name: str, inputs: dict[str, str]) -> Key:
    store = Store.open(config.settings.store)
    datasets = {n: reopen(store, n, config.datasets[n]) for ds in config.node(name).datasets.values() for n in ds}
    return node_key(config, name, inputs, datasets)


def _make_node(
    config: Config, name: str, key: Key, run: Run, session: Session, forced: bool, redo: list[int] | None
) -> tuple[str, bool]:
    """Make a node or find it made; returns (ref, whether it was found)."""
    store = Store.open(config.settings.store)
    done = store.complete(key.stage, key.digest())
    if done and not forced:
        return done.ref, True
    page = Page(name, session.show)
    reason = "asked for by --force" if done else why_missed(store, key)
    order, attempt = open_order(config, name, key, run.id, reason, forced, redo)
    first = None if forced else store.complete(key.stage, key.digest())
    if first:
        attempt.close(f"{first.ref} was published by another run meanwhile")
        return first.ref, True
    page.log(f"making {attempt.version.ref}: {reason}")
    for other in makers(store, attempt.version.ref, lambda text: page.log(f"WARNING {text}")):
        page.log(f"WARNING run {other['id']} (process {other['pid']} on {other['host']}) {_BESIDE}")
    run.note(name, state="running", ref=attempt.version.ref)
    seconds = config.settings.timeout_hours * 3600
    with Child(session.cancel) as child:
        if load_stage(key.stage).sharded:
            make_all_shards(order, attempt, child, page, config.settings.shards_per_task, seconds)
            ref = child.call(Call(order=order, what="finish"), page.report, seconds)
        else:
            ref = child.call(Call(order=order, what="whole"), page.report, seconds)
    return str(ref), False
