"""A stream gives every sample once, whole, to any number of workers, or says which shard is damaged."""

from __future__ import annotations

import pickle
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.backends import Backend, open_backend
from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.errors import Integrity, InvalidInput, NotFound
from storage.manifest import Manifest
from storage.store import Store
from storage.stream import stream
from tests.storage.labels import Counting, make_labels, open_place


@pytest.fixture(params=["memory", "local", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return open_place(request.param, request, tmp_path)


def ref(manifest: Manifest) -> str:
    return f"{manifest.kind}@{manifest.version}"


def maps_of(samples: Any) -> list[tuple[str, bytes]]:
    return [(s["__key__"], s["saliency.png"]) for s in samples]


def test_maps(place: Backend, tmp_path: Path) -> None:
    labels = make_labels(Store(place))
    counting = Counting(place)
    found = stream(Store(counting), ref(labels.saliency), cache=tmp_path / "cache")
    before = counting.read
    samples = list(found)
    assert maps_of(samples) == list(labels.pngs.items()), "in the order of the shards"
    assert {frozenset(s) for s in samples} == {frozenset({"__key__", "__url__", "saliency.png"})}
    tars = [m for m in labels.saliency.members if m.name.endswith(".tar")]
    assert list(dict.fromkeys(s["__url__"] for s in samples)) == [f"{place.url}/{m.key}" for m in tars]
    assert counting.read - before == sum(m.bytes for m in tars)
    assert maps_of(found) == maps_of(samples), "a second epoch"
    assert counting.read - before == sum(m.bytes for m in tars), "from the cache"


def test_points(place: Backend, tmp_path: Path) -> None:
    labels = make_labels(Store(place))
    found = list(stream(Store(place), ref(labels.fixations), cache=tmp_path / "cache"))
    wanted = [p for part in labels.points for p in part]
    assert [s["__key__"] for s in found] == [s["key"] for s in found] == [p.key for p in wanted]
    for sample, point in zip(found, wanted, strict=True):
        assert sample["x"] == point.x.tolist()
        assert sample["peak"] == point.peak.tolist()
        assert (sample["status"], sample["error"]) == ("failed" if point.error else "ok", point.error)


def test_shards_in_the_order_given(tmp_path: Path) -> None:
    labels = make_labels(Store(MemoryBackend()))
    found = maps_of(stream(labels.store, ref(labels.saliency), [2, 0], cache=tmp_path))
    assert [k for k, _ in found] == [r.key for n in (2, 0) for r in labels.rows[n] if r.png is not None]
    with pytest.raises(NotFound, match="no shards"):
        stream(labels.store, ref(labels.saliency), [3], cache=tmp_path)


def test_filters_of_webdataset(tmp_path: Path) -> None:
    labels = make_labels(Store(MemoryBackend()))
    found = stream(labels.store, ref(labels.saliency), cache=tmp_path).shuffle(50, rng=random.Random(1))
    pairs = list(found.rename(png="saliency.png").to_tuple("__key__", "png"))
    assert dict(pairs) == labels.pngs
    assert [k for k, _ in pairs] != list(labels.pngs)
    assert len(pairs) == len(labels.pngs)


def test_other_kinds(kit: Any, tmp_path: Path) -> None:
    store = Store(MemoryBackend())
    with pytest.raises(InvalidInput, match="expected a saliency or fixations version, found 'teacher'"):
        stream(store, ref(kit.complete(store, kit.key(1, "teacher"))), cache=tmp_path)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_each_sample_once(tmp_path: Path, method: str) -> None:
    from torch.utils.data import DataLoader

    labels = make_labels(Store(LocalBackend(tmp_path / "a % store")), shards=5)
    found = stream(labels.store, ref(labels.saliency), cache=tmp_path / "cache")
    loader = DataLoader(found, batch_size=None, num_workers=2, multiprocessing_context=method)
    samples = list(loader)
    assert sorted(maps_of(samples)) == sorted(labels.pngs.items())
    if method == "fork":
        assert sorted(maps_of(loader)) == sorted(labels.pngs.items()), "a second epoch"


def test_workers_read_from_a_server(s3_place: Any, moto: Any, tmp_path: Path) -> None:
    from torch.utils.data import DataLoader

    labels = make_labels(Store(open_backend(s3_place(moto))), shards=3)
    found = stream(labels.store, ref(labels.saliency), cache=tmp_path / "cache")
    samples = list(DataLoader(found, batch_size=None, num_workers=2, multiprocessing_context="fork"))
    assert sorted(maps_of(samples)) == sorted(labels.pngs.items())
    assert maps_of(pickle.loads(pickle.dumps(found))) == list(labels.pngs.items()), "as a spawned worker has it"


def test_more_workers_than_shards(tmp_path: Path) -> None:
    from torch.utils.data import DataLoader

    labels = make_labels(Store(LocalBackend(tmp_path / "store")), shards=1)
    found = stream(labels.store, ref(labels.saliency), cache=tmp_path / "cache")
    assert sorted(maps_of(DataLoader(found, batch_size=None, num_workers=2))) == sorted(labels.pngs.items())


def test_nodes_read_other_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = make_labels(Store(MemoryBackend()), shards=5)
    found = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        found.append(maps_of(stream(labels.store, ref(labels.saliency), cache=tmp_path)))
    assert Counter(found[0] + found[1]) == Counter(labels.pngs.items())
    assert all(found)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    from torch.utils.data import DataLoader

    labels = make_labels(Store(LocalBackend(tmp_path / "store")))
    member = labels.saliency.members[2]
    data = labels.store.read(member)
    labels.store.backend.replace(member.key, data[: 512 * 40])  # at the border of a block
    found = stream(labels.store, ref(labels.saliency), cache=tmp_path / "cache")
    with pytest.raises(Integrity, match=member.key):
        list(found)
    with pytest.raises(Integrity, match=member.key):
        list(DataLoader(found, batch_size=None, num_workers=2))
    labels.store.backend.replace(member.key, data)
    assert maps_of(found) == list(labels.pngs.items()), "nothing of the damaged one was kept"


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_every_changed_byte_is_found(data: st.DataObject) -> None:
    labels = make_labels(Store(MemoryBackend()), shards=2, per_shard=6, classes=2)
    backend = labels.store.backend
    manifest: Manifest = data.draw(st.sampled_from([labels.saliency, labels.fixations]))
    members = [m for m in manifest.members if m.name.endswith(".tar") or manifest.kind == "fixations"]
    member = data.draw(st.sampled_from(members))
    whole = backend.get(member.key)
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[:at] + bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[at + 1 :]
    harmed = data.draw(st.sampled_from([flipped, whole[:at], whole + b"\0", whole[: at // 512 * 512]]))
    cached = data.draw(st.booleans())
    with tempfile.TemporaryDirectory() as folder:
        found = stream(labels.store, ref(manifest), cache=Path(folder))
        first = list(found)
        if cached:  # the damage is in the cache: it is fetched anew
            (Path(folder) / member.sha256).write_bytes(harmed)
            assert list(found) == first
        else:
            (Path(folder) / member.sha256).unlink()
            backend.replace(member.key, harmed)
            with pytest.raises(Integrity, match=member.key):
                list(found)
