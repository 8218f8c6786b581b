"""A finished shard whose bytes have gone from the store is made again, and the version is whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.verify import damaged
from tasks._make import finish_sharded, make_shards, remaining_shards


def test_a_lost_member_of_an_open_attempt_is_made_again(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[Any], tmp_path: Path
) -> None:
    bare = of_tars(write_tars(tmp_path / "tars", four_shards))
    order, attempt = bare.open("saliency")
    make_shards(order, range(4), bare.report)
    lost = attempt.finished()[2].members[0]
    bare.store.backend.delete(lost.key)
    assert [s.number for s in remaining_shards(order)] == [2]
    make_shards(order, [2], bare.report)
    manifest = bare.store.resolve(finish_sharded(order, bare.report))
    assert lost in manifest.members, "the same bytes under the same name"
    assert not list(damaged(bare.store.backend, manifest, deep=True))


def test_a_version_that_lost_a_member_lends_only_its_whole_shards(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[Any], tmp_path: Path
) -> None:
    first = of_tars(write_tars(tmp_path / "tars", four_shards)).make("saliency")
    shorter = dict(list(four_shards[0].items())[:-2])  # an image less
    second = of_tars(write_tars(tmp_path / "others", [shorter, *four_shards[1:]]))
    second.store.backend.delete(first.shards[3].members[1].key)
    order, _ = second.open("saliency")
    assert [s.number for s in remaining_shards(order)] == [0, 3]
