"""The record of runs: which config, when, what came of it; refreshed while a run lives."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.attempt import now
from storage.canonical import pretty_json
from storage.errors import Format, GazeflowError, NotFound
from storage.manifest import RECORD_LIMIT
from storage.store import Store

REFRESH_SECONDS = 20

_FIELDS = {"id", "command", "host", "pid", "started", "refreshed", "ended", "state", "nodes", "config"}


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
        }
        self._write()

    def note(self, node: str, **facts: Any) -> None:
        """Keep what is known of a node: its state, ref, seconds."""
        with self._lock:
            self._record["nodes"].setdefault(node, {}).update(facts)
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
        record = json.loads(data)
        missing = _FIELDS - record.keys()
    except (ValueError, AttributeError, RecursionError):
        missing = _FIELDS
    if missing:
        raise Format(
            f"{store.backend.url}/{key}: expected the record of a run, found none with {sorted(missing)[0]!r}; it was "
            "left as it is. Delete that file, or give --config"
        )
    return dict(record)


def last_run(store: Store) -> dict[str, Any]:
    """The record of the newest run. Raises NotFound when there has been none."""
    ids = runs(store)
    if not ids:
        raise NotFound(f"{store.backend.url}: no run yet; start one with `gazeflow run CONFIG` or give --config")
    return read_run(store, ids[-1])


def own_run(store: Store) -> dict[str, Any]:
    """The record of this process's newest run; others may run beside it. Raises NotFound."""
    here = {"host": socket.gethostname(), "pid": os.getpid()}
    for run in reversed(runs(store)):
        record = read_run(store, run)
        if here.items() <= record.items():
            return record
    raise NotFound(f"{store.backend.url}: expected a run of process {here['pid']} on {here['host']}, found none")


def makers(store: Store, ref: str) -> list[dict[str, Any]]:
    """Records of living runs that are making a version just now."""
    alive = [r for r in (read_run(store, run) for run in runs(store)[-50:]) if living(r)]
    return [r for r in alive if {"ref": ref, "state": "running"}.items() <= _last_noted(r, ref).items()]


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
