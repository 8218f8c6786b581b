"""A damaged member of a version made whole is put right by making the node again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from storage.verify import damaged


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
