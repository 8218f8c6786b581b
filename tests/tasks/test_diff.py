"""What a diff tells of two versions whose differences are known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.metrics import correlation
from storage.attempt import open_attempt
from storage.backends.memory import MemoryBackend
from storage.canonical import now
from storage.errors import Integrity, InvalidInput, NotFound
from storage.images import encode_png_gray
from storage.manifest import Key, Manifest, Producer, ShardRecord
from storage.shards import FixationsRow, SaliencyRow, write_fixations, write_saliency
from storage.store import Store
from tasks import _diff
from tasks._diff import diff

Maps = Mapping[str, NDArray[np.uint8] | None]  # by key; None: a broken image


def a_map(seed: int, side: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)


class Reads(MemoryBackend):
    """Remembers what was read."""

    threads = 4

    def __init__(self) -> None:
        super().__init__()
        self.whole: list[str] = []
        self.bytes = 0

    def get(self, key: str, limit: int | None = None) -> bytes:
        self.whole.append(key)
        return super().get(key, limit)

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        self.bytes += size
        return self._objects[key][offset : offset + size]


@pytest.fixture
def store() -> Store:
    return Store(Reads())


def publish(store: Store, kind: str, params: dict[str, Any], shards: list[tuple[bytes, ...]], **facts: Any) -> Manifest:
    """A version of some shards, each given as its members' bytes."""
    key = Key(stage=kind, stage_version=1, params=params, inputs={}, datasets={})
    attempt = open_attempt(store, key, kind, "asked for", "r")
    endings = {1: (".parquet",), 2: (".tar", ".parquet")}
    records = [
        ShardRecord(
            shard=n, shard_key=str(n), done=3, failed=0,
            members=[attempt.put_shard(n, e, d, 3) for e, d in zip(endings[len(data)], data, strict=True)],
        )
        for n, data in enumerate(shards)
    ]  # fmt: skip
    members = [attempt.put("weights.bin", json.dumps(facts).encode())] if not shards else []
    return attempt.publish(
        Manifest(
            kind=kind, version=attempt.version.name, node=kind, key=key, views=[], shards=records, done=1, failed=0,
            members=[*members, *(m for r in records for m in r.members)], seconds=0, published=now(), run="r",
            summary=facts.get("summary", {}),
            producer=Producer(release="0", commit=None, python="3", torch=None, device="cpu"),
        )
    )  # fmt: skip


def saliency(store: Store, params: dict[str, Any], *shards: Maps) -> Manifest:
    def row(key: str, image: NDArray[np.uint8] | None) -> SaliencyRow:
        if image is None:
            return SaliencyRow(key, 0, "", error="cut")
        return SaliencyRow(key, 0, "", encode_png_gray(image), 9, 9)

    return publish(store, "saliency", params, [write_saliency([row(k, m) for k, m in s.items()]) for s in shards])


def fixations(store: Store, params: dict[str, Any], *shards: Mapping[str, Iterable[int]]) -> Manifest:
    def row(key: str, points: Iterable[int]) -> FixationsRow:
        x = np.array(list(points), np.uint16)
        return FixationsRow(key, 16, 16, x, x, x.astype(np.float32))

    return publish(store, "fixations", params, [(write_fixations([row(k, p) for k, p in s.items()]),) for s in shards])


def test_the_same_version(store: Store) -> None:
    a = saliency(store, {"size": 16}, {"a": a_map(1), "b": a_map(2), "c": None})
    store.backend.whole.clear()  # type: ignore[attr-defined]
    found = diff(store, a.ref, a.ref)
    assert found["equal"]
    assert (found["key"], found["drift"]) == ([], None)
    assert found["samples"] == {"same": 3, "changed": 0, "added": 0, "removed": 0}
    assert found["shards"] == {"same": [0], "changed": [], "only_a": [], "only_b": []}
    assert not [k for k in store.backend.whole if "/shards/" in k], "equal shards are not read"  # type: ignore[attr-defined]


def test_maps_added_removed_changed_and_moved(store: Store) -> None:
    """A sample is the same wherever its shard is; drift is over maps that are there in both."""
    same = {"same1": a_map(1), "same2": a_map(2), "same3": None}
    other = (a_map(3).astype(int) * 3 // 4).astype(np.uint8)
    a = saliency(
        store, {"size": 16, "blur": 1}, same,
        {"moves": a_map(9), "changed": a_map(3), "noise": a_map(4)},
        {"gone": a_map(5), "breaks": a_map(6)}, {"x": a_map(8)},
    )  # fmt: skip
    b = saliency(
        store, {"size": 16, "blur": 2}, same,
        {"changed": other, "noise": a_map(7), "new": a_map(5)}, {"breaks": None, "moves": a_map(9)},
    )  # fmt: skip
    store.backend.whole.clear()  # type: ignore[attr-defined]
    found = diff(store, a.ref, b.ref)
    assert json.loads(json.dumps(found)) == found
    assert (found["kind"], found["a"], found["b"], found["equal"]) == ("saliency", a.ref, b.ref, False)
    assert found["key"] == [{"field": "params.blur", "a": 1, "b": 2}]
    assert found["shards"] == {"same": [0], "changed": [1, 2], "only_a": [3], "only_b": []}
    assert found["samples"] == {"same": 4, "changed": 3, "added": 1, "removed": 2}

    expected = [
        float(correlation(n.astype(float), o.astype(float))) for n, o in [(other, a_map(3)), (a_map(7), a_map(4))]
    ]
    drift = found["drift"]
    assert (drift["changed"], drift["compared"], drift["chosen"]) == (2, 2, "all")
    assert drift["mean"] == pytest.approx(np.mean(expected))
    assert drift["median"] == pytest.approx(np.median(expected))
    assert drift["min"] == pytest.approx(min(expected))
    assert [row["key"] for row in drift["lowest"]] == ["noise", "changed"]
    assert not [k for k in store.backend.whole if k.endswith(".tar")], "no tar is read whole"  # type: ignore[attr-defined]
    assert store.backend.bytes == sum(len(encode_png_gray(m)) for m in (a_map(3), other, a_map(4), a_map(7)))  # type: ignore[attr-defined]


def test_many_changed_maps_are_sampled_and_the_choice_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_diff, "MOST_MAPS", 5)
    a = saliency(store, {"size": 16}, {f"k{n}": a_map(n) for n in range(20)})
    b = saliency(store, {"size": 17}, {f"k{n}": a_map(100 + n) for n in range(20)})
    drift = diff(store, a.ref, b.ref)["drift"]
    assert (drift["changed"], drift["compared"], drift["chosen"]) == (20, 5, "5 at random, seed 0")
    assert drift == diff(store, a.ref, b.ref)["drift"]


def test_maps_of_another_size_are_compared_at_the_old_size(store: Store) -> None:
    small = a_map(1, 8)
    a = saliency(store, {"size": 8}, {"k": small})
    b = saliency(store, {"size": 16}, {"k": small.repeat(2, 0).repeat(2, 1)})
    assert diff(store, a.ref, b.ref)["drift"]["mean"] == pytest.approx(1)
    assert diff(store, b.ref, a.ref)["drift"]["mean"] > 0.8


def test_constant_maps_correlate_with_nothing(store: Store) -> None:
    a = saliency(store, {"size": 8}, {"k": np.zeros((8, 8), np.uint8)})
    b = saliency(store, {"size": 9}, {"k": a_map(1, 8)})
    assert diff(store, a.ref, b.ref)["drift"] is None


def test_points(store: Store) -> None:
    a = fixations(store, {"cap": 1}, {"a": [1, 2, 3], "b": [4], "c": []}, {"same": [1]})
    b = fixations(store, {"cap": 2}, {"a": [1], "b": [5], "new": [1]}, {"same": [1]})
    found = diff(store, a.ref, b.ref)
    assert found["samples"] == {"same": 3, "changed": 2, "added": 1, "removed": 1}  # a shard of the kit counts three
    assert {k: found["drift"][k] for k in ("changed", "mean", "mean_absolute")} == {
        "changed": 2, "mean": -1, "mean_absolute": 1,
    }  # fmt: skip


def test_kinds_without_shards_show_their_figures(store: Store) -> None:
    a = publish(store, "evaluation", {"splits": 5}, [], summary={"cc": 0.5, "top1": {"student": 0.7}})
    b = publish(store, "evaluation", {"splits": 6}, [], summary={"cc": 0.6, "top1": {"student": 0.8}, "nss": 1})
    found = diff(store, a.ref, b.ref)
    assert found["members"] == {"same": [], "changed": ["weights.bin"], "only_a": [], "only_b": []}
    assert found["summary"] == [
        {"figure": "cc", "a": 0.5, "b": 0.6},
        {"figure": "nss", "a": None, "b": 1},
        {"figure": "top1.student", "a": 0.7, "b": 0.8},
    ]
    assert "drift" not in found


def test_what_cannot_be_compared(store: Store) -> None:
    a = saliency(store, {"size": 8}, {"k": a_map(1)})
    b = fixations(store, {}, {"k": [1]})
    with pytest.raises(InvalidInput, match="expected versions of one kind, found saliency and fixations"):
        diff(store, a.ref, b.ref)
    with pytest.raises(NotFound):
        diff(store, a.ref, "saliency@000000000000")


def test_damaged_maps_and_indexes_are_told_not_compared(store: Store) -> None:
    a = saliency(store, {"size": 8}, {"k": a_map(1)})
    b = saliency(store, {"size": 9}, {"k": a_map(2)})
    tar, index = (store.backend.get(m.key) for m in b.members)
    store.backend.replace(b.members[0].key, tar[:600] + b"!" + tar[601:])
    with pytest.raises(Integrity, match="found others; nothing was compared"):
        diff(store, a.ref, b.ref)
    store.backend.replace(b.members[1].key, index[:60] + b"!" + index[61:])
    with pytest.raises(Integrity, match=b.members[1].key):
        diff(store, a.ref, b.ref)
