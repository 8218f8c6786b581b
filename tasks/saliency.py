"""Stage `saliency`: label images with the teacher's maps, shard by shard."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from storage.canonical import digest
from storage.datasets.base import Image
from storage.errors import InvalidInput
from storage.images import decode_rgb, encode_png_gray
from storage.manifest import Manifest, ShardRecord
from storage.parallel import ordered_map
from storage.shards import SaliencyRow, write_saliency
from tasks._datasets import OpenDataset
from tasks._stage import Context, Input, Params, Result, Shard, Sharded, ShardResult, Stage

if TYPE_CHECKING:
    from models.teacher import Teacher

BATCH = 64  # images handed to the teacher at once; its labels do not depend on this


class SaliencyParams(Params):
    """How maps are made and stored."""

    size: int = Field(224, ge=8, description="side of the stored maps, pixels")
    dtype: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    device: Literal["cpu", "cuda"] = "cpu"
    decoder: Literal["simplejpeg"] = "simplejpeg"


@dataclass(frozen=True)
class Decoded:
    """An image ready for the teacher, or the reason why it is not."""

    image: Image
    squashed: NDArray[np.uint8] | None
    width: int = 0
    height: int = 0
    error: str = ""


def plan(inputs: Mapping[str, Sequence[Manifest]], datasets: Mapping[str, Sequence[OpenDataset]]) -> list[Shard]:
    """One label shard for each image shard; its inputs are the teacher's weights and the images' bytes."""
    weights = inputs["teacher"][0].member("checkpoint.safetensors").sha256
    index = datasets["images"][0].index
    return [
        Shard(n, len(index.shard(n)), digest([weights, index.shard_digest(n)])) for n in range(index.shards())
    ]


def run(context: Context, shards: Iterable[Shard]) -> Iterator[ShardResult]:
    """Label shards one after another, decoding ahead of the teacher and across shard borders."""
    import torch

    from tasks.teacher import load_teacher

    p: SaliencyParams = context.params
    teacher = load_teacher(context.store, context.inputs["teacher"][0]).to(p.device)
    layout = torch.channels_last if p.channels_last else torch.contiguous_format
    teacher = teacher.to(memory_format=layout)
    for shard in shards:
        yield _label_shard(context, teacher, shard)


def _label_shard(context: Context, teacher: Teacher, shard: Shard) -> ShardResult:
    p: SaliencyParams = context.params
    dataset = context.datasets["images"][0]
    images = dataset.index.shard(shard.number)
    side = teacher.config.size

    def decode(image: Image) -> Decoded:
        return decoded(dataset, image, side)

    def encode(item: tuple[Decoded, NDArray[np.float32] | None]) -> SaliencyRow:
        return row_of(item[0], item[1], p.size)

    threads = context.settings.decoders
    ready = ordered_map(decode, images, threads, 2 * BATCH)
    maps = _predicted(teacher, ready, p)
    rows = list(ordered_map(encode, maps, threads, 2 * BATCH))
    tar, index = write_saliency(rows)
    failed = [r for r in rows if r.error]
    members = [
        context.attempt.put_shard(shard.number, ".tar", tar, len(rows) - len(failed)),
        context.attempt.put_shard(shard.number, ".parquet", index, len(rows)),
    ]
    return ShardResult(
        shard,
        members,
        done=len(rows) - len(failed),
        failed=len(failed),
        errors=[f"{r.key}: {r.error}" for r in failed],
        counts={"entropy": float(sum(r.entropy for r in rows))},
    )


def decoded(dataset: OpenDataset, image: Image, side: int) -> Decoded:
    """Read, decode and squash an image; one that cannot be decoded carries its error."""
    from models.augment import squash
    from tasks._data.images import read_verified

    try:
        pixels = decode_rgb(read_verified(dataset, image))
    except InvalidInput as error:
        return Decoded(image, None, error=str(error))
    return Decoded(image, squash(pixels, side), pixels.shape[1], pixels.shape[0])


def _predicted(
    teacher: Teacher, ready: Iterable[Decoded], p: SaliencyParams
) -> Iterator[tuple[Decoded, NDArray[np.float32] | None]]:
    """Each image with its density, in order; None for a broken one."""
    items = iter(ready)
    while waiting := list(itertools.islice(items, BATCH)):
        yield from _forward(teacher, waiting, p)


def _forward(
    teacher: Teacher, items: Sequence[Decoded], p: SaliencyParams
) -> Iterator[tuple[Decoded, NDArray[np.float32] | None]]:
    import torch

    from models.teacher_training import DTYPES

    good = [i.squashed for i in items if i.squashed is not None]
    densities: Iterator[NDArray[np.float32]] = iter(())
    if good:
        pictures = torch.from_numpy(np.stack(good)).movedim(-1, 1).to(p.device)
        densities = iter(teacher.density(pictures, DTYPES[p.dtype]).cpu().numpy())
    for item in items:
        yield item, None if item.squashed is None else next(densities)


def row_of(item: Decoded, density: NDArray[np.float32] | None, size: int) -> SaliencyRow:
    """An image's row: its density at the stored size, divided by its maximum, as an 8-bit PNG."""
    import torch

    from models.teacher import label_map

    image = item.image
    if density is None:
        return SaliencyRow(image.key, image.label, image.sha256, error=item.error)
    resized = _resized(density, size)
    pixels = label_map(torch.from_numpy(resized)).numpy()
    return SaliencyRow(
        key=image.key,
        label=image.label,
        source_sha256=image.sha256,
        png=encode_png_gray(pixels),
        width=item.width,
        height=item.height,
        peak=float(resized.max()),
        entropy=_entropy_bits(resized),
    )


def _resized(density: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """A density at another size, averaged over areas when it shrinks, sum 1."""
    if density.shape == (size, size):
        return density
    way = cv2.INTER_AREA if size < density.shape[0] else cv2.INTER_LINEAR
    values = cv2.resize(density, (size, size), interpolation=way)
    return (values / values.sum(dtype=np.float64)).astype(np.float32)


def _entropy_bits(density: NDArray[np.float32]) -> float:
    positive = density[density > 0].astype(np.float64)
    return float(-(positive * np.log2(positive)).sum())


def finish(context: Context, records: Sequence[ShardRecord]) -> Result:
    """The headline figures of a label set, and a gallery of its first maps."""
    from tasks._report.gallery import label_gallery

    done = sum(r.done for r in records)
    entropy = sum(r.counts["entropy"] for r in records) / max(1, done)
    summary: dict[str, Any] = {"shards": len(records), "images": done, "mean_entropy_bits": round(entropy, 3)}
    gallery = label_gallery(context.store, context.datasets["images"][0], records)
    return Result(members=[], views=[context.picture("gallery.png", gallery)], summary=summary)


STAGE = Stage(
    name="saliency",
    version=1,
    title="Label images with the teacher's saliency maps, as WebDataset shards",
    params=SaliencyParams,
    run=Sharded(plan, run, finish),
    inputs={"teacher": Input("teacher", "teacher")},
    datasets={"images": "images"},
)
