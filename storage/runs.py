"""The record of runs: which config, when, what came of it; refreshed while a run lives."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.canonical import now, pretty_json
from storage.errors import Format, GazeflowError, NotFound
from storage.manifest import RECORD_LIMIT
from storage.store import Store

REFRESH_SECONDS = 20


class RunRecord(BaseModel):
    """What a run's record holds at least; more may stand in it."""

    model_config = ConfigDict(extra="allow")

    id: str
    command: str
    host: str
    pid: int
    started: str
    refreshed: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
    ended: str | None
    state: str
    nodes: dict[str, dict[str, Any]]  # name -> what is known of it
    config: dict[str, Any]
    order: list[str] = []  # of the config's nodes, inputs first; the keys of JSON are sorted


class Run:
    """A run under way; `note` keeps its record, a thread refreshes it."""

    def __init__(self, store: Store, config: dict[str, Any], command: str) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        self.id = f"{stamp}-{uuid.uuid4().hex[:6]}"
        self._store = store
        self._lock = threading.Lock()
        self._record: dict[str, Any] = {
            "id": self.id,
            "command": command,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": now(),
            "ended": None,
            "state": "running",
            "nodes": {},
            "config": config,
            "order": list(config.get("nodes", {})),
        }
        self._write()

    def note(self, node: str, **facts: Any) -> None:
        """Keep what is known of a node: its state, ref, seconds, error; an error goes with the state it belongs to."""
        with self._lock:
            known = {k: v for k, v in self._record["nodes"].get(node, {}).items() if k != "error"}
            self._record["nodes"][node] = known | facts
            self._write()

    def end(self, state: str) -> None:
        """Close the record: "completed", "failed" or "stopped"."""
        with self._lock:
            self._record |= {"state": state, "ended": now()}
            self._write()

    @contextlib.contextmanager
    def refreshed(self) -> Iterator[Run]:
        """Refresh the record until the block is left, so that others see this run lives."""
        stop = threading.Event()
        thread = threading.Thread(target=self._refresh, args=(stop,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()

    def _refresh(self, stop: threading.Event) -> None:
        while not stop.wait(REFRESH_SECONDS):
            with self._lock, contextlib.suppress(GazeflowError):  # a full disk is the stages' to report
                self._write()

    def _write(self) -> None:
        self._record["refreshed"] = now()
        self._store.backend.replace(f"runs/{self.id}.json", pretty_json(self._record))


def runs(store: Store) -> list[str]:
    """Ids of all runs, oldest first."""
    return [n.removesuffix(".json") for n in store.backend.children("runs/") if n.endswith(".json")]


def read_run(store: Store, run: str) -> dict[str, Any]:
    """The record of a run. Raises NotFound, and Format when it is damaged."""
    key = f"runs/{run}.json"
    data = store.backend.get(key, limit=RECORD_LIMIT)
    try:
        return RunRecord.model_validate_json(data).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"]) or "the whole"
        raise Format(
            f"{store.backend.url}/{key}: expected the record of a run; {field}: {first['msg']}; it was left as it is. "
            "Delete that file, or give --config"
        ) from None


def last_run(store: Store) -> dict[str, Any]:
    """The record of the newest run. Raises NotFound when there has been none."""
    ids = runs(store)
    if not ids:
        raise NotFound(f"{store.backend.url}: no run yet; start one with `gazeflow run CONFIG` or give --config")
    return read_run(store, ids[-1])


def own_run(store: Store) -> dict[str, Any]:
    """The record of this process's newest run; others may run beside it, damaged ones too. Raises NotFound."""
    here = {"host": socket.gethostname(), "pid": os.getpid()}
    for record in _readable(store, reversed(runs(store)), lambda text: None):
        if here.items() <= record.items():
            return record
    raise NotFound(f"{store.backend.url}: expected a run of process {here['pid']} on {here['host']}, found none")


def makers(store: Store, ref: str, warn: Callable[[str], None]) -> list[dict[str, Any]]:
    """Records of living runs that are making a version just now; `warn` is told of records that are damaged."""
    alive = [r for r in _readable(store, runs(store)[-50:], warn) if living(r)]
    return [r for r in alive if {"ref": ref, "state": "running"}.items() <= _last_noted(r, ref).items()]


def _readable(store: Store, ids: Iterable[str], warn: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The records of runs; one that is damaged is history lost, no reason to stop."""
    for run in ids:
        try:
            yield read_run(store, run)
        except GazeflowError as error:
            warn(str(error))


def _last_noted(record: dict[str, Any], ref: str) -> dict[str, Any]:
    return next((n for n in record["nodes"].values() if n.get("ref") == ref), {})


def living(record: dict[str, Any]) -> bool:
    """Whether a run has not ended: its process is there, or, on another host, it was refreshed a minute ago."""
    if record["ended"] is not None:
        return False
    if record["host"] == socket.gethostname():
        return Path(f"/proc/{record['pid']}").exists() or not Path("/proc").exists()
    age = datetime.now(UTC) - datetime.strptime(record["refreshed"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return age.total_seconds() < 3 * REFRESH_SECONDS
