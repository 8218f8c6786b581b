"""Attempts at a node: two runs of one meet without harm, shards are adopted, manifests tell who made what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.manifest import Manifest
from tasks._make import finish_sharded, make_shards, remaining_shards
from tasks._stage import Event

Members = dict[str, bytes]


def test_two_runs_of_one_node_end_with_one_version(bare: Callable[..., Any], labelled: Path) -> None:
    """Run A is overtaken by run B just before it publishes: both come to B's manifest."""
    late = bare("teacher.epochs=3", store=labelled)
    early = bare("teacher.epochs=3", store=labelled)
    seen: list[Event] = []
    won: list[Manifest] = []

    def report(event: Event) -> None:
        seen.append(event)
        if event.kind == "table" and not won:
            won.append(early.make("teacher", run="early"))

    late.report = report
    lost = late.make("teacher", run="late")
    assert (lost.version, lost.run) == (won[0].version, "early")
    assert any("another run published" in e.text for e in seen)
    assert [v.state for v in late.store.versions("teacher")] == ["complete"] * 2


def test_two_runs_of_one_shard_meet_without_harm(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[Members], tmp_path: Path
) -> None:
    made = of_tars(write_tars(tmp_path / "tars", four_shards))
    order, _ = made.open("saliency")

    def report(event: Event) -> None:
        if event.kind == "shard" and event.record is None and event.text == "1":
            assert make_shards(order, [1, 2], made.report) == 2

    assert make_shards(order, range(4), report) == 3, "shard 2 was the other's, shard 1 both made"
    assert made.store.resolve(finish_sharded(order, made.report)).done == 24


def test_redone_shards_adopt_the_rest(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[Members], tmp_path: Path
) -> None:
    made = of_tars(write_tars(tmp_path / "tars", four_shards))
    first = made.make("saliency")
    order, _ = made.open("saliency", forced=True, redo=[3])
    assert [s.number for s in remaining_shards(order)] == [3]
    made.make("saliency", forced=True, redo=[3])
    assert made.plan()["saliency"].ref == f"saliency@{first.version}"


def test_a_manifest_tells_who_made_what_from_what(bare: Callable[..., Any], labelled: Path) -> None:
    made = bare(store=labelled)
    manifest = made.make("fixations")
    assert manifest.key.inputs["saliency"] == [made.plan()["saliency"].ref]
    assert manifest.producer.python
    assert manifest.producer.device == "cpu"
    assert manifest.summary["images"] == 80
    assert manifest.summary["mean_points"] > 0
    assert {v.name for v in made.store.resolve(made.plan()["saliency"].ref).views} == {"gallery.png"}
