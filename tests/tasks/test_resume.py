"""Runs killed anywhere go on from what they had, and end with the bytes of an undisturbed run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.manifest import Manifest
from tasks._make import make_shards
from tasks._stage import Event

Members = dict[str, bytes]


class Killed(Exception):
    """Raised from `report`, in the place of a kill."""


def killer(wanted: Callable[[Event], bool], times: int = 1) -> Callable[[Event], None]:
    """A report that raises at the `times`-th event that is wanted."""
    left = [times]

    def report(event: Event) -> None:
        if wanted(event):
            left[0] -= 1
            if left[0] == 0:
                raise Killed

    return report


def shas(manifest: Manifest) -> dict[str, str]:
    return {m.name: m.sha256 for m in manifest.members}


@pytest.mark.parametrize("node", ["saliency", "fixations"])
@pytest.mark.parametrize("moment", ["start", "end"])
def test_shards_made_before_a_kill_stay_and_the_rest_is_the_same(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[Members], tmp_path: Path,
    labelled_store: Path, node: str, moment: str,
) -> None:  # fmt: skip
    tars = write_tars(tmp_path / "tars", four_shards)
    calm = of_tars(tars, store=Path(shutil.copytree(labelled_store, tmp_path / "calm")))
    made = of_tars(tars)
    calm.make("saliency")
    if node == "fixations":
        made.make("saliency")
        calm.make("fixations")
    order, attempt = made.open(node)
    third = killer(lambda e: e.kind == "shard" and (e.record is None) == (moment == "start"), 3)
    with pytest.raises(Killed):
        make_shards(order, range(4), third)
    assert sorted(attempt.finished()) == ([0, 1] if moment == "start" else [0, 1, 2])
    assert made.plan()[node].state == "partial"
    finished = made.make(node)
    assert finished.version == attempt.version.name, "the open attempt is resumed, never numbered past"
    assert shas(finished) == shas(calm.store.resolve(f"{node}@{calm.store.versions(node)[-1].name}"))


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_teacher_ends_bit_equal(
    bare: Callable[..., Any], tmp_path: Path, after: int
) -> None:
    settings = ("teacher.epochs=4", "settings.checkpoint_seconds=0")
    calm = bare("teacher.epochs=4", store=tmp_path / "calm").make("teacher")
    dying = bare(*settings, report=killer(lambda e: e.kind == "progress", after + 1))
    with pytest.raises(Killed):
        dying.make("teacher")
    going_on = bare(*settings)
    resumed = going_on.make("teacher")
    assert any(f"going on after epoch {after}" in e.text for e in going_on.events)
    assert shas(resumed) == shas(calm)


@pytest.mark.parametrize(("after", "dtype"), [(1, "float32"), (3, "bfloat16"), (5, "float32")])
def test_an_interrupted_student_ends_bit_equal(
    bare: Callable[..., Any], labelled: Path, tmp_path: Path, after: int, dtype: str
) -> None:
    calm_store = Path(shutil.copytree(labelled, tmp_path / "calm"))
    dtype_set = f"student.dtype={dtype}"
    calm = bare(dtype_set, store=calm_store).make("student")
    settings = (dtype_set, "settings.checkpoint_seconds=0")
    dying = bare(*settings, store=labelled, report=killer(lambda e: e.kind == "progress", after))
    with pytest.raises(Killed):
        dying.make("student")
    assert dying.plan()["student"].state == "partial"
    going_on = bare(*settings, store=labelled)
    resumed = going_on.make("student")
    assert any(e.text == f"going on after step {after}" for e in going_on.events)
    assert shas(resumed) == shas(calm)
    work = f"artifacts/student/{resumed.version}/work/"
    assert going_on.store.backend.children(work) == [], "checkpoints in progress go once the version is there"


def test_an_unreadable_newest_checkpoint_falls_back_to_the_one_before(
    bare: Callable[..., Any], labelled: Path, tmp_path: Path
) -> None:
    calm = bare(store=Path(shutil.copytree(labelled, tmp_path / "calm"))).make("student")
    dying = bare("settings.checkpoint_seconds=0", store=labelled, report=killer(lambda e: e.kind == "progress", 4))
    with pytest.raises(Killed):
        dying.make("student")
    newest = sorted(labelled.glob("artifacts/student/*/work/*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    going_on = bare(store=labelled)
    assert shas(going_on.make("student")) == shas(calm)
    assert any(e.text == "going on after step 3" for e in going_on.events)
