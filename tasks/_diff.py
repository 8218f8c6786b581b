"""What differs between two versions of a kind: key, figures, shards, samples, and how far the labels drifted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.canonical import sha256
from storage.errors import Integrity, InvalidInput
from storage.images import decode_png_gray
from storage.manifest import Manifest, ShardRecord
from storage.parallel import ordered_map
from storage.shards import FIXATIONS_SCHEMA, SALIENCY_SCHEMA, read_table
from storage.store import Store
from tasks._plan import key_difference

MOST_MAPS = 2000  # changed maps that are compared by their pixels, chosen by SEED
SEED = 0

# What is kept of a sample: 45 bytes, so that a million take 45 MB; digests are cut to 8 bytes.
SAMPLE = np.dtype(
    [
        ("key", "u8"),
        ("content", "u8"),
        ("ok", "?"),
        ("shard", "i4"),
        ("row", "i4"),
        ("points", "i4"),
        ("offset", "i8"),
        ("size", "i8"),
    ]
)
Samples = NDArray[np.void]
Map = NDArray[np.float64]
Drift = dict[str, Any] | None  # None: nothing to compare


def diff(store: Store, ref_a: str, ref_b: str) -> dict[str, Any]:
    """Compare two versions of one kind; shards that are equal are not read, of the others the indexes.

    Returns kind, a, b (refs), equal, key (fields that differ), summary (figures side by side), members (by name, of
    kinds without shards) or shards and samples, and drift: of saliency the correlation (CC) between the maps of changed
    keys, at most 2,000 of them by a seeded choice; of fixations the change in points per image. Raises InvalidInput
    for two kinds, NotFound, and Integrity for damaged members.
    """
    a, b = store.resolve(ref_a), store.resolve(ref_b)
    if a.kind != b.kind:
        raise InvalidInput(f"{ref_a}, {ref_b}: expected versions of one kind, found {a.kind} and {b.kind}")
    found: dict[str, Any] = {
        "kind": a.kind,
        "a": f"{a.kind}@{a.version}",
        "b": f"{b.kind}@{b.version}",
        "equal": a.result_digest() == b.result_digest(),
        "key": [{"field": f, "a": old, "b": new} for f, old, new in key_difference(a.key, b.key)],
        "summary": _side_by_side(a.summary, b.summary),
    }
    if not (a.shards or b.shards):
        return found | {"members": _members(a, b)}
    shards = _shards(a, b)
    found |= {"shards": shards}
    return found | _samples(store, a, b, set(shards["same"])) if a.kind in _READERS else found


def _side_by_side(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    """Every figure of either summary; nested ones by dotted names."""
    left, right = dict(_figures(a)), dict(_figures(b))
    return [{"figure": n, "a": left.get(n), "b": right.get(n)} for n in sorted(left | right)]


def _figures(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _figures(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value


def _members(a: Manifest, b: Manifest) -> dict[str, list[str]]:
    return _compared({m.name: m.sha256 for m in a.members}, {m.name: m.sha256 for m in b.members})


def _shards(a: Manifest, b: Manifest) -> dict[str, list[int]]:
    return _compared(*({r.shard: [(m.name, m.sha256) for m in r.members] for r in v.shards} for v in (a, b)))


def _compared(a: dict[Any, Any], b: dict[Any, Any]) -> dict[str, list[Any]]:
    both = a.keys() & b.keys()
    return {
        "same": sorted(k for k in both if a[k] == b[k]),
        "changed": sorted(k for k in both if a[k] != b[k]),
        "only_a": sorted(a.keys() - both),
        "only_b": sorted(b.keys() - both),
    }


def _samples(store: Store, a: Manifest, b: Manifest, same: set[int]) -> dict[str, Any]:
    """Samples by key, wherever their shard is, and the drift of those whose label changed."""
    equal = sum(r.done + r.failed for r in a.shards if r.shard in same)
    left, right = (_read(store, m, [r for r in m.shards if r.shard not in same]) for m in (a, b))
    _, at_a, at_b = np.intersect1d(left["key"], right["key"], return_indices=True)
    was, now = left[at_a], right[at_b]
    changed = was["content"] != now["content"]
    counts = {
        "same": equal + int((~changed).sum()),
        "changed": int(changed.sum()),
        "added": len(right) - len(at_b),
        "removed": len(left) - len(at_a),
    }
    both = changed & was["ok"] & now["ok"]
    return {"samples": counts, "drift": _DRIFTS[a.kind](store, (a, b), was[both], now[both])}


def _read(store: Store, manifest: Manifest, records: list[ShardRecord]) -> Samples:
    """What is kept of every sample of some shards, a few shards at a time."""

    def work(record: ShardRecord) -> Samples:
        return np.array(list(_READERS[manifest.kind](_table(store, manifest.kind, record), record.shard)), SAMPLE)

    parts = ordered_map(work, records, store.backend.threads, store.backend.threads)
    return np.concatenate([np.empty(0, SAMPLE), *parts])


def _table(store: Store, kind: str, record: ShardRecord) -> pa.Table:
    """A shard's table, verified: of saliency its index."""
    member = record.members[-1]
    return read_table(store.read(member), SALIENCY_SCHEMA if kind == "saliency" else FIXATIONS_SCHEMA, member.key)


def _saliency_rows(table: pa.Table, shard: int) -> Iterator[tuple[Any, ...]]:
    columns = (table[n].to_pylist() for n in ("key", "sha256", "status", "offset", "size"))
    for row, (key, digest, status, offset, size) in enumerate(zip(*columns, strict=True)):
        yield _short(key), _digest(digest), status == "ok", shard, row, 0, offset, size


def _fixation_rows(table: pa.Table, shard: int) -> Iterator[tuple[Any, ...]]:
    columns = (table[n].to_pylist() for n in ("key", "status", "width", "height", "x", "y", "peak"))
    for row, (key, status, *label) in enumerate(zip(*columns, strict=True)):
        yield _short(key), _short(repr(label)), status == "ok", shard, row, len(label[2]), 0, 0


def _short(text: str) -> int:
    return _digest(sha256(text.encode()))


def _digest(digest: str) -> int:
    """The first 8 bytes of a digest; 0 for none."""
    return int(digest[:16] or "0", 16)


def _map_drift(store: Store, versions: tuple[Manifest, Manifest], was: Samples, now: Samples) -> Drift:
    """CC between old and new maps of the same keys; a map of another size is resized to the old one's."""
    from models.metrics import correlation

    chosen = np.sort(np.random.default_rng(SEED).permutation(len(was))[:MOST_MAPS])
    old, new = (_maps(store, m, s[chosen]) for m, s in zip(versions, (was, now), strict=True))
    scores = np.array([correlation(_resized(n, o.shape), o) for o, n in zip(old, new, strict=True)], np.float64)
    known = scores[~np.isnan(scores)]  # a constant map correlates with nothing
    if not len(known):
        return None
    lowest = [i for i in np.argsort(scores, kind="stable")[:5] if not np.isnan(scores[i])]
    return {
        "of": "CC between the maps of changed keys",
        "changed": len(was),
        "compared": len(known),
        "chosen": "all" if len(was) <= MOST_MAPS else f"{MOST_MAPS} at random, seed {SEED}",
        "mean": float(known.mean()),
        "median": float(np.median(known)),
        "min": float(known.min()),
        "lowest": [{"key": _key(store, versions[0], was[chosen[i]]), "cc": float(scores[i])} for i in lowest],
    }


def _maps(store: Store, manifest: Manifest, samples: Samples) -> Iterator[Map]:
    """The maps of some samples, each read by its bytes alone and verified."""
    tars = {r.shard: r.members[0] for r in manifest.shards}

    def work(sample: np.void) -> Map:
        tar, offset, size = tars[int(sample["shard"])], int(sample["offset"]), int(sample["size"])
        inside = offset >= 0 and 0 < size <= tar.bytes - offset
        data = store.backend.get_range(tar.key, offset, size) if inside else b""
        if _digest(sha256(data)) != sample["content"]:
            raise Integrity(
                f"{tar.key}: expected the map of its index at byte {offset}, {size} bytes, found others; nothing was "
                f"compared. Run `gazeflow verify {manifest.kind}@{manifest.version} --deep`"
            )
        return decode_png_gray(data).astype(np.float64)

    return ordered_map(work, samples, store.backend.threads, 2 * store.backend.threads)


def _resized(new: Map, shape: tuple[int, ...]) -> Map:
    if new.shape == shape:
        return new
    way = cv2.INTER_AREA if new.shape[0] > shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(new, shape[::-1], interpolation=way), np.float64)


def _key(store: Store, manifest: Manifest, sample: np.void) -> str:
    record = next(r for r in manifest.shards if r.shard == sample["shard"])
    return str(_table(store, manifest.kind, record)["key"][int(sample["row"])].as_py())


def _point_drift(store: Store, versions: tuple[Manifest, Manifest], was: Samples, now: Samples) -> Drift:
    change = now["points"].astype(np.int64) - was["points"]
    if not len(change):
        return None
    return {
        "of": "points per image of changed keys, new minus old",
        "changed": len(change),
        "mean": float(change.mean()),
        "mean_absolute": float(np.abs(change).mean()),
    }


_READERS: dict[str, Callable[[pa.Table, int], Iterable[tuple[Any, ...]]]] = {
    "saliency": _saliency_rows,
    "fixations": _fixation_rows,
}
_DRIFTS = {"saliency": _map_drift, "fixations": _point_drift}
