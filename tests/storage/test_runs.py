"""The record of runs: kept up to date, readable while it lives, refused when it is damaged."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from storage import runs as runs_module
from storage.errors import Format, InvalidInput, NotFound, Transient
from storage.runs import Run, last_run, living, makers, own_run, read_run, runs
from storage.store import Store


def test_a_run_from_start_to_end(store: Store) -> None:
    run = Run(store, {"nodes": {"teacher": {}}}, "gazeflow run demo.toml")
    assert re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{6}", run.id)
    record = read_run(store, run.id)
    assert (record["state"], record["ended"], record["nodes"]) == ("running", None, {})
    assert record["config"] == {"nodes": {"teacher": {}}}
    assert living(record)
    run.note("teacher", state="running", ref="teacher@0123456789ab")
    run.note("teacher", state="completed", seconds=2.5)
    run.end("completed")
    record = read_run(store, run.id)
    assert record["nodes"] == {"teacher": {"state": "completed", "ref": "teacher@0123456789ab", "seconds": 2.5}}
    assert (record["state"], record["ended"] is None) == ("completed", False)
    assert not living(record)


def test_an_error_goes_with_the_state_it_belongs_to(store: Store) -> None:
    run = Run(store, {}, "x")
    run.note("teacher", state="failed", error="the disk is full", seconds=1.0)
    run.note("teacher", state="running", ref="teacher@0123456789ab")
    assert "error" not in read_run(store, run.id)["nodes"]["teacher"]
    run.note("teacher", state="Made", seconds=2.5)
    known = {"state": "Made", "ref": "teacher@0123456789ab", "seconds": 2.5}
    assert read_run(store, run.id)["nodes"] == {"teacher": known}


def test_nodes_keep_the_order_of_the_config(store: Store) -> None:
    nodes: dict[str, dict[str, str]] = {"teacher": {}, "saliency": {}, "fixations": {}}
    run = Run(store, {"nodes": nodes}, "x")
    assert read_run(store, run.id)["order"] == ["teacher", "saliency", "fixations"]
    old = store.backend.get(f"runs/{run.id}.json").replace(b'"order"', b'"later"')
    store.backend.create("runs/20200101T000000-ffffff.json", old)
    assert read_run(store, "20200101T000000-ffffff")["order"] == []


def test_the_last_run(store: Store) -> None:
    with pytest.raises(NotFound, match="no run yet; start one with `gazeflow run"):
        last_run(store)
    run = Run(store, {}, "first")
    record = store.backend.get(f"runs/{run.id}.json")
    store.backend.create("runs/20200101T000000-ffffff.json", record)
    store.backend.create("runs/notes.txt", b"not a run")
    assert runs(store) == ["20200101T000000-ffffff", run.id]
    assert last_run(store)["id"] == run.id


def test_a_run_lives_as_long_as_its_process(store: Store) -> None:
    record = read_run(store, Run(store, {}, "x").id) | {"refreshed": "2020-01-01T00:00:00Z"}
    assert living(record)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not living(record | {"pid": ended.pid})


def test_a_run_elsewhere_lives_while_it_is_refreshed(store: Store) -> None:
    record = read_run(store, Run(store, {}, "x").id) | {"host": "another host"}
    for seconds, alive in ((0, True), (45, True), (90, False)):
        then = datetime.now(UTC) - timedelta(seconds=seconds)
        assert living(record | {"refreshed": then.strftime("%Y-%m-%dT%H:%M:%SZ")}) is alive


def test_refreshing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes on after a failed write, and ends with the block, the write under way included."""
    monkeypatch.setattr(runs_module, "REFRESH_SECONDS", 0.01)
    run, written, done, replace = Run(store, {}, "x"), [], [], store.backend.replace

    def failing(key: str, data: bytes) -> None:
        written.append(key)
        if len(written) == 1:
            raise Transient("full")
        time.sleep(0.05)
        replace(key, data)
        done.append(key)

    monkeypatch.setattr(store.backend, "replace", failing)
    with run.refreshed():
        deadline = time.monotonic() + 10
        while len(written) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert set(written) == {f"runs/{run.id}.json"}
    assert len(done) == len(written) - 1 >= 2
    time.sleep(0.1)
    assert len(done) == len(written) - 1


def test_damaged_records_are_passed_over_by_who_looks_for_others(store: Store) -> None:
    run = Run(store, {}, "x")
    run.note("teacher", state="running", ref="teacher@0123456789ab")
    whole = store.backend.get(f"runs/{run.id}.json")
    damaged = {
        "19990101T000000-ffffff.json": whole[:-20],
        "20000101T000000-ffffff.json": whole.replace(b'"refreshed": "2', b'"refreshed": "x'),
        "20010101T000000-ffffff.json": whole.replace(b'"state": "running"\n  }', b'"state": "running"\n  }, "a": null'),
        "29990101T000000-ffffff.json": b"",
        "29990101T000000 copy.json": whole,
    }
    for name, data in damaged.items():
        assert data != whole or "copy" in name
        store.backend.replace(f"runs/{name}", data) if " " not in name else store.backend._objects.update(
            {f"runs/{name}": data}
        )
    told: list[str] = []
    assert [r["id"] for r in makers(store, "teacher@0123456789ab", told.append)] == [run.id]
    assert len(told) == len(damaged)
    assert all(any(name in text for text in told) for name in damaged)
    assert own_run(store)["id"] == run.id


@pytest.mark.parametrize("data", [b"", b"{", b"null", b"[]", b'"x"', b"\xff", b"{}", b'{"id": "x"}', b"[" * 5000])
def test_a_damaged_record_is_refused(store: Store, data: bytes) -> None:
    store.backend.create("runs/20200101T000000-ffffff.json", data)
    with pytest.raises(Format, match=r"runs/20200101T000000-ffffff\.json: expected the record of a run"):
        last_run(store)


def test_runs_that_are_not_there(store: Store) -> None:
    with pytest.raises(NotFound):
        read_run(store, "20200101T000000-ffffff")
    with pytest.raises(InvalidInput):
        read_run(store, "../gazeflow")
