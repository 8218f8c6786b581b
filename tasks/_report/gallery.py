"""A look at a label set: its first images beside their stored maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from storage.images import decode_png_gray, decode_rgb
from storage.manifest import ShardRecord
from storage.shards import SALIENCY_SCHEMA, read_png, read_table
from storage.store import Store
from tasks._data import read_verified
from tasks._datasets import OpenDataset
from tasks._report.pictures import heat, tiles

_SHOWN = 12
_PAIRS = 3  # in a row


def label_gallery(store: Store, images: OpenDataset, records: Sequence[ShardRecord]) -> bytes:
    """The first 12 labelled images of a label set, each beside its map, as a PNG."""
    pairs = list(islice(_pairs(store, images, records), _SHOWN))
    rows = [[p for pair in pairs[i : i + _PAIRS] for p in pair] for i in range(0, len(pairs), _PAIRS)]
    return tiles(rows, ["image", "label"] * min(_PAIRS, max(1, len(pairs))), width=112)


def _pairs(
    store: Store, images: OpenDataset, records: Sequence[ShardRecord]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Images and the maps over them, in the order of the shards, broken ones left out."""
    for record in sorted(records, key=lambda r: r.shard):
        tar_member, index_member = record.members
        tar = memoryview(store.read(tar_member))
        index = read_table(store.read(index_member), SALIENCY_SCHEMA, index_member.key).to_pylist()
        for image, row in zip(images.index.shard(record.shard), index, strict=True):
            if row["status"] != "ok":
                continue
            where = f"{tar_member.key} {row['key']}"
            png = read_png(tar, row["offset"], row["size"], row["sha256"], where)
            pixels = decode_rgb(read_verified(images, image))
            yield pixels, heat(pixels, decode_png_gray(png))
