"""What an ops engineer types between runs: tags, copies, comparisons, garbage. No training, no server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.backends.local import LocalBackend
from storage.canonical import sha256
from storage.manifest import Manifest
from storage.pull import MARKER
from tests.storage.labels import Labels

Ask = Callable[..., Any]


def test_a_tag_is_moved_looked_up_and_taken_back(ask: Ask, labels: Labels, newer: Manifest) -> None:
    old, new = labels.saliency.ref, newer.ref
    assert "next: gazeflow tag KIND@VERSION NAME" in ask("tags").out
    first = ask("tag", old, "prod").out
    assert first.startswith(f"saliency:prod is {old} (entry 1, ")
    assert "next: gazeflow pull saliency:prod DEST" in first
    assert "rollback" not in first, "there is nothing to go back to"
    assert ask("tag", old, "prod").out == first, "what is so already is not written again"
    assert "gazeflow rollback saliency:prod" in ask("tag", new, "prod").out
    assert ask("rollback", "saliency:prod").out.startswith(f"saliency:prod is {old} (entry 3, ")
    told = ask("rollback", "saliency:prod", code=3).err
    assert f"{old} was its first. Nothing was changed; see `gazeflow tags saliency:prod`" in told
    assert [(t["entry"], t["ref"], t["restores"]) for t in ask("tags", "saliency:prod", "--json").json] == [
        (1, old, None), (2, new, None), (3, old, "entry 1"),
    ]  # fmt: skip
    ask("tag", labels.fixations.ref, "prod")
    assert [(t["tag"], t["ref"]) for t in ask("tags", "--json").json] == [
        ("fixations:prod", labels.fixations.ref), ("saliency:prod", old),
    ]  # fmt: skip
    assert all(t["who"] and t["when"] for t in ask("tags", "--json").json)
    assert len(ask("tags", "saliency:prod").out.splitlines()) == 4


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("tag", "saliency@0123456789ab", "prod"), 3, "see `gazeflow versions saliency`"),
        (("tag", "saliency", "prod"), 2, "expected KIND@VERSION or KIND:TAG"),
        (("tag", "saliency@{version}", "Prod"), 2, "expected 1 to 64 of a-z"),
        (("tags", "saliency:nosuch"), 3, "tags there: saliency:there"),
        (("tags", "saliency"), 2, "see `gazeflow tags`"),
        (("rollback", "saliency@{version}"), 2, "expected KIND:TAG"),
        (("show", "saliency:nosuch"), 3, "tags there: saliency:there"),
        (("pull", "saliency:there", "to", "--shards", "0-9"), 3, "no shards [3, 4, 5, 6, 7, 8, 9]; it has 3, 0 to 2"),
        (("pull", "saliency:there", "to", "--shards", "x"), 2, "expected numbers and ranges such as 3,17-20"),
        (("pull", "saliency:there", "to", "--classes", "n1440764"), 3, "did you mean 'n01440764'?"),
        (("pull", "saliency:there", "to", "--classes", "n01440764,"), 2, "expected names with commas between them"),
        (("diff", "saliency:there", "fixations:nosuch"), 3, "no such tag"),
        (("preview", "saliency:there"), 3, "use `gazeflow show saliency:there`"),
        (("gc", "--days", "-1"), 2, "expected 0 or more"),
        (("gc", "--days", "nan"), 2, "expected 0 or more"),
        (("doctor", "ftp://x"), 2, "expected file:///path"),
        (("doctor", "s3:///x"), 2, "expected s3://BUCKET"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    ask: Ask, labels: Labels, tmp_path: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    ask("tag", labels.saliency.ref, "there")
    refused = ask(*(w.format(version=labels.saliency.version) for w in words), code=code)
    assert refused.out == ""
    assert told in refused.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store"], "nothing was made"


@pytest.mark.parametrize(
    "words",
    [("tag", "saliency@0123456789ab", "prod"), ("tags",), ("rollback", "saliency:prod"), ("gc",), ("gc", "--apply"),
     ("diff", "saliency:prod", "saliency:prod"), ("pull", "saliency:prod", "to", "--dry-run")],
)  # fmt: skip
def test_where_there_is_no_store_none_is_made(ask: Ask, tmp_path: Path, words: tuple[str, ...]) -> None:
    assert "expected a store, found none; nothing was made" in ask(*words, code=3).err
    assert list(tmp_path.iterdir()) == []


def test_every_reading_command_takes_a_tag(ask: Ask, labels: Labels, tmp_path: Path) -> None:
    ref = labels.saliency.ref
    ask("tag", ref, "prod")
    assert ask("show", "saliency:prod").out == ask("show", ref).out
    assert ask("verify", "saliency:prod").out.endswith(f"next: gazeflow verify {ref} --deep\n")
    assert ask("verify", "saliency:prod", "--deep").out.startswith(f"{ref}: bytes of 6 members")
    assert ask("diff", "saliency:prod", ref).out.startswith(f"{ref} and {ref}: equal results")
    ask("pull", "saliency:prod", "labels")
    assert (tmp_path / "labels" / ref / MARKER).exists()


def test_pulls(ask: Ask, labels: Labels, tmp_path: Path) -> None:
    ref = labels.saliency.ref
    size = sum(m.bytes for m in labels.saliency.members)
    planned = ask("pull", ref, "all", "--dry-run")
    assert f"{ref}: would copy 6 of 6 files, {size / 1000:.0f} kB; 0 bytes are there already" in planned.out
    assert (planned.err, (tmp_path / "all").exists()) == ("", False)
    copied = ask("pull", ref, "all")
    assert f"6 files in all/{ref}, 6 copied now" in copied.out
    assert f"next: ls all/{ref}" in copied.out
    assert f"{ref}: {size / 1000:.0f}/{size / 1000:.0f} kB" in copied.err
    assert "0 copied now" in ask("pull", ref, "all").out
    some = ask("pull", ref, "some", "--shards", "0,2", "--json")
    assert (some.json["files"], some.json["samples"], some.json["subset"]) == (4, 60, True)
    assert sorted(p.name for p in (tmp_path / "some" / ref).iterdir()) == [
        MARKER, *(f"saliency-00000{n}.{e}" for n in (0, 2) for e in ("parquet", "tar")),
    ]  # fmt: skip
    for name, data in ((m.name, labels.store.read(m)) for m in labels.saliency.members):
        assert (tmp_path / "all" / ref / name).read_bytes() == data


def test_a_pull_of_classes(ask: Ask, labels: Labels, tmp_path: Path) -> None:
    ref, chosen = labels.saliency.ref, labels.classes[1:3]
    words = ("pull", ref, "some", "--classes", ", ".join(chosen))
    planned = ask(*words, "--dry-run", "--json").json
    assert (planned["samples"], planned["subset"], (tmp_path / "some").exists()) == (36, True, False)
    done = ask(*words, "--json").json
    assert {k: done[k] for k in ("samples", "bytes", "files")} == {k: planned[k] for k in ("samples", "bytes", "files")}
    mixed = ask("pull", ref, "some", code=2).err
    assert f"expected all classes, found a pull of the classes {chosen[0]}, {chosen[1]}" in mixed
    assert "Name another DEST" in mixed


def test_a_diff_tells_how_far_the_maps_moved(ask: Ask, labels: Labels, newer: Manifest) -> None:
    told = ask("diff", labels.saliency.ref, newer.ref).out.splitlines()
    assert told[0] == f"{labels.saliency.ref} and {newer.ref}: different results"
    assert "shards: same 2 (1, 2), changed 1 (0), only_a 0, only_b 0" in told
    ok = labels.saliency.shards[0].done
    assert f"samples: same {90 - ok}, changed {ok}, added 0, removed 0" in told
    (drift,) = [line for line in told if line.startswith("drift: ")]
    assert "mean -1, median -1" in drift
    found = ask("diff", labels.saliency.ref, newer.ref, "--json").json
    assert (found["equal"], found["drift"]["compared"]) == (False, ok)
    assert found["key"] == [{"field": "params.turned", "a": None, "b": True}]
    assert ask("diff", labels.saliency.ref, labels.fixations.ref, code=2).err.count("one kind") == 1


def test_gc_collects_versions_first_and_their_bytes_later(ask: Ask, labels: Labels, newer: Manifest) -> None:
    ask("tag", newer.ref, "prod")
    objects = set(labels.store.backend.entries(""))
    young = ask("gc").out
    assert "published less than 7 days ago" in young
    assert young.endswith("nothing to do\n")
    dry = ask("gc", "--days", "0").out
    assert f"kept     {newer.ref}: saliency:prod" in dry
    assert f"collect  {labels.saliency.ref}: " in dry
    assert f"collect  {labels.fixations.ref}: " in dry
    assert dry.endswith("nothing was changed\nnext: gazeflow gc --apply --days 0\n")
    assert set(labels.store.backend.entries("")) == objects
    first = ask("gc", "--days", "0", "--apply").out
    assert "done: 2 versions collected, 0 objects deleted, 0 bytes" in first
    assert "next: gazeflow gc --apply, 0 days from now" in first
    ask("show", labels.saliency.ref, code=3)
    ask("verify", newer.ref, "--deep")
    second = ask("gc", "--days", "0", "--apply", "--json").json
    assert second["done"]["objects"] == second["objects"] > 0
    ask("verify", newer.ref, "--deep")
    gone = {m.key for m in (*labels.saliency.members, *labels.fixations.members)} - {m.key for m in newer.members}
    assert [labels.store.backend.size(key) for key in gone] == [None] * len(gone)
    assert ask("gc", "--days", "0").out.endswith("nothing to do\n")


def test_two_collections_at_once_are_a_conflict(ask: Ask, labels: Labels) -> None:
    labels.store.backend.create("gc/0123.json", b"{}")
    told = ask("gc", "--apply", code=5).err
    assert "another collection is under way since" in told
    assert "nothing was collected" in told


def test_the_doctor_has_nothing_against_a_folder_and_accepts_nothing(ask: Ask, labels: Labels, tmp_path: Path) -> None:
    before = set(labels.store.backend.entries(""))
    told = ask("doctor").out
    assert told.startswith(f"file://{tmp_path}/store:\n")
    assert told.endswith("a store may lie here\nnext: gazeflow run CONFIG\n")
    assert "bad" not in told
    refused = ask("doctor", "--accept-unsafe").out
    assert "--accept-unsafe: nothing was found that it would accept; nothing was changed" in refused
    found = ask("doctor", "--json", "--accept-unsafe").json
    assert not found["accepted"]
    assert {f["verdict"] for f in found["findings"]} <= {"ok", "warning"}
    assert set(labels.store.backend.entries("")) == before


def test_a_place_that_overwrites_is_refused_until_it_is_accepted(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalBackend, "create", lambda self, key, data: self.replace(key, data) or True)
    told = ask("doctor", code=1).out
    assert "a store may lie here" not in told
    assert "create-only: runs at the same time could destroy each other's records" in told
    refused = ask("plan", "demo.toml", code=2).err
    assert "`gazeflow doctor --accept-unsafe`" in refused
    accepted = ask("doctor", "--accept-unsafe").out
    assert "accepted: this store is used although it overwrites; every manifest will say so" in accepted
    assert ask("doctor", "--accept-unsafe").out.count("nothing was found that it would accept") == 1
    assert "warning  create-only" in ask("doctor").out


def test_a_store_that_does_not_answer_is_75(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "GAZEFLOW_STORE": "s3://bucket/labels", "GAZEFLOW_S3_ATTEMPTS": "1", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "my-secret", "AWS_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for words in (("versions", "saliency"), ("show", "saliency:prod"), ("pull", "saliency:prod", "x"), ("gc",)):
        told = ask(*words, code=75).err
        assert "nobody answers at http://127.0.0.1:1; run again when it is up, or mend AWS_ENDPOINT_URL_S3" in told
        assert "my-secret" not in told
    told = ask("doctor", "--accept-unsafe", code=75).out
    assert "unknown  bytes come back" in told
    assert "--accept-unsafe: nothing was found that it would accept" in told
    assert "a store may lie here" not in told


def test_what_is_answered_in_json_is_nothing_but_json(ask: Ask, labels: Labels, tmp_path: Path) -> None:
    ask("tag", labels.saliency.ref, "prod")
    for words in (
        ("versions", "saliency"), ("show", "saliency:prod"), ("verify", "saliency:prod"), ("tags",), ("gc",),
        ("tags", "saliency:prod"), ("diff", "saliency:prod", "saliency:prod"), ("pull", "saliency:prod", "x"),
    ):  # fmt: skip
        assert ask(*words, "--json").json
    marker = json.loads((tmp_path / "x" / labels.saliency.ref / MARKER).read_text())
    pulled = {p.name: sha256(p.read_bytes()) for p in (tmp_path / "x" / labels.saliency.ref).glob("s*")}
    assert marker["files"] == pulled
