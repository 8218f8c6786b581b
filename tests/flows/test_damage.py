"""What the commands say of a store in which bytes changed, or what a version was made from is gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.pull import MARKER
from tests.storage.labels import Labels

Ask = Callable[..., Any]


def spoil(place: Path) -> None:
    """Change the last byte that people would not notice: a digit, or a byte in the middle."""
    data = place.read_bytes()
    at = max(data.rfind(b"0"), len(data) // 2)
    place.chmod(0o644)
    place.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


@pytest.mark.parametrize("ending", [".tar", ".parquet"])
def test_a_damaged_member_is_4(ask: Ask, labels: Labels, tmp_path: Path, ending: str) -> None:
    member = next(m for m in labels.saliency.members if m.name == f"saliency-000001{ending}")
    spoil(tmp_path / "store" / member.key)
    ask("verify", labels.saliency.ref)  # looks at sizes alone
    told = ask("verify", labels.saliency.ref, "--deep", code=4).out
    assert "1 of 6 members are damaged" in told
    assert f"{member.name}  " in told
    assert "next: gazeflow rerun node --damaged" in told
    assert ask("verify", labels.saliency.ref, "--deep", "--json", code=4).json["damaged"][0]["shard"] == 1
    pulled = ask("pull", labels.saliency.ref, "labels", code=4)
    assert member.key in pulled.err
    assert not (tmp_path / "labels" / labels.saliency.ref / MARKER).exists()
    (tmp_path / "store" / member.key).unlink()
    assert "missing" in ask("verify", labels.saliency.ref, code=4).out


@pytest.mark.parametrize("record", ["attempt.json", "progress/000001.json"])
def test_a_damaged_record_is_4(ask: Ask, labels: Labels, tmp_path: Path, record: str) -> None:
    spoil(tmp_path / "store" / "artifacts" / labels.saliency.ref.replace("@", "/") / record)
    told = ask("verify", labels.saliency.ref, "--deep", code=4).out
    assert "its records: " in told
    assert record in told
    assert "0 of 6 members are damaged" in told
    assert "--damaged" not in told, "no rerun mends a record"


def test_a_damaged_manifest_or_tag_is_4(ask: Ask, labels: Labels, tmp_path: Path) -> None:
    ask("tag", labels.saliency.ref, "prod")
    spoil(tmp_path / "store/tags/saliency/prod/000001.json")
    for words in (("show", "saliency:prod"), ("tags",), ("rollback", "saliency:prod"), ("gc",)):
        assert "tags/saliency/prod/000001.json" in ask(*words, code=4).err
    spoil(tmp_path / "store" / "artifacts" / labels.saliency.ref.replace("@", "/") / "manifest.json")
    for words in (("show",), ("verify",), ("pull",)):
        told = ask(*words, labels.saliency.ref, *(["labels"] if words == ("pull",) else []), code=4).err
        assert "manifest.json: not a manifest of store format 1" in told


def test_show_prints_what_a_version_was_made_from(ask: Ask, labels: Labels) -> None:
    fingerprint = labels.saliency.key.datasets["images"][0]["fingerprint"]
    told = ask("show", labels.fixations.ref).out.splitlines()
    at = told.index("lineage:")
    assert told[at + 1 : at + 4] == [
        f"  {labels.fixations.ref} (node)",
        f"    {labels.saliency.ref} (node)",
        f"      images: class_folder {fingerprint[:16]}",
    ]
    assert told[-1] == f"next: gazeflow pull {labels.fixations.ref} DEST"


def test_show_tells_of_an_input_that_was_collected(ask: Ask, labels: Labels) -> None:
    folder = f"artifacts/{labels.saliency.ref.replace('@', '/')}"
    labels.store.backend.create(f"{folder}/collected.json", b'{"collected": "2026-01-01T00:00:00Z"}')
    labels.store.backend.delete(f"{folder}/manifest.json")
    assert f"    {labels.saliency.ref} (no longer in the store)\n" in ask("show", labels.fixations.ref).out
    lineage = ask("show", labels.fixations.ref, "--json").json["lineage"]
    assert lineage["inputs"]["saliency"][0]["node"] == "no longer in the store"
