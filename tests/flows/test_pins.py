"""Configs that name a version or a tag as a node's input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.manifest import Manifest
from tests.storage.labels import Labels

Ask = Callable[..., Any]
WriteConfig = Callable[..., Path]


def pinned_config(write_tiny: WriteConfig, folder: Path, pin: str) -> str:
    """The tiny config, its fixations made from a pinned version."""
    file = write_tiny(folder)
    file.write_text(file.read_text().replace("[fixations]", f'[fixations]\ninputs.saliency = "{pin}"'))
    return str(file)


def test_a_pinned_input_is_the_version_it_means(
    ask: Ask, labels: Labels, newer: Manifest, write_tiny: WriteConfig, tmp_path: Path
) -> None:
    def planned(pin: str) -> str:
        (row,) = ask("plan", pinned_config(write_tiny, tmp_path, pin), "--until", "fixations", "--json").json
        assert (row["node"], row["shards"]) == ("fixations", 3), "nothing before a pin is looked at"
        return str(row["ref"])

    old, new = labels.saliency.ref, newer.ref
    ask("tag", old, "prod")
    assert planned("saliency:prod") == planned(old) == planned(old[:13])
    assert planned(new) != planned(old)
    ask("tag", new, "prod")
    assert planned("saliency:prod") == planned(new), "the key names the version, not the tag"


@pytest.mark.parametrize(
    ("pin", "code", "told"),
    [
        ("saliency:prdo", 3, "no such tag in file://{store}; tags there: saliency:prod"),
        ("saliency@0123456789ab", 3, "see `gazeflow versions saliency`"),
        ("teacher:prod", 2, "expected a version or tag of saliency, found 'teacher:prod'"),
        ("teacher@0123456789ab", 2, "expected a version or tag of saliency, found 'teacher@0123456789ab'"),
        ("salency:prod", 2, "expected a version or tag of saliency, found 'salency:prod'"),
        ("saliency:Prod", 2, "expected KIND@VERSION or KIND:TAG, as saliency@3f9c0a1b or saliency:prod"),
        ("saliency@xyz", 2, "expected KIND@VERSION or KIND:TAG"),
        ("saliency:", 2, "expected KIND@VERSION or KIND:TAG"),
        ("salency", 2, "no node 'salency'; did you mean 'saliency'?"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run", "rerun"])
def test_a_misspelt_pin_is_told_with_its_place_before_anything_starts(
    ask: Ask, labels: Labels, write_tiny: WriteConfig, tmp_path: Path, command: str, pin: str, code: int, told: str
) -> None:
    ask("tag", labels.saliency.ref, "prod")
    before = set(labels.store.backend.entries(""))
    file = pinned_config(write_tiny, tmp_path, pin)
    words = ("rerun", "student", "--config", file) if command == "rerun" else (command, file)
    refused = ask(*words, code=code)
    assert refused.out == ""
    assert told.format(store=tmp_path / "store") in refused.err
    assert f"{file} [fixations] input saliency: " in refused.err
    assert set(labels.store.backend.entries("")) == before
    assert not (tmp_path / ".gazeflow").exists(), "no server was started"


def test_a_pin_in_a_store_that_is_not_there(ask: Ask, write_tiny: WriteConfig, tmp_path: Path) -> None:
    file = pinned_config(write_tiny, tmp_path, "saliency:prod")
    assert "expected a store, found none; nothing was made" in ask("run", file, code=3).err
    assert not (tmp_path / "store").exists()
