"""The only place where a stage becomes a Prefect task, and its events Prefect progress, tables, pictures."""

from __future__ import annotations

import base64
import io
import logging
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from prefect import Task, get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import UnfinishedRun
from prefect.futures import PrefectFuture
from prefect.states import Completed

from storage.attempt import OpenAttempt
from storage.errors import GazeflowError, NotFound, Transient
from storage.runs import Run, makers
from storage.store import Store
from tasks._child import Call
from tasks._config import Config
from tasks._datasets import OpenDataset, refresh, reopen
from tasks._make import Order, open_order, remaining_shards
from tasks._plan import node_key, plan_run, why_missed
from tasks._process import Cancelled, Child, ChildDied
from tasks._stage import Event, Shard, load_stage

_DEATHS_PER_SHARD = 3
_LOST_SHARDS = 3  # so many in one node mean that the fault is not in the shards
_PICTURE_LIMIT = 100_000  # bytes of a PNG shown on a run page
_PROGRESS_SECONDS = 2.0
_BESIDE = "is making this version too; both go on, the first to finish publishes and the other adopts it"


@dataclass(frozen=True)
class Session:
    """What a process that runs a flow lends to it: a way to stop, and an onlooker."""

    cancel: threading.Event = field(default_factory=threading.Event)
    show: Callable[[str, Event], None] = lambda node, event: None


SESSION: ContextVar[Session] = ContextVar("session")


def run_nodes(
    config: Config, command: str, wanted: list[str] | None = None, forced: list[str] | None = None,
    redo: dict[str, list[int]] | None = None, rehash: bool = False,
) -> dict[str, str]:
    """Run the wanted nodes of a config inside a Prefect flow; returns node -> ref.

    Raises the first failed node's error, after the nodes that do not need it have ended.
    """
    store = Store.open(config.settings.store)
    names = list(config.nodes) if wanted is None else [n for n in config.nodes if n in wanted]
    whole, config = config, config.narrowed(names)
    datasets = _refreshed(store, config, names, rehash)
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


def _refreshed(store: Store, config: Config, names: list[str], rehash: bool) -> dict[str, OpenDataset]:
    """The datasets of the wanted nodes as they are now; those of others as last seen, listed if never."""
    used = {d for n in names for ds in config.node(n).datasets.values() for d in ds}
    datasets = {}
    for name, dataset in config.datasets.items():
        if name in used:
            datasets[name] = refresh(store, name, dataset, rehash)
        else:
            try:
                datasets[name] = reopen(store, name, dataset)
            except NotFound:
                datasets[name] = refresh(store, name, dataset)
    return datasets


def _submitted(
    store: Store, config: Config, datasets: dict[str, OpenDataset], run: Run, session: Session,
    names: list[str], forced: list[str], redo: dict[str, list[int]],
) -> dict[str, str]:
    known = {p.node: p for p in plan_run(config, store, datasets, list(config.nodes))}
    made: dict[str, Any] = {}
    slots = threading.BoundedSemaphore(config.settings.workers)
    for name in config.nodes:
        if name in names:
            task = _node_task(config, name, run, session, slots, name in forced, redo.get(name))
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
    config: Config, name: str, run: Run, session: Session, slots: threading.BoundedSemaphore, forced: bool,
    redo: list[int] | None,
) -> Task[..., Any]:
    settings = config.settings
    stage = load_stage(config.node(name).stage)

    def node(inputs: dict[str, str]) -> State[str] | str:
        with slots:
            started = time.monotonic()
            try:
                ref, cached = _make_node(config, name, inputs, run, session, forced, redo)
            except GazeflowError as error:
                run.note(name, state="failed", error=str(error))
                raise
            state = "Cached" if cached else "Made"
            run.note(name, state=state, ref=ref, seconds=round(time.monotonic() - started, 1))
            return Completed(name="Cached", message=f"{ref} is in the store", data=ref) if cached else ref

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


def _make_node(
    config: Config, name: str, inputs: dict[str, str], run: Run, session: Session, forced: bool, redo: list[int] | None
) -> tuple[str, bool]:
    """Make a node or find it made; returns (ref, whether it was found)."""
    store = Store.open(config.settings.store)
    datasets = {n: reopen(store, n, config.datasets[n]) for ds in config.node(name).datasets.values() for n in ds}
    key = node_key(config, name, inputs, datasets)
    done = store.complete(key.stage, key.digest())
    if done and not forced:
        return done.ref, True
    page = _Page(name, session)
    reason = "asked for by --force" if done else why_missed(store, key)
    order, attempt = open_order(config, name, key, run.id, reason, forced, redo)
    first = None if forced else store.complete(key.stage, key.digest())
    if first:
        attempt.close(f"{first.ref} was published by another run meanwhile")
        return first.ref, True
    page.report(Event(kind="log", text=f"making {attempt.version.ref}: {reason}"))
    for other in makers(store, attempt.version.ref):
        who = f"WARNING run {other['id']} (process {other['pid']} on {other['host']})"
        page.report(Event(kind="log", text=f"{who} {_BESIDE}"))
    run.note(name, state="running", ref=attempt.version.ref)
    seconds = config.settings.timeout_hours * 3600
    with Child(session.cancel) as child:
        if load_stage(key.stage).sharded:
            _make_all_shards(order, attempt, child, page, config.settings.shards_per_task, seconds)
            ref = child.call(Call(order=order, what="finish"), page.report, seconds)
        else:
            ref = child.call(Call(order=order, what="whole"), page.report, seconds)
    return str(ref), False


def _make_all_shards(
    order: Order, attempt: OpenAttempt, child: Child, page: _Page, batch_size: int, seconds: float
) -> None:
    """Make what remains in batches; a shard whose process died three times is left out and named at the end."""
    deaths: dict[int, int] = {}
    lost: list[int] = []
    todo = remaining_shards(order)
    page.expect(todo)
    while todo and len(lost) < _LOST_SHARDS:
        batch, rest = todo[:batch_size], todo[batch_size:]
        died = ""
        try:
            _shards_task(order, child, page, batch, seconds)()  # type: ignore[unused-coroutine]  # a sync task
        except ChildDied as error:
            died = str(error)
        left = [s for s in batch if not attempt.is_finished(s.number)]  # the store knows of another run's, too
        if died and left:
            first = left[0].number  # shards are made in order: this one was under way, or next
            deaths[first] = deaths.get(first, 0) + 1
            page.report(Event(kind="log", text=f"WARNING shard {first}: try {deaths[first]}: {died}"))
        lost = sorted(n for n, tries in deaths.items() if tries >= _DEATHS_PER_SHARD)
        todo = [s for s in left if s.number not in lost] + rest
    if lost:
        raise GazeflowError(
            f"{order.node}: the shards {lost} killed their process {_DEATHS_PER_SHARD} times each; what others were "
            "finished is in the store. Look at the images of these and at the memory there is, then run again"
        )


def _shards_task(order: Order, child: Child, page: _Page, batch: list[Shard], seconds: float) -> Task[..., Any]:
    numbers = [s.number for s in batch]

    def shards() -> Any:
        return child.call(Call(order=order, what="shards", shards=numbers), page.report, seconds)

    return Task(
        fn=shards,
        name=f"{order.key.stage}-shards",
        task_run_name=f"{order.node} shards {numbers[0]}-{numbers[-1]}",
        cache_policy=NO_CACHE,
        persist_result=False,
    )


class _Page:
    """A node's run page: what its events show there, in the log and to the session's onlooker."""

    def __init__(self, node: str, session: Session) -> None:
        self._node = node
        self._session = session
        self._progress: Any = None  # the artifact's id
        self._shown = 0.0
        self._total = self._done = 0

    def expect(self, shards: list[Shard]) -> None:
        """Count progress in samples of these shards."""
        self._total = sum(s.samples for s in shards)

    def report(self, event: Event) -> None:
        """Take one event of the running stage."""
        if event.kind == "shard":
            event = self._counted(event)
        self._session.show(self._node, event)
        if event.kind == "log":
            _logger().log(logging.WARNING if event.text.startswith("WARNING") else logging.INFO, event.text)
            return
        try:
            self._show(event)
        except Exception as error:  # the page is a view: Prefect being away must not stop the work
            _logger().debug("run page not updated: %s", error)

    def _counted(self, event: Event) -> Event:
        if event.record is not None:
            self._done += event.record.done + event.record.failed
        return Event(kind="progress", done=self._done, total=self._total, unit="images")

    def _show(self, event: Event) -> None:
        key = self._node.replace(".", "-")
        if event.kind == "progress" and event.total:
            self._show_progress(key, 100 * event.done / event.total, event.done >= event.total)
        elif event.kind == "table":
            create_table_artifact(event.rows, key=f"{key}-table", description=event.text)
        elif event.kind == "picture":
            markdown = f"### {event.text}\n\n![{event.text}]({_data_uri(event.png)})"
            create_markdown_artifact(markdown, key=f"{key}-{_slug(event.text)}", description=event.text)

    def _show_progress(self, key: str, percent: float, last: bool) -> None:
        if self._progress is None:
            self._progress = create_progress_artifact(percent, key=f"{key}-progress", description=self._node)
        elif last or time.monotonic() - self._shown > _PROGRESS_SECONDS:
            update_progress_artifact(self._progress, percent)
        else:
            return
        self._shown = time.monotonic()


def _data_uri(png: str) -> str:
    """A picture as a run page holds it: the PNG itself when small, else a smaller JPEG; the full one is a view."""
    if len(png) * 3 / 4 < _PICTURE_LIMIT:
        return f"data:image/png;base64,{png}"
    picture = Image.open(io.BytesIO(base64.b64decode(png)), formats=["PNG"]).convert("RGB")
    picture.thumbnail((720, 720))
    sink = io.BytesIO()
    picture.save(sink, format="JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower()).strip("-")[:40] or "picture"


def _logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    return get_run_logger()
