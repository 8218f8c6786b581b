"""What `pull --classes` leaves is a version of these samples alone, and it reads little else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage._landing import RECORD
from storage.backends import Backend
from storage.backends.memory import MemoryBackend
from storage.canonical import sha256
from storage.datasets.index import DatasetIndex
from storage.errors import InvalidInput, NotFound, Transient
from storage.manifest import Manifest
from storage.pull import MARKER, pull
from storage.shards import write_fixations, write_saliency
from storage.store import Store
from tests.storage.labels import FINGERPRINT, Counting, Labels, make_labels, open_place


@pytest.fixture(params=["memory", "local", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return open_place(request.param, request, tmp_path)


@pytest.fixture
def labels() -> Labels:
    return make_labels(Store(MemoryBackend()))


def expected(labels: Labels, kind: str, chosen: set[int]) -> dict[str, bytes]:
    """The files that the stages would have made of these samples alone."""
    files: dict[str, bytes] = {}
    for n, (rows, points) in enumerate(zip(labels.rows, labels.points, strict=True)):
        keep = [r.label in chosen for r in rows]
        if kind == "fixations":
            files[f"fixations-{n:06d}.parquet"] = write_fixations(p for p, k in zip(points, keep, strict=True) if k)
        else:
            tar, index = write_saliency(r for r, k in zip(rows, keep, strict=True) if k)
            files |= {f"saliency-{n:06d}.tar": tar, f"saliency-{n:06d}.parquet": index}
    return files


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != MARKER}


@pytest.mark.parametrize("kind", ["saliency", "fixations"])
def test_shards_of_some_classes(place: Backend, tmp_path: Path, kind: str) -> None:
    labels = make_labels(Store(place))
    manifest: Manifest = getattr(labels, kind)
    names = [labels.classes[3], labels.classes[0], labels.classes[3]]
    told: list[tuple[int, int]] = []
    dry = pull(place, manifest, tmp_path, classes=names, dry_run=True)
    assert not (tmp_path / f"{kind}@{manifest.version}").exists()
    done = pull(place, manifest, tmp_path, classes=names, progress=lambda *n: told.append(n))
    assert done == dry
    folder = Path(done["folder"])
    files = expected(labels, kind, {0, 3})
    assert contents(folder) == files
    assert done["samples"] == 36
    assert any(r.error for part in labels.rows for r in part if r.label in (0, 3)), "broken ones are among them"
    assert json.loads((folder / MARKER).read_bytes()) == {
        "ref": f"{kind}@{manifest.version}",
        "subset": True,
        "classes": sorted({labels.classes[0], labels.classes[3]}),
        "files": {name: sha256(data) for name, data in files.items()},
    }
    assert told[-1] == (done["bytes"], done["bytes"])
    assert all(a <= b for a, b in told)

    counting = Counting(place)
    again = pull(counting, manifest, tmp_path, classes=names, progress=lambda *n: pytest.fail("nothing came"))
    assert (again["copied"], again["samples"], again["bytes_there"]) == (0, 36, sum(map(len, files.values())))
    assert counting.read < 200_000, "the names of classes are looked up, no shard is"


def test_progress_is_of_what_comes(labels: Labels, tmp_path: Path) -> None:
    pull(labels.store.backend, labels.saliency, tmp_path, shards=[0, 2], classes=labels.classes[:1])
    told: list[tuple[int, int]] = []
    done = pull(
        labels.store.backend, labels.saliency, tmp_path, classes=labels.classes[:1], progress=lambda *n: told.append(n)
    )
    whole = done["bytes_there"] + done["bytes"]
    assert (done["copied"], told) == (2, [(whole, whole)])


def test_what_is_read(tmp_path: Path) -> None:
    backend = Counting(MemoryBackend())
    labels = make_labels(Store(backend), shards=4, per_shard=200, classes=50, side=64)
    before = backend.read
    pull(backend, labels.saliency, tmp_path, classes=[labels.classes[7]])
    indexes = sum(m.bytes for m in labels.saliency.members if m.name.endswith(".parquet"))
    footer = backend.size(f"datasets/{FINGERPRINT}.parquet")
    maps = sum(len(r.png or b"") for rows in labels.rows for r in rows if r.label == 7)
    assert backend.read - before <= 1.1 * (maps + indexes) + footer


def test_neighbours_are_read_at_once(tmp_path: Path) -> None:
    backend = Counting(MemoryBackend())
    labels = make_labels(Store(backend), shards=1, per_shard=100, classes=2, broken=lambda n: False)
    tar = labels.saliency.members[0]
    asked: list[tuple[int, int]] = []
    inner = backend.get_range

    def get_range(key: str, offset: int, size: int) -> bytes:
        if key == tar.key:
            asked.append((offset, size))
        return inner(key, offset, size)

    backend.get_range = get_range  # type: ignore[method-assign]
    pull(backend, labels.saliency, tmp_path, classes=labels.classes)
    assert asked == [(512, sum(s for _, s in asked))], "all maps of a shard are one range"


def test_what_is_pulled_reads_like_any_shard(labels: Labels, tmp_path: Path) -> None:
    import webdataset as wds

    folder = pull(labels.store.backend, labels.saliency, tmp_path, classes=[labels.classes[2]])["folder"]
    found = wds.WebDataset(f"{folder}/saliency-{{000000..000002}}.tar", shardshuffle=False)
    maps = {s["__key__"]: s["saliency.png"] for s in found}
    assert maps == {k: v for k, v in labels.pngs.items() if k.startswith(labels.classes[2])}


def test_shards_and_classes_together(labels: Labels, tmp_path: Path) -> None:
    backend, names = labels.store.backend, [labels.classes[1]]
    folder = Path(pull(backend, labels.saliency, tmp_path, shards=[2, 0], classes=names)["folder"])
    files = expected(labels, "saliency", {1})
    assert contents(folder) == {n: d for n, d in files.items() if "000001" not in n}
    done = pull(backend, labels.saliency, tmp_path, classes=names)
    assert done["copied"] == 2
    assert done["samples"] == 18
    assert contents(folder) == files


def test_a_class_that_some_shards_lack(tmp_path: Path) -> None:
    store = Store(MemoryBackend())
    labels = make_labels(store, shards=6, per_shard=2, classes=12, broken=lambda n: False)
    folder = Path(pull(store.backend, labels.saliency, tmp_path, classes=[labels.classes[4]])["folder"])
    assert contents(folder) == expected(labels, "saliency", {4}), "empty shards keep the names in a row"


def test_unknown_classes_and_kinds(kit: Any, labels: Labels, tmp_path: Path) -> None:
    backend = labels.store.backend
    with pytest.raises(NotFound, match=r"class 'n0144801': not one of the 5 of saliency@.*did you mean 'n01440801'"):
        pull(backend, labels.saliency, tmp_path, classes=[labels.classes[0], "n0144801"])
    with pytest.raises(InvalidInput, match="expected at least one"):
        pull(backend, labels.saliency, tmp_path, classes=[])
    with pytest.raises(NotFound, match="no shards"):
        pull(backend, labels.saliency, tmp_path, shards=[9], classes=labels.classes[:1])
    teacher = kit.complete(labels.store, kit.key(3, "teacher"))
    with pytest.raises(InvalidInput, match="classes are chosen of saliency and fixations, found 'teacher'"):
        pull(backend, teacher, tmp_path, classes=labels.classes[:1])
    without = kit.complete(labels.store, kit.key(3))
    with pytest.raises(InvalidInput, match="expected labels of one data set, found 0"):
        pull(backend, without, tmp_path, classes=labels.classes[:1])
    backend.delete(f"datasets/{FINGERPRINT}.parquet")
    with pytest.raises(NotFound, match="no such data set index"):
        pull(backend, labels.saliency, tmp_path, classes=labels.classes[:1])
    assert list(tmp_path.iterdir()) == []


def test_selections_do_not_mix(labels: Labels, tmp_path: Path) -> None:
    backend, a, b = labels.store.backend, labels.classes[:1], labels.classes[1:2]
    pull(backend, labels.saliency, tmp_path / "a", classes=a)
    pull(backend, labels.saliency, tmp_path / "whole")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for dest, classes, found in (("a", b, f"the classes {a[0]}"), ("a", None, "the classes"), ("whole", a, "all clas")):
        for dry_run in (False, True):
            with pytest.raises(InvalidInput, match=f"found a pull of {found}.*Name another DEST"):
                pull(backend, labels.saliency, tmp_path / dest, classes=classes, dry_run=dry_run)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    (tmp_path / "whole" / f"saliency@{labels.saliency.version}" / MARKER).unlink()
    with pytest.raises(InvalidInput, match=r"found files and no gazeflow\.json"):
        pull(backend, labels.saliency, tmp_path / "whole", classes=a)
    assert pull(backend, labels.saliency, tmp_path / "whole")["copied"] == 0


@pytest.mark.parametrize("kind", ["saliency", "fixations"])
def test_an_interrupted_pull_goes_on(labels: Labels, tmp_path: Path, kind: str) -> None:
    backend, manifest, names = labels.store.backend, getattr(labels, kind), [labels.classes[1]]
    whole = Counting(backend)
    pull(whole, manifest, tmp_path / "whole", classes=names)
    broken = Counting(backend, die_after=int(whole.read * 0.8))
    with pytest.raises(Transient):
        pull(broken, manifest, tmp_path, classes=names)
    folder = tmp_path / f"{kind}@{manifest.version}"
    assert not (folder / MARKER).exists()
    assert (folder / RECORD).exists()
    for other in (labels.classes[:1], None):
        with pytest.raises(InvalidInput, match="found a pull of the classes"):
            pull(backend, manifest, tmp_path, classes=other)
    (folder / RECORD).write_bytes((folder / RECORD).read_bytes() + b'\n{"saliency-0000')  # torn by a crash
    rest = Counting(backend)
    pull(rest, manifest, tmp_path, classes=names)
    assert rest.read < whole.read * 0.95, "finished shards are not read again"
    assert contents(folder) == expected(labels, kind, {1})


def test_a_damaged_file_is_made_again(labels: Labels, tmp_path: Path) -> None:
    pull_it: Callable[[], dict[str, Any]] = lambda: pull(  # noqa: E731
        labels.store.backend, labels.saliency, tmp_path, classes=[labels.classes[1]]
    )
    folder = Path(pull_it()["folder"])
    for name in ("saliency-000001.tar", "saliency-000002.parquet"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    done = pull_it()
    assert (done["copied"], done["samples"]) == (2, 18)
    assert contents(folder) == expected(labels, "saliency", {1})


def test_class_names_come_from_the_footer_alone(tmp_path: Path) -> None:
    inner = MemoryBackend()
    labels = make_labels(Store(inner))
    index = DatasetIndex.from_parquet(inner.get(f"datasets/{FINGERPRINT}.parquet"))
    keys = [f"{random.Random(n).randbytes(20).hex()}" for n in range(30_000)]
    columns = {n: pa.nulls(len(keys), index.table.schema.field(n).type) for n in index.table.schema.names}
    table = pa.table(columns | {"key": pa.array(keys)}, schema=index.table.schema)
    big = replace(index, table=pa.concat_tables([index.table, table]))
    inner.replace(f"datasets/{FINGERPRINT}.parquet", big.to_parquet())
    assert inner.size(f"datasets/{FINGERPRINT}.parquet") > 500_000
    backend = Counting(inner)
    pull(backend, labels.fixations, tmp_path, classes=labels.classes[:1])
    rest = sum(m.bytes for m in labels.fixations.members) + len(labels.saliency.to_bytes())
    rest += sum(m.bytes for m in labels.saliency.members if m.name.endswith(".parquet"))
    assert backend.read - rest < 100_000
