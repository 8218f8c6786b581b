"""An attempt is resumed, published all or not at all, and never harmed by another run or a crash."""

from __future__ import annotations

import json
from typing import Any

import pytest

from storage.backends.memory import MemoryBackend
from storage.errors import Integrity, Transient
from storage.manifest import Manifest, ShardRecord
from storage.store import Store


def keys(store: Store, prefix: str) -> list[str]:
    return [e.key for e in store.backend.entries(prefix)]


def keys_of(store: Store, name: str) -> list[str]:
    return keys(store, f"artifacts/saliency/{name}/")


def test_an_open_attempt_is_resumed_with_its_shards(kit: Any, store: Store) -> None:
    first = kit.open(store)
    (record,) = kit.finish(first, {3: b"three"})
    again = kit.open(store)
    assert (again.version, again.attempt) == (first.version, first.attempt)
    assert again.finished() == {3: record}
    assert again.is_finished(3)
    assert not again.is_finished(0)


def test_attempts_are_numbered_when_forced(kit: Any, store: Store) -> None:
    first = kit.complete(store)
    second = kit.open(store, base=first.version)
    assert second.version.name == f"{first.version}-2"
    assert second.attempt.base == first.version
    assert kit.open(store, base=first.version).version == second.version  # resumed, never numbered past
    made = kit.publish(second, {0: b"zero", 1: b"another"})
    assert made.version == f"{first.version}-2"
    assert kit.open(store, base=made.version).version.name == f"{first.version}-3"


def test_a_forced_attempt_with_an_equal_result_publishes_nothing(kit: Any, store: Store) -> None:
    first = kit.complete(store)
    second = kit.open(store, base=first.version)
    second.save_checkpoint(1, b"weights", {})
    assert kit.publish(second, {1: b"one", 0: b"zero"}) == first
    assert store.version("saliency", second.version.name).state == "closed"
    names = [k.rpartition("/")[2] for k in keys_of(store, second.version.name)]
    assert names == ["attempt.json", "closed.json", "000000.json", "000001.json"]
    closed = json.loads(store.backend.get(f"{second.folder}/closed.json"))
    assert closed["reason"] == f"equal to saliency@{first.version}"
    assert store.complete("saliency", kit.key().digest()).name == first.version
    assert kit.open(store, base=first.version).version.name == f"{first.version}-3"


def test_shards_to_redo_stand_in_the_attempt(kit: Any, store: Store) -> None:
    first = kit.complete(store)
    some = kit.open(store, base=first.version, redo=[1])
    assert some.attempt.redo == [1]
    assert kit.open(store, base=first.version, redo=[1]).version == some.version
    other = kit.open(store, base=first.version, redo=[0])
    assert other.version.name == f"{first.version}-3"
    assert store.version("saliency", some.version.name).state == "closed"
    whole = kit.open(store, base=first.version)
    assert (whole.version.name, whole.attempt.redo) == (f"{first.version}-4", None)


def test_an_unforced_run_resumes_whatever_is_open(kit: Any, store: Store) -> None:
    first = kit.complete(store)
    some = kit.open(store, base=first.version, redo=[1])
    assert kit.open(store).version == some.version


class Watched(MemoryBackend):
    """Keeps the order of writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def create(self, key: str, data: bytes | memoryview) -> bool:
        self.written.append(key)
        return super().create(key, data)


def test_the_manifest_is_written_last_and_ends_the_work(kit: Any) -> None:
    store = Store(Watched())
    attempt = kit.open(store)
    attempt.save_checkpoint(1, b"weights", {})
    manifest = kit.publish(attempt, {0: b"zero"})
    assert isinstance(store.backend, Watched)
    assert store.backend.written[0] == f"{attempt.folder}/attempt.json"
    assert store.backend.written[-1] == f"{attempt.folder}/manifest.json"
    assert keys(store, f"{attempt.folder}/work/") == []
    assert store.resolve(attempt.version.ref) == manifest


@pytest.mark.parametrize("harm", ["missing", "cut"])
@pytest.mark.parametrize("views", [False, True])
def test_publishing_with_a_member_missing_publishes_nothing(kit: Any, store: Store, harm: str, views: bool) -> None:
    attempt = kit.open(store)
    member = attempt.put("metrics.json", b"{}")
    store.backend.delete(member.key)
    if harm == "cut":
        store.backend.create(member.key, b"{")
    manifest = kit.manifest(attempt, views=[member]) if views else kit.manifest(attempt, members=[member])
    with pytest.raises(Integrity, match=f"{member.key} with 2 bytes before publishing.*nothing was published"):
        attempt.publish(manifest)
    assert store.version("saliency", attempt.version.name).state == "open"


def test_two_runs_that_finish_one_attempt_share_a_manifest(kit: Any, store: Store) -> None:
    mine, theirs = kit.open(store), kit.open(store)
    shards = {0: b"zero", 1: b"one"}
    records = kit.finish(mine, shards)
    assert kit.finish(theirs, shards) == records
    won = mine.publish(kit.manifest(mine, records, run="mine"))
    lost = theirs.publish(kit.manifest(theirs, records, run="theirs"))
    assert lost == won
    assert lost.run == "mine"


def test_a_shard_made_with_other_bytes_is_an_error(kit: Any, store: Store) -> None:
    mine, theirs = kit.open(store), kit.open(store)
    (record,) = kit.finish(mine, {0: b"zero"})
    with pytest.raises(Integrity, match=r"another made shard 0 of saliency@.* with different bytes; the first stays"):
        kit.finish(theirs, {0: b"ZERO"})
    assert theirs.finished() == {0: record}


def test_a_losing_training_run_adopts_the_winner(kit: Any, store: Store) -> None:
    mine, theirs = kit.open(store), kit.open(store)
    won = mine.publish(kit.manifest(mine, members=[mine.put("checkpoint.safetensors", b"a")], run="mine"))
    lost = theirs.publish(kit.manifest(theirs, members=[theirs.put("checkpoint.safetensors", b"b")], run="theirs"))
    assert lost == won == store.resolve(mine.version.ref)


def test_starts_are_counted(kit: Any, store: Store) -> None:
    attempt = kit.open(store)
    assert [attempt.start(4), attempt.start(4), attempt.start(5), kit.open(store).start(4)] == [1, 2, 1, 3]
    assert attempt.finished() == {}
    assert not attempt.is_finished(4)


def test_members_are_named_by_content(kit: Any, store: Store) -> None:
    attempt = kit.open(store)
    member = attempt.put("report.tar.gz", b"abc", samples=2)
    assert member.key == f"{attempt.folder}/report-ba7816bf8f01cfea.tar.gz"
    assert (member.name, member.bytes, member.samples) == ("report.tar.gz", 3, 2)
    assert attempt.put("report.tar.gz", b"abc", samples=2) == member
    shard = attempt.put_shard(12, ".tar", b"abc", 1)
    assert shard.key == "artifacts/saliency/shards/saliency-000012-ba7816bf8f01cfea.tar"
    assert shard.name == "saliency-000012.tar"


@pytest.mark.parametrize("found", [b"", b"zer", b"zerO", b"zero and more"])
def test_making_a_damaged_member_again_mends_it(kit: Any, store: Store, found: bytes) -> None:
    """`rerun --damaged` makes the same bytes under the same name: they must not be taken as there already."""
    first = kit.complete(store)
    store.backend.replace(first.members[0].key, found)
    again = kit.open(store, base=first.version, redo=[0])
    assert kit.publish(again, {0: b"zero", 1: b"one"}) == first
    assert store.read(first.members[0]) == b"zero"


class Collected(MemoryBackend):
    """Where gc deletes an object just after a writer was told that there is one."""

    def create(self, key: str, data: bytes | memoryview) -> bool:
        made = super().create(key, data)
        if not made:
            self.delete(key)
        return made


def test_a_member_that_gc_deletes_meanwhile_is_made_again(kit: Any) -> None:
    store = Store(Collected())
    attempt = kit.open(store)
    member = attempt.put_shard(0, ".tar", b"zero", 1)
    assert attempt.put_shard(0, ".tar", b"zero", 1) == member
    assert store.read(member) == b"zero"


def test_a_member_that_is_always_deleted_is_given_up(kit: Any) -> None:
    class Endless(MemoryBackend):
        def create(self, key: str, data: bytes | memoryview) -> bool:
            return "shards/" not in key and super().create(key, data)

    with pytest.raises(Transient, match=r"saliency-000000-.*run again when gc has ended"):
        kit.open(Store(Endless())).put_shard(0, ".tar", b"zero", 1)


class TestCheckpoints:
    def save(self, attempt: Any, *steps: int) -> None:
        for step in steps:
            attempt.save_checkpoint(step, b"weights %d" % step, {"position": step})

    def test_the_last_wins_and_two_stay(self, kit: Any, store: Store) -> None:
        attempt = kit.open(store)
        assert attempt.last_checkpoint() is None
        self.save(attempt, 1, 5, 90, 400)
        assert kit.open(store).last_checkpoint() == (400, b"weights 400", {"position": 400})
        names = store.backend.children(f"{attempt.folder}/work/")
        assert sorted({n[5:13] for n in names}) == ["00000090", "00000400"]
        assert len(names) == 4

    @pytest.mark.parametrize("part", ["tensors", "record"])
    @pytest.mark.parametrize("harm", [None, b"", b"{", b"null", b"[]", b"{}", b'{"step":1,"state":{},"tensors":5}'])
    def test_a_damaged_one_falls_back(self, kit: Any, store: Store, part: str, harm: bytes | None) -> None:
        attempt = kit.open(store)
        self.save(attempt, 1, 2)
        ending = ".json" if part == "record" else ".safetensors"
        (key,) = [k for k in keys(store, f"{attempt.folder}/work/step-00000002") if k.endswith(ending)]
        store.backend.delete(key)
        if harm is not None:
            store.backend.create(key, harm)
        assert attempt.last_checkpoint() == (1, b"weights 1", {"position": 1})
        self.save(attempt, 2)  # the resumed run comes there again
        assert attempt.last_checkpoint() == (2, b"weights 2", {"position": 2})

    def test_tensors_without_their_record_do_not_count(self, kit: Any, store: Store) -> None:
        attempt = kit.open(store)
        self.save(attempt, 1)
        store.backend.create(f"{attempt.folder}/work/step-00000002-0123456789abcdef.safetensors", b"half")
        assert attempt.last_checkpoint()[0] == 1

    def test_all_damaged_is_none(self, kit: Any, store: Store) -> None:
        attempt = kit.open(store)
        self.save(attempt, 1, 2)
        for key in keys(store, f"{attempt.folder}/work/"):
            store.backend.replace(key, b"x")
        assert attempt.last_checkpoint() is None


def test_records_are_readable_json(kit: Any, store: Store) -> None:
    """People look at them: indented, sorted, ending in a new line."""
    manifest = kit.complete(store)
    for key in keys_of(store, manifest.version):
        text = store.backend.get(key).decode()
        assert text == json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_types_of_what_comes_back(kit: Any, store: Store) -> None:
    attempt = kit.open(store)
    (record,) = kit.finish(attempt, {0: b"zero"})
    assert isinstance(record, ShardRecord)
    assert isinstance(attempt.publish(kit.manifest(attempt, [record])), Manifest)
