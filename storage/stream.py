"""Read label shards straight from the store, for training: verified, through a bounded cache, safe with many workers.

    from storage.store import Store
    from storage.stream import stream

    maps = stream(Store.existing("s3://bucket/labels"), "saliency:prod", cache=Path("/tmp/labels"))
    for sample in maps.shuffle(1000):     # any filter of webdataset; or torch's DataLoader(maps, num_workers=8, ...)
        sample["__key__"], sample["saliency.png"]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from storage._cache import MemberCache
from storage._subset import check_sample_key
from storage.datasets._tar import members
from storage.errors import Format, Integrity, InvalidInput
from storage.manifest import Member
from storage.pull import chosen_members
from storage.shards import FIXATIONS_SCHEMA, read_table
from storage.store import Store

Sample = dict[str, Any]

_MAP = ".saliency.png"
_ROWS = 256  # that become Python objects at once


def stream(
    store: Store, ref: str, shards: Sequence[int] | None = None, *, cache: Path, cache_bytes: int = 10 * 2**30
) -> Any:
    """A webdataset pipeline of a version's samples, each exactly once among all nodes and workers.

    Args:
        ref: a saliency or fixations version or tag, resolved now.
        shards: only these, in this order; a worker reads every n-th of them.
        cache: a folder that any number of processes may share.
        cache_bytes: what it holds at most, beside shards being fetched; a shard above it is read through a temporary
            file.

    Samples have `__key__`, `__url__`, and `saliency.png` (bytes) or the columns of the fixations. Iterating raises
    Integrity naming a damaged shard before any of its samples is given out, Transient when the cache's disk is full.
    Raises InvalidInput for another kind, NotFound for a version or shard that is not there.
    """
    import webdataset as wds

    manifest = store.resolve(ref)
    if manifest.kind not in _KINDS:
        raise InvalidInput(f"{ref}: expected a saliency or fixations version, found {manifest.kind!r}; use `pull`")
    ending, read = _KINDS[manifest.kind]
    sources = [
        {"url": f"{store.backend.url}/{m.key}", "member": m}
        for m in chosen_members(manifest, shards)
        if m.name.endswith(ending)
    ]
    samples = _Samples(MemberCache(store.backend, cache, cache_bytes), read)
    pipeline = wds.FluidWrapper(partial(iter, sources))
    for step in (wds.split_by_node, wds.split_by_worker, samples):
        pipeline.append(step)
    return pipeline


class _Samples:
    """The step of the pipeline from shards to samples."""

    def __init__(self, cache: MemberCache, read: Callable[[BinaryIO, Member], Iterator[Sample]]) -> None:
        self.cache, self.read = cache, read

    def __call__(self, sources: Iterable[Sample]) -> Iterator[Sample]:
        for source in sources:
            with self.cache.open(source["member"]) as file:
                for sample in self.read(file, source["member"]):
                    yield sample | {"__url__": source["url"]}


def _maps(file: BinaryIO, member: Member) -> Iterator[Sample]:
    """The maps of a tar, all of whose names are looked at before the first is given out."""
    try:
        parts = list(members(file, member.key))
    except InvalidInput as error:
        raise Format(str(error)) from None
    keys = [check_sample_key(p.name.removesuffix(_MAP), member.key) for p in parts]
    other = [p.name for p in parts if not p.name.endswith(_MAP)]
    if other or len(set(keys)) < len(keys):
        raise Format(f"{member.key}: expected maps with keys of their own, found {other[:1] or 'keys twice'}; not used")
    _check_count(len(keys), member)
    for key, part in zip(keys, parts, strict=True):
        file.seek(part.offset)
        yield {"__key__": key, _MAP[1:]: file.read(part.size)}


def _points(file: BinaryIO, member: Member) -> Iterator[Sample]:
    """The rows of a fixations shard."""
    table = read_table(file.read(), FIXATIONS_SCHEMA, member.key)
    _check_count(table.num_rows, member)
    for batch in table.to_batches(max_chunksize=_ROWS):
        for row in batch.to_pylist():
            yield {"__key__": check_sample_key(row["key"], member.key)} | row


def _check_count(found: int, member: Member) -> None:
    if found != member.samples:
        raise Integrity(
            f"{member.key}: expected {member.samples} samples, found {found}; none was given out. Run `gazeflow verify "
            "--deep`, then rerun the node that made it"
        )


_KINDS: dict[str, tuple[str, Callable[[BinaryIO, Member], Iterator[Sample]]]] = {
    "saliency": (".tar", _maps),
    "fixations": (".parquet", _points),
}
