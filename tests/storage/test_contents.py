"""A label shard whose bytes are whole may still not hold what its index says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from storage.shards import FIXATIONS_SCHEMA, SALIENCY_SCHEMA, read_table, to_parquet
from storage.tags import set_tag
from storage.verify import contradictions, damaged
from tests.storage.faulty import KEYS, Labels, fixations, saliency


def test_whole_labels(kit: Any) -> None:
    labels = Labels(kit)
    set_tag(labels.store, labels.saliency.ref, "prod")
    for manifest in (labels.saliency, labels.fixations):
        assert labels.problems(manifest) == []
        assert list(contradictions(labels.store.backend, manifest, deep=True)) == []


def edited(index: bytes, schema: pa.Schema, edit: Callable[[list[dict[str, Any]]], Any]) -> bytes:
    rows = read_table(index, schema, "").to_pylist()
    rows = edit(rows) or rows
    return to_parquet(pa.Table.from_pylist(rows, schema=schema))


def swapped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rows[2], rows[1], rows[0], *rows[3:]]


INDEX_EDITS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "another offset": lambda rows: rows[2].update(offset=rows[2]["offset"] + 512),
    "another size": lambda rows: rows[2].update(size=rows[2]["size"] - 1),
    "a size beyond the tar": lambda rows: rows[4].update(size=2**40),
    "a size beyond reason": lambda rows: rows[4].update(size=2**62),
    "a negative size": lambda rows: rows[2].update(size=-5),
    "another name": lambda rows: rows[2].update(key="c/other"),
    "another digest": lambda rows: rows[2].update(sha256=rows[0]["sha256"]),
    "another order": swapped,
    "a map that is broken": lambda rows: rows[2].update(status="failed"),
    "a broken image with a map": lambda rows: rows[1].update(status="ok"),
    "a status of its own": lambda rows: rows[1].update(status="unknown", offset=7),
    "a row less": lambda rows: rows[:4],
    "a row without a size": lambda rows: rows[2].update(size=None),
    "a key twice": lambda rows: rows[4].update(key=rows[0]["key"]),
}


@pytest.mark.parametrize("edit", INDEX_EDITS.values(), ids=INDEX_EDITS)
def test_an_index_that_is_not_its_tars(kit: Any, edit: Callable[..., Any]) -> None:
    tar, index = saliency(1)
    labels = Labels(kit, {0: saliency(0), 1: (tar, edited(index, SALIENCY_SCHEMA, edit))})
    assert {shard for _, shard, _ in labels.problems(labels.saliency)} == {1}
    assert not list(damaged(labels.store.backend, labels.saliency)), "all bytes are what the manifest says"


@pytest.mark.parametrize(
    "tar",
    [
        saliency(1, [*KEYS, "z/more"])[0],
        saliency(1, KEYS[:4])[0],
        saliency(0)[0],
        saliency(1)[0] + bytes(10240),
        saliency(1)[0][:-1024],
        b"",
        saliency(1)[0].replace(b"0000644", b"0000777", 1),
        saliency(1)[0].replace(b"vier", b"five", 1),
    ],
    ids=["one more", "one less", "other maps", "longer", "shorter", "empty", "another mode", "another name"],
)
def test_a_tar_that_is_not_its_indexs(kit: Any, tar: bytes) -> None:
    labels = Labels(kit, {0: saliency(0), 1: (tar, saliency(1)[1])})
    ((name, shard, _),) = labels.problems(labels.saliency)
    assert (name, shard) == ("saliency-000001.tar", 1)


@pytest.mark.parametrize(
    "points",
    [
        fixations(KEYS[::-1]),
        fixations([*KEYS[:4], "z"]),
        fixations(KEYS[:4]),
        edited(fixations(), FIXATIONS_SCHEMA, lambda rows: rows[0].update(x=[1])),
        edited(fixations(), FIXATIONS_SCHEMA, lambda rows: rows[0].update(peak=[])),
        edited(fixations(), FIXATIONS_SCHEMA, lambda rows: rows[0].update(x=None, y=None, peak=None)),
        b"no Parquet",
    ],
    ids=["another order", "another key", "a row less", "x is shorter", "peak is shorter", "no points", "no table"],
)
def test_fixations_that_are_not_the_maps(kit: Any, points: bytes) -> None:
    labels = Labels(kit, points={0: fixations(), 1: points})
    ((name, shard, _),) = labels.problems(labels.fixations)
    assert (name, shard) == ("fixations-000001.parquet", 1)


def test_damaged_maps_are_not_told_of_fixations(kit: Any) -> None:
    labels = Labels(kit)
    for member in labels.saliency.members:
        labels.store.backend.delete(member.key)
    assert len(labels.problems(labels.saliency)) == 4
    assert labels.problems(labels.fixations) == []
    labels.store.backend.delete(f"artifacts/saliency/{labels.saliency.version}/manifest.json")
    assert labels.problems(labels.fixations) == []
    (told,) = contradictions(labels.store.backend, labels.fixations, deep=True)
    assert told.startswith(f"{labels.saliency.ref}: expected this input in the store")
