"""Write tests/data/store-v1.tar.gz: a small store of format 1, as the first release wrote it.

    python tests/data/make_store_v1.py OUT.tar.gz

The archive in the repository stays as it is for ever: later releases must read it. Run this only to see how it was
made; a store of another format gets a script and an archive of its own. It holds two label shards with a broken
image, forced attempts (another result, an equal one), open attempts with a finished shard and with checkpoints, a
data set's index and a run. No torch.
"""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from safetensors.numpy import save

from storage.attempt import OpenAttempt, open_attempt
from storage.canonical import digest, now, pretty_json
from storage.datasets.base import Image
from storage.datasets.procedural import generate
from storage.errors import InvalidInput
from storage.images import decode_png_gray, decode_rgb, encode_png_gray
from storage.manifest import Key, Manifest, Member, Producer, ShardRecord
from storage.runs import Run
from storage.shards import (
    SALIENCY_SCHEMA,
    FixationsRow,
    SaliencyRow,
    read_png,
    read_table,
    write_fixations,
    write_saliency,
)
from storage.store import Store
from tasks._datasets import DatasetConfig, OpenDataset, refresh

PRODUCER = Producer(release="0.1.0", commit="0" * 40, python="3.11.7", torch=None, device="cpu")
SIDE = 16


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, patch("socket.gethostname", return_value="example"):
        dataset = write_tars(Path(folder))
        store = Store.open(f"file://{folder}/store")
        opened = refresh(store, "photos", DatasetConfig(format="webdataset_tar", path=str(dataset)))
        run = Run(store, {"nodes": {"teacher": {}, "saliency": {}, "fixations": {}}}, "gazeflow run example.toml")
        fill(store, opened, run)
        run.end("completed")
        pack(Path(folder) / "store", out)


def write_tars(folder: Path) -> Path:
    """Two tars of three scenes each; the last image is broken."""
    generate("fixation_table", folder / "scenes", {"images": 6, "size": [48, 36], "observers": 1})
    scenes = sorted((folder / "scenes" / "images").iterdir())
    names = ["a/plain", "a/v1.0", "日本/東京", "b/" + "x" * 150, "b/50% off", "b/broken"]
    (folder / "tars").mkdir()
    for shard in range(2):
        with tarfile.open(folder / "tars" / f"photos-{shard:06d}.tar", "w") as tar:
            for n in range(3 * shard, 3 * shard + 3):
                data = scenes[n].read_bytes() if n < 5 else b"no image"
                add(tar, names[n].replace(".", "_") + ".jpg", data)
                add(tar, names[n].replace(".", "_") + ".cls", b"%d" % n)
    return folder / "tars"


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def fill(store: Store, photos: OpenDataset, run: Run) -> None:
    """Every kind of state a version can be in."""
    key = Key(stage="teacher", stage_version=1, params={"width": 4, "lr": 1e-4}, inputs={}, datasets={})
    attempt = open_attempt(store, key, "teacher", "no version of teacher yet", run.id)
    results = [
        attempt.put("checkpoint.safetensors", save({"weight": np.arange(6, dtype=np.float32).reshape(2, 3)})),
        attempt.put("metrics.json", pretty_json({"cc": 0.5})),
    ]
    view = attempt.put("learning-curves.png", encode_png_gray(np.zeros((4, 4), np.uint8)))
    teacher = attempt.publish(manifest(attempt, run, [], results, [view]))
    run.note("teacher", state="completed", ref=f"teacher@{teacher.version}", seconds=1.5)
    training = open_attempt(store, key.model_copy(update={"stage_version": 2}), "teacher", "another version", run.id)
    for step in (1, 2, 3):
        training.save_checkpoint(step, save({"weight": np.full(2, step, np.float32)}), {"epoch": step})

    reads = {"images": [photos.identity({})]}
    inputs = {"teacher": [f"teacher@{teacher.version}"]}
    key = Key(stage="saliency", stage_version=1, params={"size": SIDE}, inputs=inputs, datasets=reads)
    first = labels(store, photos, key, run, None, gain=1.0)
    second = labels(store, photos, key, run, first, gain=0.5)
    assert labels(store, photos, key, run, second, gain=0.5) == second

    inputs = {"saliency": [f"saliency@{second.version}"]}
    key = Key(stage="fixations", stage_version=1, params={"cap": 3}, inputs=inputs, datasets={})
    attempt = open_attempt(store, key, "fixations", "no version of fixations yet", run.id)
    made = [attempt.finish(points(store, attempt, record)) for record in second.shards]
    attempt.publish(manifest(attempt, run, made))
    under_way = open_attempt(
        store, key.model_copy(update={"params": {"cap": 2}}), "fixations", "differs in params.cap: 3 -> 2", run.id
    )
    for shard in (0, 1, 1):
        under_way.start(shard)
    under_way.finish(points(store, under_way, second.shards[0]))


def labels(store: Store, photos: OpenDataset, key: Key, run: Run, base: Manifest | None, gain: float) -> Manifest:
    """A version of the maps: the images' own brightness; a forced one makes its second shard again."""
    name, redo = (base.version, [1]) if base else (None, None)
    attempt = open_attempt(store, key, "saliency", "asked for by --force" if base else "none yet", run.id, name, redo)
    records = []
    for number in range(photos.index.shards()):
        if base and number != 1:
            records.append(attempt.finish(base.shards[number].model_copy(update={"adopted": base.version})))
            continue
        rows = [label(photos, image, gain) for image in photos.index.shard(number)]
        failed = sum(bool(r.error) for r in rows)
        tar, index = write_saliency(rows)
        attempt.start(number)
        members = [
            attempt.put_shard(number, ".tar", tar, len(rows) - failed),
            attempt.put_shard(number, ".parquet", index, len(rows)),
        ]
        errors = [f"{r.key}: {r.error}" for r in rows if r.error]
        records.append(attempt.finish(shard(number, photos.index.shard_digest(number), members, len(rows), errors)))
    return attempt.publish(manifest(attempt, run, records))


def label(photos: OpenDataset, image: Image, gain: float) -> SaliencyRow:
    try:
        pixels = decode_rgb(photos.reader.read(image))
    except InvalidInput as error:
        return SaliencyRow(image.key, image.label, image.sha256, error=str(error))
    grey = cv2.resize(pixels.mean(axis=2).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    density = (grey * gain + 1) / (grey * gain + 1).sum()
    png = encode_png_gray(np.round(density / density.max() * 255).astype(np.uint8))
    bits = float(-(density * np.log2(density)).sum())
    height, width = pixels.shape[:2]
    return SaliencyRow(image.key, image.label, image.sha256, png, width, height, float(density.max()), bits)


def points(store: Store, attempt: OpenAttempt, source: ShardRecord) -> ShardRecord:
    """The brightest pixel of every map."""
    tar = store.read(source.members[0])
    table = read_table(store.read(source.members[1]), SALIENCY_SCHEMA, source.members[1].key)
    found = [brightest(tar, row) for row in table.to_pylist()]
    errors = [f"{r.key}: {r.error}" for r in found if r.error]
    member = attempt.put_shard(source.shard, ".parquet", write_fixations(found), len(found))
    return shard(source.shard, digest([m.sha256 for m in source.members]), [member], len(found), errors)


def brightest(tar: bytes, row: dict[str, Any]) -> FixationsRow:
    if row["status"] != "ok":
        none = np.empty(0, np.uint16)
        return FixationsRow(row["key"], 0, 0, none, none, np.empty(0, np.float32), row["error"])
    image = decode_png_gray(read_png(tar, row["offset"], row["size"], row["sha256"], row["key"]))
    y, x = (np.array([n], np.uint16) for n in np.unravel_index(image.argmax(), image.shape))
    return FixationsRow(row["key"], SIDE, SIDE, x, y, np.ones(1, np.float32))


def shard(number: int, inputs: str, members: list[Member], samples: int, errors: list[str]) -> ShardRecord:
    return ShardRecord(
        shard=number, shard_key=digest([inputs]), members=members, done=samples - len(errors), failed=len(errors),
        errors=errors, counts={"samples": samples}, seconds=0.25,
    )  # fmt: skip


def manifest(
    attempt: OpenAttempt,
    run: Run,
    records: list[ShardRecord],
    members: Iterable[Member] = (),
    views: Iterable[Member] = (),
) -> Manifest:
    return Manifest(
        kind=attempt.version.kind, version=attempt.version.name, node=attempt.attempt.node, key=attempt.attempt.key,
        members=[*members, *(m for r in records for m in r.members)], views=list(views), shards=records,
        done=sum(r.done for r in records), failed=sum(r.failed for r in records), summary={"shards": len(records)},
        seconds=0.5, published=now(), producer=PRODUCER, run=run.id,
    )  # fmt: skip


def pack(folder: Path, out: Path) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    with (
        out.open("wb") as raw,
        gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for file in files:
            add(tar, file.relative_to(folder).as_posix(), file.read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
