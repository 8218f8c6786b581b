"""Records come from outside: a wrong one is refused by name, a good one survives the round trip."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import Format
from storage.manifest import Attempt, Key, Manifest, Member, ShardRecord, parse
from storage.store import Store

MEMBER: dict[str, Any] = {
    "name": "saliency-000000.tar",
    "key": "artifacts/saliency/shards/saliency-000000-0123456789abcdef.tar",
    "bytes": 4,
    "sha256": "0" * 64,
    "samples": 1,
}


def changed(**fields: Any) -> bytes:
    return json.dumps(MEMBER | fields).encode()


@pytest.fixture
def manifest(kit: Any, store: Store) -> Manifest:
    found: Manifest = kit.complete(store)
    return found


def test_round_trip(kit: Any, store: Store, manifest: Manifest) -> None:
    attempt = store.attempt(store.version("saliency", manifest.version))
    for record in (manifest, attempt, manifest.shards[0]):
        assert parse(type(record), record.to_bytes(), "x") == record
        assert parse(type(record), record.to_bytes(), "x").to_bytes() == record.to_bytes()
    assert isinstance(attempt, Attempt)


@pytest.mark.parametrize(
    "key",
    [
        "artifacts/saliency/../../etc/passwd", "artifacts/../x", "/etc/passwd", "../x", "tags/saliency/prod/1.json",
        "artifacts/saliency", "artifacts/saliency/", "artifacts//x", "artifacts/saliency//x", "artifacts/Saliency/x",
        "artifacts/saliency/x\n", "artifacts/saliency/a\\b", "artifacts/saliency/é", "artifacts/saliency/.hidden",
        "artifacts/saliency/a b", "artifacts/saliency/%2e%2e", "artifacts/saliency/" + "x" * 256, "",
        "artifacts/saliency/" + "x/" * 500 + "x", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_hostile_keys_are_refused(key: str) -> None:
    with pytest.raises(Format, match=r"where: not a member of store format 1: key: "):
        parse(Member, changed(key=key), "where")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/a", ".hidden", "a\0", "a\n", "é", "x" * 129, "a b", "a\\b", "-rf"]
)
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(Format, match=r"where: .*: name: "):
        parse(Member, changed(name=name), "where")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"bytes": -1}, "bytes"),
        ({"bytes": "many"}, "bytes"),
        ({"bytes": None}, "bytes"),
        ({"samples": -1}, "samples"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"sha256": "0" * 64 + "\n"}, "sha256"),
        ({"sha256": "Z" * 64}, "sha256"),
        ({"compression": "zstd"}, "compression"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(Format, match=rf"where: .*: {named}: "):
        parse(Member, changed(**fields), "where")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"name": 1}', b"\0"])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(Format, match="where: not a manifest of store format 1"):
        parse(Manifest, data, "where")


@settings(deadline=None)
@given(st.data())
def test_a_cut_or_changed_record_is_refused_or_read(kit: Any, data: st.DataObject) -> None:
    """Whatever a byte becomes, only Format is raised."""
    whole = ShardRecord(shard=1, shard_key="k", members=[Member(**MEMBER)], done=1, failed=0).to_bytes()
    at, byte = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.binary(max_size=1))
    rest = whole[at + 1 :] if byte else b""
    with contextlib.suppress(Format):
        assert parse(ShardRecord, whole[:at] + byte + rest, "where").members[0].key.startswith("artifacts/")


def test_two_members_of_one_name_are_refused(manifest: Manifest) -> None:
    record = json.loads(manifest.to_bytes())
    record["views"] = record["members"][:1]
    with pytest.raises(Format, match=r"'saliency-000000\.tar' twice"):
        parse(Manifest, json.dumps(record).encode(), "where")


def test_member_by_name(manifest: Manifest) -> None:
    assert manifest.member("saliency-000001.tar") is manifest.members[1]
    with pytest.raises(Format, match=r"expected a member 'x', found \['saliency-000000\.tar'"):
        manifest.member("x")


def test_result_digest_is_of_names_and_bytes_alone(manifest: Manifest) -> None:
    same = manifest.model_copy(update={"members": manifest.members[::-1], "seconds": 9.0, "run": "other", "done": 7})
    assert same.result_digest() == manifest.result_digest()
    for field, value in (("sha256", "1" * 64), ("name", "other")):
        other = manifest.members[0].model_copy(update={field: value})
        assert manifest.model_copy(update={"members": [other]}).result_digest() != manifest.result_digest()


def test_every_field_of_a_key_counts() -> None:
    key = Key(stage="saliency", stage_version=1, params={"size": 1}, inputs={"teacher": ["teacher@0"]}, datasets={})
    others = [
        {"stage": "fixations"}, {"stage_version": 2}, {"params": {"size": 2}}, {"params": {"size": 1, "new": 0}},
        {"inputs": {}}, {"datasets": {"images": [{"fingerprint": "f"}]}}, {"format": 2},
    ]  # fmt: skip
    digests = {key.digest(), *(key.model_copy(update=o).digest() for o in others)}
    assert len(digests) == len(others) + 1
    assert key.digest() == "06fe16548ce2e2c7512d930191b0f279046baad560a34d6c731bf070889b8091"  # versions hang on it
