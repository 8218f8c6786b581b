"""Whatever byte of a member changes is told, and nothing is told of a whole version."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.backends.memory import MemoryBackend
from storage.errors import Integrity, Transient
from storage.manifest import Manifest, Member
from storage.store import Store
from storage.verify import check_bytes, contradictions, damaged
from tests.storage.faulty import damage


def version(kit: Any) -> tuple[Store, Manifest]:
    """Two shards, a result and a view."""
    store = kit.store()
    attempt = kit.open(store)
    records = kit.finish(attempt, {0: b"zero" * 9, 1: bytes(range(256))})
    result, view = attempt.put("metrics.json", b'{"cc": 0.5}'), attempt.put("gallery.png", b"\x89PNG")
    return store, attempt.publish(kit.manifest(attempt, records, [result], [view]))


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_version(kit: Any, deep: bool) -> None:
    store, manifest = version(kit)
    assert list(damaged(store.backend, manifest, deep)) == []


@settings(deadline=None)
@given(st.data())
def test_every_changed_byte_is_found(kit: Any, data: st.DataObject) -> None:
    store, manifest = version(kit)
    members = [*manifest.members, *manifest.views]
    member = data.draw(st.sampled_from(members))
    whole = store.backend.get(member.key)
    changed = data.draw(damage(whole))
    store.backend.replace(member.key, changed)

    found = list(damaged(store.backend, manifest, deep=True))
    assert [d.member for d in found] == ([member] if changed != whole else [])
    shallow = list(damaged(store.backend, manifest))
    assert [d.member for d in shallow] == ([member] if len(changed) != len(whole) else [])


def test_damage_says_shard_and_problem(kit: Any) -> None:
    store, manifest = version(kit)
    metrics, zero, one, view = [*manifest.members, *manifest.views]
    store.backend.delete(zero.key)
    store.backend.replace(one.key, b"short")
    store.backend.replace(metrics.key, b'{"cc": 0.9}')
    store.backend.replace(view.key, b"")
    assert [(d.member, d.shard, d.problem) for d in damaged(store.backend, manifest)] == [
        (zero, 0, "missing"),
        (one, 1, "expected 256 bytes, found 5"),
        (view, None, "expected 4 bytes, found 0"),
    ]
    deep = {d.member.name: d.problem for d in damaged(store.backend, manifest, deep=True)}
    assert metrics.sha256 in deep["metrics.json"]


class Unreachable(MemoryBackend):
    def get(self, key: str, limit: int | None = None) -> bytes:
        raise Transient("the network is away")


def test_a_store_that_is_away_is_no_damage(kit: Any) -> None:
    store, manifest = version(kit)
    away = Unreachable()
    away._objects = dict(store.backend._objects)
    with pytest.raises(Transient):
        list(damaged(away, manifest, deep=True))
    with pytest.raises(Transient):
        list(contradictions(away, manifest, deep=True))


def test_check_bytes() -> None:
    member = Member(name="a", key="artifacts/k/a", bytes=3, sha256="0" * 64)
    with pytest.raises(Integrity, match=r"artifacts/k/a: expected 3 bytes with SHA-256 0{64}, found 2 with"):
        check_bytes(member, b"ab")
