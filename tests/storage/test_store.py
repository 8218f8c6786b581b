"""Which version a ref or a key means, and what a store refuses to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from storage.canonical import canonical_json
from storage.errors import Format, Integrity, InvalidInput, NotFound
from storage.manifest import RECORD_LIMIT, Key
from storage.store import Store


def forced(kit: Any, store: Store, base: str, shards: dict[int, bytes]) -> Any:
    return kit.publish(kit.open(store, base=base), shards)


def colliding(monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys share their first 12 digits."""
    digest = Key.digest
    monkeypatch.setattr(Key, "digest", lambda key: "0" * 12 + digest(key)[12:])


def test_a_store_is_made_once_and_opened_again(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    Store.open(url)
    assert (tmp_path / "store" / "gazeflow.json").read_bytes() == b'{"format":1}'
    Store.open(url)


def test_a_store_to_read_is_not_made(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    with pytest.raises(NotFound, match=rf"{url}: expected a store, found none; nothing was made"):
        Store.existing(url)
    assert list(tmp_path.iterdir()) == []
    Store.open(url)
    assert Store.existing(url).kinds() == []


def test_an_empty_bucket_holds_no_store_whatever_its_name(moto: Any, s3_place: Any) -> None:
    url = s3_place(moto)
    assert "bucket" in url
    with pytest.raises(NotFound, match="expected a store, found none"):
        Store.existing(url)
    with pytest.raises(NotFound, match="no such bucket; make it first"):
        Store.existing("s3://nowhere/x")


@pytest.mark.parametrize("data", [b'{"format":2}', b'{"format":0}', b'{"format":"1"}', b'{"format":null}'])
def test_another_format_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "gazeflow.json").write_bytes(data)
    with pytest.raises(Format, match=r"expected store format 1, found .*nothing was read or written"):
        Store.open(f"file://{tmp_path}")
    assert (tmp_path / "gazeflow.json").read_bytes() == data


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"1", b"null", b"{}", b"\xff", b"[" * 4096])
def test_a_damaged_format_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "gazeflow.json").write_bytes(data)
    with pytest.raises(Format, match=r"gazeflow\.json: expected the store's format"):
        Store.open(f"file://{tmp_path}")


def test_a_large_format_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "gazeflow.json").write_bytes(canonical_json({"format": 1, "pad": "x" * 5000}))
    with pytest.raises(Integrity, match="at most 4096 bytes"):
        Store.open(f"file://{tmp_path}")


def test_kinds_and_versions(kit: Any, store: Store) -> None:
    assert store.kinds() == []
    assert store.versions("saliency") == []
    one, two = kit.complete(store, kit.key(1)), kit.complete(store, kit.key(2))
    kit.open(store, kit.key(1, "teacher"))
    assert store.kinds() == ["saliency", "teacher"]
    kit.open(store, kit.key(1), base=one.version)
    assert [v.name for v in store.versions("saliency") if v.number == 1] == sorted([one.version, two.version])
    assert f"{one.version}, {one.version}-2" in ", ".join(v.name for v in store.versions("saliency"))
    assert [v.state for v in store.versions("teacher")] == ["open"]
    assert store.version("saliency", one.version).ref == f"saliency@{one.version}"


def test_what_is_no_version_is_not_listed(kit: Any, store: Store) -> None:
    manifest = kit.complete(store)
    for folder in ("shards", "0123", manifest.version + "-1", manifest.version + "-02", "G" * 12):
        store.backend.create(f"artifacts/saliency/{folder}/manifest.json", b"{}")
        store.backend.create(f"artifacts/saliency/{folder}/attempt.json", b"{}")
    store.backend.create("artifacts/saliency/" + "a" * 12 + "/progress/000000.json", b"{}")  # just being opened
    assert [v.name for v in store.versions("saliency")] == [manifest.version]
    with pytest.raises(NotFound, match="no such version"):
        store.version("saliency", "a" * 12)


@pytest.mark.parametrize("kind", ["..", "../..", "", "a b", "/etc"])
def test_a_kind_cannot_leave_the_store(store: Store, kind: str) -> None:
    with pytest.raises(InvalidInput, match="store key"):
        store.versions(kind)


def test_an_unpinned_key_means_its_highest_complete_attempt(kit: Any, store: Store) -> None:
    key = kit.key().digest()
    assert store.complete("saliency", key) is None
    first = kit.complete(store)
    for number in range(2, 12):  # -10 sorts before -2 as text
        made = forced(kit, store, first.version, {0: b"%d" % number})
        assert made.version == f"{first.version}-{number}"
        assert store.complete("saliency", key).name == made.version
    kit.open(store, base=first.version)
    assert [v.number for v in store.of_key("saliency", key)] == list(range(1, 13))
    assert store.complete("saliency", key).number == 11


def test_keys_with_the_same_twelve_digits(kit: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    colliding(monkeypatch)
    kit.complete(store, kit.key(1))
    with pytest.raises(Integrity, match="two keys begin with the same 12 digits"):
        kit.open(store, kit.key(2))
    with pytest.raises(Integrity, match="two keys"):
        store.complete("saliency", kit.key(2).digest())
    assert len(store.versions("saliency")) == 1


def test_refs(kit: Any, store: Store) -> None:
    first = kit.complete(store)
    name = first.version
    assert store.resolve(f"saliency@{name}") == store.resolve(f"saliency@{name[:4]}") == first
    second = forced(kit, store, name, {0: b"other"})
    assert store.resolve(f"saliency@{name}") == first
    assert store.resolve(f"saliency@{name}-2") == store.resolve(f"saliency@{name[:5]}-2") == second
    assert store.resolve(f"saliency@{name[:6]}") == second, "shortened, it means the highest complete attempt"


def test_ambiguous_refs(kit: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = Key.digest
    monkeypatch.setattr(Key, "digest", lambda key: "abcd" + digest(key)[4:])
    one, two = kit.complete(store, kit.key(1)), kit.complete(store, kit.key(2))
    with pytest.raises(NotFound, match=r"expected one version in memory://, found saliency@abcd.*, saliency@abcd"):
        store.resolve("saliency@abcd")
    assert store.resolve(f"saliency@{one.version[:8]}") == one
    assert store.resolve(f"saliency@{two.version[:8]}") == two


@pytest.mark.parametrize(
    "ref",
    ["", "saliency", "saliency@", "saliency@abc", "saliency@ABCD", "saliency@xyzw", "@abcd",
     "a@b@abcd", "saliency@0123456789abc", "saliency@abcd-", "saliency@abcd-0", "saliency@abcd-1", "saliency@abcd-02",
     "../x@abcd", "saliency@abcd\n", "saliency@abcd/../x"],
)  # fmt: skip
def test_malformed_refs(store: Store, ref: str) -> None:
    with pytest.raises(InvalidInput, match="expected KIND@VERSION"):
        store.resolve(ref)


def test_unknown_refs(kit: Any, store: Store) -> None:
    name = kit.complete(store).version
    for ref in ("saliency@0000", f"saliency@{name}-2", f"saliency@{name[:4]}-2", f"teacher@{name}"):
        with pytest.raises(NotFound, match=r"expected one version in memory://, found none"):
            store.resolve(ref)


def test_an_open_version_is_no_result(kit: Any, store: Store) -> None:
    attempt = kit.open(store)
    with pytest.raises(NotFound, match=f"{attempt.version.name}: expected a complete version, found one that is open"):
        store.resolve(attempt.version.ref)
    with pytest.raises(NotFound, match="no such version"):
        store.manifest("saliency", "0" * 12)


@pytest.mark.parametrize("record", ["attempt.json", "manifest.json"])
@pytest.mark.parametrize(
    ("change", "named"),
    [((b'"kind"', b'"kinds"'), "kind"), ((b'"stage_version": 1', b'"stage_version": "x"'), "key.stage_version")],
)
def test_a_damaged_record_is_named_with_its_field(
    kit: Any, store: Store, record: str, change: tuple[bytes, bytes], named: str
) -> None:
    manifest = kit.complete(store)
    key = f"artifacts/saliency/{manifest.version}/{record}"
    store.backend.replace(key, store.backend.get(key).replace(*change))
    with pytest.raises(Format, match=rf"{key}: .*: {named}: "):
        store.attempt(store.versions("saliency")[0]) if record == "attempt.json" else store.resolve(
            f"saliency@{manifest.version}"
        )


def test_a_record_of_another_version_is_refused(kit: Any, store: Store) -> None:
    """A manifest decides where `pull` writes: it must be of the version it lies in."""
    manifest = kit.complete(store)
    key = f"artifacts/saliency/{manifest.version}/manifest.json"
    for field in ("kind", "version"):
        store.backend.replace(key, manifest.model_copy(update={field: "../../evil"}).to_bytes())
        with pytest.raises(Format, match=f"expected a record of saliency@{manifest.version}, found one of .*evil"):
            store.resolve(f"saliency@{manifest.version}")


def test_records_are_capped(kit: Any, store: Store) -> None:
    manifest = kit.complete(store)
    key = f"artifacts/saliency/{manifest.version}/manifest.json"
    store.backend.replace(key, store.backend.get(key) + b" " * RECORD_LIMIT)
    with pytest.raises(Integrity, match=f"{key}: expected at most"):
        store.resolve(f"saliency@{manifest.version}")


def test_read_verifies(kit: Any, store: Store) -> None:
    member = kit.complete(store).members[0]
    assert store.read(member) == b"zero"
    for data in (b"zerO", b"zer", b"", b"zero and more"):
        store.backend.replace(member.key, data)
        with pytest.raises(Integrity, match=member.key):
            store.read(member)
    store.backend.delete(member.key)
    with pytest.raises(NotFound, match=member.key):
        store.read(member)
