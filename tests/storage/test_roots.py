"""What runs and their configs name is kept for as long as they are recent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from storage.errors import Format
from storage.runs import Run
from storage.store import Store
from storage.tags import set_tag
from tests.storage.mortal import DAY, Mortal
from tests.storage.scene import gc, later, plan, ref


@pytest.fixture
def backend() -> Mortal:
    return Mortal()


@pytest.fixture
def store(backend: Mortal) -> Store:
    return Store(backend)


def noted(store: Store, **facts: Any) -> Run:
    run = Run(store, facts.pop("config", {}), "gazeflow run x")
    for node, named in facts.items():
        run.note(node, state="Made", ref=named)
    return run


def aged(store: Store, run: Run, days: float) -> None:
    """A run that was refreshed so many days ago, by the store's clock and its own."""
    backend = store.backend
    assert isinstance(backend, Mortal)
    key = f"runs/{run.id}.json"
    stamp = datetime.fromtimestamp(backend.now - days * DAY, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    record = backend.get(key)
    field = b'"refreshed": "'
    start = record.index(field) + len(field)
    now, backend.now = backend.now, backend.now - days * DAY
    backend.replace(key, record[:start] + stamp.encode() + record[start + len(stamp) :])
    backend.now = now


@pytest.mark.parametrize(("days", "stays"), [(6.5, True), (7.5, False)])
@pytest.mark.parametrize("ended", [False, True])
def test_recent_runs_keep_what_they_name(kit: Any, store: Store, days: float, stays: bool, ended: bool) -> None:
    manifest = kit.complete(store)
    later(store, 30)
    run = noted(store, saliency=ref(manifest))
    if ended:
        run.end("completed")
    aged(store, run, days)
    assert plan(store).kept.get(ref(manifest)) == (f"run {run.id}" if stays else None)


def test_a_run_under_way_keeps_whatever_days_is(kit: Any, store: Store) -> None:
    manifest = kit.complete(store)
    later(store, 30)
    run = noted(store, saliency=ref(manifest))
    aged(store, run, 0.5)
    assert gc(store, days=0).versions == ()
    run.end("stopped")
    aged(store, run, 0.5)
    assert gc(store, days=0).versions == (ref(manifest),)


@pytest.mark.parametrize("text", ["full", "short", "tag", "other", "device"])
def test_configs_name_by_ref_and_tag(kit: Any, store: Store, text: str) -> None:
    manifest = kit.complete(store)
    set_tag(store, ref(manifest), "prod")
    for n in range(10):  # so that only the config's tag is left to name it
        set_tag(store, ref(kit.complete(store, kit.key(100 + n))), "test")
    texts = {"full": ref(manifest), "short": ref(manifest)[:-6], "tag": "saliency:prod", "other": "saliency@0000",
             "device": "cuda:0"}  # fmt: skip
    if text != "tag":
        store.backend.delete("tags/saliency/prod/000001.json")
    later(store, 30)
    run = noted(store, config={"nodes": {"student": {"pins": [texts[text]], "n": 3}}})
    aged(store, run, 1)
    assert (ref(manifest) in plan(store).kept) == (text in ("full", "short", "tag"))
    assert plan(store).missing == ({"saliency@0000": f"run {run.id}, by its config"} if text == "other" else {})


def test_a_damaged_run_stops_gc_unless_it_is_old(kit: Any, store: Store) -> None:
    kit.complete(store)
    store.backend.create("runs/20300101T000000-ffffff.json", b"{")
    store.backend.create("runs/notes.txt", b"no run")
    later(store, 7.5)
    with pytest.raises(Format, match=r"runs/20300101T000000-ffffff\.json: expected the record of a run"):
        gc(store)
    later(store, 2)
    assert len(gc(store).versions) == 1
