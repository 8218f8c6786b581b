"""A tag is one line of moves, whoever makes them and however many at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.backends.memory import MemoryBackend
from storage.errors import Conflict, Format, GazeflowError, Integrity, InvalidInput, NotFound
from storage.manifest import Manifest
from storage.store import Store
from storage.tags import TagEntry, all_tags, current, history, last_entries, rollback, set_tag


@pytest.fixture
def versions(kit: Any, store: Store) -> list[Manifest]:
    return [kit.complete(store, kit.key(n)) for n in range(4)]


def ref(manifest: Manifest) -> str:
    return f"{manifest.kind}@{manifest.version}"


def claims(store: Store) -> list[str]:
    return [e.key for e in store.backend.entries("artifacts/") if "/claims/" in e.key]


def test_a_tag_means_the_version_it_was_set_to(store: Store, versions: list[Manifest]) -> None:
    entry = set_tag(store, ref(versions[0]), "prod")
    assert (entry.kind, entry.tag, entry.number, entry.restores) == ("saliency", "prod", 1, None)
    assert "@" in entry.who
    assert entry.key == "tags/saliency/prod/000001.json"
    assert store.resolve("saliency:prod") == versions[0]
    assert set_tag(store, ref(versions[1])[:-4], "prod").number == 2, "a shortened ref will do"
    assert store.resolve("saliency:prod") == versions[1]
    assert set_tag(store, "saliency:prod", "old").version == versions[1].version, "and so will a tag"
    assert [e.version for e in history(store.backend, "saliency", "prod")] == [v.version for v in versions[:2]]
    assert list(all_tags(store.backend)) == [("saliency", "old"), ("saliency", "prod")]
    assert claims(store) == []


def test_nothing_is_written_when_nothing_changes(store: Store, versions: list[Manifest]) -> None:
    entry = set_tag(store, ref(versions[0]), "prod")
    before = {e.key: store.backend.get(e.key) for e in store.backend.entries("")}
    assert set_tag(store, ref(versions[0]), "prod") == entry
    assert {e.key: store.backend.get(e.key) for e in store.backend.entries("")} == before


def test_records_are_readable_json(store: Store, versions: list[Manifest]) -> None:
    entry = set_tag(store, ref(versions[0]), "prod")
    record = json.loads(store.backend.get(entry.key))
    assert set(record) == {*TagEntry.model_fields, "digest"}
    assert record["version"] == versions[0].version


def test_rollback_goes_back_step_by_step(store: Store, versions: list[Manifest]) -> None:
    a, b, c, _ = versions
    for manifest in (a, b, a, c):
        set_tag(store, ref(manifest), "prod")
    assert [rollback(store, "saliency", "prod").version for _ in range(3)] == [a.version, b.version, a.version]
    with pytest.raises(NotFound, match=rf"saliency:prod: expected an earlier version.*{ref(a)} was its first"):
        rollback(store, "saliency", "prod")
    assert [e.restores for e in history(store.backend, "saliency", "prod")] == [None] * 4 + [3, 2, 1]
    set_tag(store, ref(b), "prod")
    assert rollback(store, "saliency", "prod").version == a.version


@settings(deadline=None, max_examples=60)
@given(moves=st.lists(st.integers(0, 3) | st.none(), max_size=25))
def test_tags_are_an_undo_stack(kit: Any, moves: list[int | None]) -> None:
    """Against the obvious model: set pushes, rollback pops; the history only grows."""
    store = kit.store()
    manifests = [kit.complete(store, kit.key(n)) for n in range(4)]
    stack: list[str] = []
    written = 0
    for move in moves:
        if move is not None:
            set_tag(store, ref(manifests[move]), "prod")
            if stack[-1:] != [manifests[move].version]:
                stack.append(manifests[move].version)
                written += 1
        elif len(stack) > 1:
            rollback(store, "saliency", "prod")
            stack.pop()
            written += 1
        else:
            with pytest.raises(NotFound):
                rollback(store, "saliency", "prod")
        if stack:
            assert current(store.backend, "saliency", "prod").version == stack[-1]
            assert [e.number for e in history(store.backend, "saliency", "prod")] == list(range(1, written + 1))


def test_the_last_entries(store: Store, versions: list[Manifest]) -> None:
    for number in range(12):
        set_tag(store, ref(versions[number % 2]), "prod")
    assert [e.number for e in last_entries(store.backend, "saliency", "prod", 10)] == list(range(3, 13))
    assert len(last_entries(store.backend, "saliency", "prod", 100)) == 12


class Crowded(MemoryBackend):
    """Someone else writes first, or the first answer is lost."""

    rival: bytes | None = None
    lost = False

    def create(self, key: str, data: bytes | memoryview) -> bool:
        if key.startswith("tags/") and self.rival is not None:
            super().create(key, self.rival)
        done = super().create(key, data)
        return done and not (self.lost and key.startswith("tags/"))


@pytest.fixture
def crowded(kit: Any) -> tuple[Store, list[Manifest]]:
    store = Store(Crowded())
    return store, [kit.complete(store, kit.key(n)) for n in range(3)]


def test_the_second_of_two_is_told(crowded: tuple[Store, list[Manifest]]) -> None:
    store, versions = crowded
    entry = set_tag(store, ref(versions[0]), "prod")
    other = entry.model_copy(update={"number": 2, "version": versions[1].version, "who": "eve@there", "write": "x"})
    assert isinstance(store.backend, Crowded)
    store.backend.rival = other.to_bytes()
    with pytest.raises(Conflict, match=rf"saliency:prod: eve@there moved it to {ref(versions[1])}.*it stays where it"):
        set_tag(store, ref(versions[2]), "prod")
    assert store.resolve("saliency:prod") == versions[1]
    assert len(history(store.backend, "saliency", "prod")) == 2
    store.backend.rival = other.model_copy(update={"number": 3, "version": versions[2].version}).to_bytes()
    with pytest.raises(Conflict):
        rollback(store, "saliency", "prod")
    assert claims(store) == []


def test_two_who_want_the_same_both_have_it(crowded: tuple[Store, list[Manifest]]) -> None:
    store, versions = crowded
    entry = set_tag(store, ref(versions[0]), "prod")
    other = entry.model_copy(update={"number": 2, "version": versions[1].version, "write": "x"})
    assert isinstance(store.backend, Crowded)
    store.backend.rival = other.to_bytes()
    assert set_tag(store, ref(versions[1]), "prod") == other


def test_a_lost_answer_is_no_conflict(crowded: tuple[Store, list[Manifest]]) -> None:
    store, versions = crowded
    assert isinstance(store.backend, Crowded)
    store.backend.lost = True
    assert set_tag(store, ref(versions[0]), "prod").version == versions[0].version
    assert len(history(store.backend, "saliency", "prod")) == 1


def test_only_whole_versions_are_tagged(kit: Any, store: Store, versions: list[Manifest]) -> None:
    opened = kit.open(store, kit.key(9))
    with pytest.raises(NotFound, match="expected a complete version, found one that is open"):
        set_tag(store, opened.version.ref, "prod")
    store.backend.delete(versions[0].members[0].key)
    with pytest.raises(Integrity, match=rf"{ref(versions[0])}: expected all its members.*prod was not moved"):
        set_tag(store, ref(versions[0]), "prod")
    store.backend.create(f"artifacts/saliency/{versions[1].version}/collected.json", b"{}")
    with pytest.raises(Conflict, match=rf"{ref(versions[1])}: `gazeflow gc` is collecting .*prod was not moved"):
        set_tag(store, ref(versions[1]), "prod")
    assert list(all_tags(store.backend)) == []
    assert claims(store) == []


def test_rollback_to_what_is_gone(store: Store, versions: list[Manifest]) -> None:
    for manifest in versions[:2]:
        set_tag(store, ref(manifest), "prod")
    store.backend.delete(f"artifacts/saliency/{versions[0].version}/manifest.json")
    with pytest.raises(NotFound, match=rf"expected {ref(versions[0])} to be complete, found no manifest.*not moved"):
        rollback(store, "saliency", "prod")
    assert store.resolve("saliency:prod") == versions[1]


@pytest.mark.parametrize("tag", ["", "Prod", "a b", "../x", "a/b", "x" * 65, ".hidden", "-x"])
def test_hostile_names(store: Store, versions: list[Manifest], tag: str) -> None:
    for call in (lambda: set_tag(store, ref(versions[0]), tag), lambda: rollback(store, "saliency", tag)):
        with pytest.raises(InvalidInput):
            call()
    with pytest.raises(GazeflowError):
        store.resolve(f"saliency:{tag}")
    assert list(all_tags(store.backend)) == []


def test_unknown_tags_are_told_with_the_known(store: Store, versions: list[Manifest]) -> None:
    with pytest.raises(NotFound, match="saliency:prod: no such tag in memory://; tags there: none yet"):
        store.resolve("saliency:prod")
    set_tag(store, ref(versions[0]), "good")
    with pytest.raises(NotFound, match="tags there: saliency:good"):
        rollback(store, "saliency", "prod")


def test_what_is_no_tag_is_not_listed(store: Store, versions: list[Manifest]) -> None:
    for key in ("tags/README", "tags/saliency/notes.txt", "tags/saliency/Prod/000001.json", "tags/saliency/empty/x"):
        store.backend.create(key, b"x")
    set_tag(store, ref(versions[0]), "prod")
    assert list(all_tags(store.backend)) == [("saliency", "prod")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tag": "test"}, "expected entry 2 of saliency:prod, found tags/saliency/test/000002.json"),
        ({"kind": "teacher"}, "expected entry 2 of saliency:prod, found tags/teacher/prod/000002.json"),
        ({"number": 3}, "expected entry 2 of saliency:prod, found tags/saliency/prod/000003.json"),
        ({"restores": 2}, "which restores 2"),
        ({"version": "../../x"}, "version"),
        ({"restores": 0}, "restores"),
    ],
)
def test_entries_that_are_not_of_their_place(
    store: Store, versions: list[Manifest], change: dict[str, Any], message: str
) -> None:
    for manifest in versions[:2]:
        entry = set_tag(store, ref(manifest), "prod")
    store.backend.replace(entry.key, entry.model_copy(update=change).to_bytes())
    with pytest.raises(Format, match=message):
        store.resolve("saliency:prod")


def test_a_lost_entry_is_told(store: Store, versions: list[Manifest]) -> None:
    for manifest in versions[:3]:
        set_tag(store, ref(manifest), "prod")
    store.backend.delete("tags/saliency/prod/000002.json")
    assert store.resolve("saliency:prod") == versions[2]
    with pytest.raises(Integrity, match=r"tags/saliency/prod/000002.json: expected an entry .* it is lost"):
        rollback(store, "saliency", "prod")
