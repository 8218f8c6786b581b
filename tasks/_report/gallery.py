"""A look at a label set: its first images beside their stored maps, its first maps with their points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from storage.images import decode_png_gray, decode_rgb
from storage.manifest import Manifest, ShardRecord
from storage.shards import FIXATIONS_SCHEMA, SALIENCY_SCHEMA, read_png, read_table
from storage.store import Store
from tasks._data.images import read_verified
from tasks._datasets import OpenDataset
from tasks._report.pictures import heat, tiles

_SHOWN = 12
_PAIRS = 3  # in a row


def label_gallery(store: Store, images: OpenDataset, records: Sequence[ShardRecord]) -> bytes:
    """The first 12 labelled images of a label set, each beside its map, as a PNG."""
    pairs = list(islice(_pairs(store, images, records), _SHOWN))
    rows = [[p for pair in pairs[i : i + _PAIRS] for p in pair] for i in range(0, len(pairs), _PAIRS)]
    return tiles(rows, ["image", "label"] * min(_PAIRS, max(1, len(pairs))), width=112)


def fixation_gallery(store: Store, saliency: Manifest, records: Sequence[ShardRecord]) -> bytes:
    """The first 12 maps with their points, numbered by colour from the first (white) on, as a PNG."""
    shown = list(islice(_pointed(store, saliency, records), _SHOWN))
    rows = [shown[i : i + 2 * _PAIRS] for i in range(0, len(shown), 2 * _PAIRS)]
    return tiles(rows, ["points"] * min(2 * _PAIRS, max(1, len(shown))), width=112)


def _pointed(store: Store, saliency: Manifest, records: Sequence[ShardRecord]) -> Iterator[NDArray[np.uint8]]:
    """Maps enlarged, each with a dot for every point, the paler the earlier."""
    maps = {r.shard: r.members for r in saliency.shards}
    for record in sorted(records, key=lambda r: r.shard):
        tar_member, index_member = maps[record.shard]
        tar = memoryview(store.read(tar_member))
        index = read_table(store.read(index_member), SALIENCY_SCHEMA, index_member.key).to_pylist()
        (points_member,) = record.members
        points = read_table(store.read(points_member), FIXATIONS_SCHEMA, points_member.key).to_pylist()
        for row, found in zip(index, points, strict=True):
            if row["status"] == "ok":
                png = read_png(tar, row["offset"], row["size"], row["sha256"], f"{tar_member.key} {row['key']}")
                yield _dotted(decode_png_gray(png), found["x"], found["y"])


def _dotted(saliency: NDArray[np.uint8], x: Sequence[int], y: Sequence[int]) -> NDArray[np.uint8]:
    scale = max(1, 224 // saliency.shape[1])
    side = (scale * saliency.shape[1], scale * saliency.shape[0])
    canvas = cv2.cvtColor(cv2.resize(saliency, side, interpolation=cv2.INTER_NEAREST), cv2.COLOR_GRAY2RGB)
    for number in reversed(range(len(x))):
        centre = (int((x[number] + 0.5) * scale), int((y[number] + 0.5) * scale))
        shade = int(255 * (1 - number / max(1, len(x))))
        cv2.circle(canvas, centre, 4, (255, shade, shade), thickness=-1, lineType=cv2.LINE_AA)
    return canvas.astype(np.uint8)


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
