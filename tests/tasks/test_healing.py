"""A damaged member is put right by making its node again; one that cannot be is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from storage.verify import damaged
from tasks._report import pictures


def test_a_flipped_checkpoint_byte_is_put_right_by_a_rerun(bare: Callable[..., Any]) -> None:
    nodes = bare()
    manifest = nodes.make("teacher")
    member = manifest.member("checkpoint.safetensors")
    data = bytearray(nodes.store.backend.get(member.key))
    data[-1] ^= 1
    nodes.store.backend.replace(member.key, bytes(data))
    assert [d.member for d in damaged(nodes.store.backend, manifest, deep=True)] == [member]
    again = nodes.make("teacher", forced=True)
    assert again.version == manifest.version, "the same result is no new version"
    assert not list(damaged(nodes.store.backend, manifest, deep=True))
    assert nodes.store.resolve(f"teacher@{manifest.version[:4]}").version == manifest.version


def test_a_damaged_view_is_put_right_by_the_same_bytes_and_told_where_they_are_others(
    bare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = bare()
    manifest = nodes.make("teacher")
    view = manifest.member("learning-curves.png")

    def remade() -> list[str]:
        nodes.store.backend.replace(view.key, b"no picture")
        nodes.events.clear()
        assert nodes.make("teacher", forced=True).version == manifest.version
        return [e.text for e in nodes.events if e.text.startswith("WARNING")]

    assert not remade()
    assert nodes.store.read(view)
    drawn = pictures.curves
    monkeypatch.setattr(pictures, "curves", lambda *how: drawn(*how) + b"as another release draws it")
    (told,) = remade()
    assert f"damaged views learning-curves.png of teacher@{manifest.version}, made others" in told
    assert [d.member for d in damaged(nodes.store.backend, manifest, deep=True)] == [view]
