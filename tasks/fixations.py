"""Stage `fixations`: extract pseudo-fixations from stored saliency maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from storage.canonical import digest
from storage.images import decode_png_gray
from storage.manifest import Manifest, ShardRecord
from storage.parallel import ordered_map
from storage.shards import SALIENCY_SCHEMA, FixationsRow, read_png, read_table, write_fixations
from tasks._datasets import OpenDataset
from tasks._stage import Context, Input, Params, Result, Shard, Sharded, ShardResult, Stage

_BLOCK = 64  # maps in one call of the kernel


class FixationsParams(Params):
    """How points are taken from a map."""

    sigma: float = Field(6 / 224, gt=0, description="of the subtracted Gaussian, over the map's width")
    threshold: float = Field(0.2, gt=0, le=1, description="stop below this share of the map's first maximum")
    cap: int = Field(512, ge=1, description="most points of one map")


def plan(inputs: Mapping[str, Sequence[Manifest]], datasets: Mapping[str, Sequence[OpenDataset]]) -> list[Shard]:
    """One shard for each saliency shard; its inputs are that shard's bytes."""
    source = inputs["saliency"][0].shards
    return [Shard(r.shard, r.done + r.failed, digest([m.sha256 for m in r.members])) for r in source]


def run(context: Context, shards: Iterable[Shard]) -> Iterator[ShardResult]:
    """Extract the points of one shard after another."""
    source = {r.shard: r for r in context.inputs["saliency"][0].shards}
    for shard in shards:
        yield _extract_shard(context, shard, source[shard.number])


def _extract_shard(context: Context, shard: Shard, source: ShardRecord) -> ShardResult:
    tar_member, index_member = source.members
    tar = memoryview(context.store.read(tar_member))
    index = read_table(context.store.read(index_member), SALIENCY_SCHEMA, index_member.key).to_pylist()
    blocks = [index[i : i + _BLOCK] for i in range(0, len(index), _BLOCK)]

    def work(block: list[dict[str, Any]]) -> tuple[list[FixationsRow], int]:
        return _extract_block(block, tar, tar_member.key, context.params)

    found = list(ordered_map(work, blocks, context.settings.decoders, 8))
    rows = [row for rows, _ in found for row in rows]
    failed = [r for r in rows if r.error]
    counts = np.bincount([len(r.x) for r in rows if not r.error], minlength=1)
    member = context.attempt.put_shard(shard.number, ".parquet", write_fixations(rows), len(rows))
    return ShardResult(
        shard,
        [member],
        done=len(rows) - len(failed),
        failed=len(failed),
        errors=[f"{r.key}: {r.error}" for r in failed],
        counts={"points": counts.tolist(), "capped": sum(capped for _, capped in found)},
    )


def _extract_block(
    block: list[dict[str, Any]], tar: memoryview, where: str, p: FixationsParams
) -> tuple[list[FixationsRow], int]:
    """Rows of some maps of one size, and how many of them hit the cap."""
    from models.fixations import extract

    good = [r for r in block if r["status"] == "ok"]
    maps = [decode_png_gray(read_png(tar, r["offset"], r["size"], r["sha256"], f"{where} {r['key']}")) for r in good]
    points = extract(np.stack(maps), p.sigma * maps[0].shape[1], p.threshold, p.cap) if maps else []
    by_key = {r["key"]: (m, f) for r, m, f in zip(good, maps, points, strict=True)}
    rows = []
    for row in block:
        if row["key"] in by_key:
            image, found = by_key[row["key"]]
            rows.append(FixationsRow(row["key"], image.shape[1], image.shape[0], found.x, found.y, found.peak))
        else:
            none = np.empty(0, np.uint16)
            rows.append(FixationsRow(row["key"], 0, 0, none, none, np.empty(0, np.float32), row["error"]))
    return rows, sum(f.capped for f in points)


def finish(context: Context, records: Sequence[ShardRecord]) -> Result:
    """The distribution of point counts, the share of maps that hit the cap, and a gallery of the first maps."""
    from tasks._report.gallery import fixation_gallery

    longest = max(len(r.counts["points"]) for r in records)
    counts = sum(np.pad(r.counts["points"], (0, longest - len(r.counts["points"]))) for r in records)
    total = max(1, int(np.sum(counts)))
    summary = {
        "images": total,
        "mean_points": round(float(np.arange(longest) @ counts) / total, 3),
        "points_histogram": np.asarray(counts).tolist(),
        "capped_share": sum(r.counts["capped"] for r in records) / total,
    }
    context.report_table(
        "points per map", [{"points": n, "maps": int(c)} for n, c in enumerate(np.asarray(counts)) if c][:40]
    )
    gallery = fixation_gallery(context.store, context.inputs["saliency"][0], records)
    return Result(members=[], views=[context.picture("gallery.png", gallery)], summary=summary)


STAGE = Stage(
    name="fixations",
    version=1,
    title="Extract pseudo-fixations from the maps, as Parquet shards",
    params=FixationsParams,
    run=Sharded(plan, run, finish),
    inputs={"saliency": Input("saliency", "saliency")},
)
