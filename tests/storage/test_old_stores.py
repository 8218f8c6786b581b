"""A store that an old release wrote stays readable (tests/data/make_store_v1.py says what is in it)."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from storage.attempt import OpenAttempt, open_attempt
from storage.datasets.index import DatasetIndex
from storage.images import decode_png_gray
from storage.pull import pull
from storage.runs import last_run, living
from storage.shards import FIXATIONS_SCHEMA, SALIENCY_SCHEMA, read_png, read_table
from storage.store import Store
from storage.verify import damaged

ARCHIVE = Path(__file__).parent.parent / "data" / "store-v1.tar.gz"
KEYS = ["a/plain", "a/v1_0", "日本/東京", "b/" + "x" * 150, "b/50%25 off", "b/broken"]
VERSIONS = [  # kind, version, state, the result's digest
    ("fixations", "8587356518ec", "complete", "47f904573a4f8079"),
    ("fixations", "c7a360dabd88", "open", ""),
    ("saliency", "288bcdf760e2", "complete", "8a9e0ae71efc95f0"),
    ("saliency", "288bcdf760e2-2", "complete", "67769e2a67cd8d1e"),
    ("saliency", "288bcdf760e2-3", "closed", ""),
    ("teacher", "0dd147af8969", "open", ""),
    ("teacher", "6bf1588b5446", "complete", "05f8dba9dfeba99a"),
]
COMPLETE = [f"{kind}@{name}" for kind, name, state, _ in VERSIONS if state == "complete"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("store-v1")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(found, filter="data")
    return found


@pytest.fixture
def store(folder: Path) -> Store:
    return Store.open(f"file://{folder}")


def test_versions_and_digests(store: Store) -> None:
    found = [v for kind in store.kinds() for v in store.versions(kind)]
    assert [(v.kind, v.name, v.state) for v in found] == [v[:3] for v in VERSIONS]
    digests = [store.resolve(v.ref).result_digest()[:16] if v.state == "complete" else "" for v in found]
    assert digests == [v[3] for v in VERSIONS]


def test_keys_still_have_their_digests(store: Store) -> None:
    """Were canonical JSON or the key's fields to change, every version would be made again."""
    for kind, name, _, _ in VERSIONS:
        attempt = store.attempt(store.version(kind, name))
        assert attempt.key.digest()[:12] == name[:12]
    key = store.resolve("saliency@288bcdf760e2").key
    standing = store.complete("saliency", key.digest())
    assert standing is not None
    assert standing.ref == "saliency@288bcdf760e2-2"


@pytest.mark.parametrize("ref", COMPLETE)
def test_verify_and_pull(store: Store, ref: str, tmp_path: Path) -> None:
    manifest = store.resolve(ref)
    assert list(damaged(store.backend, manifest, deep=True)) == []
    pulled = pull(store.backend, manifest, tmp_path)
    assert pulled["copied"] == len(manifest.members) > 0
    marker = json.loads((tmp_path / ref / "gazeflow.json").read_bytes())
    assert marker["ref"] == ref


def test_label_rows(store: Store) -> None:
    keys: list[str] = []
    for record in store.resolve("saliency@288bcdf760e2-2").shards:
        tar, index = (store.read(m) for m in record.members)
        rows = read_table(index, SALIENCY_SCHEMA, "index").to_pylist()
        for row in rows:
            if row["status"] == "ok":
                png = read_png(tar, row["offset"], row["size"], row["sha256"], row["key"])
                pixels = decode_png_gray(png)
                assert (pixels.shape, pixels.max()) == ((16, 16), 255)
                assert (row["width"], row["height"]) == (48, 36)
                assert 0 < row["peak"] < 1
                assert 0 < row["entropy"] < 8
        assert [r["status"] for r in rows].count("failed") == record.failed
        keys += [r["key"] for r in rows]
    assert keys == KEYS


def test_fixation_rows(store: Store) -> None:
    members = store.resolve("fixations@8587").members
    rows = [row for m in members for row in read_table(store.read(m), FIXATIONS_SCHEMA, m.key).to_pylist()]
    assert [r["key"] for r in rows] == KEYS
    assert [r["x"] for r in rows] == [[5], [0], [14], [7], [11], []]
    assert [r["y"] for r in rows] == [[0], [11], [0], [12], [14], []]
    assert rows[-1]["status"] == "failed"
    assert rows[-1]["error"].startswith("image: expected a JPEG, PNG or WebP")


def test_open_attempts_are_resumed(store: Store) -> None:
    version = store.version("fixations", "c7a360dabd88")
    attempt = open_attempt(store, store.attempt(version).key, "fixations", "again", "another run")
    assert attempt.version == version
    assert list(attempt.finished()) == [0]
    training = store.version("teacher", "0dd147af8969")
    saved = OpenAttempt(store, training, store.attempt(training)).last_checkpoint()
    assert saved is not None
    assert (saved[0], len(saved[1]), saved[2]) == (3, 80, {"epoch": 3})


def test_dataset_index_and_run(store: Store) -> None:
    key = store.resolve("saliency@288bcdf760e2").key
    (dataset,) = key.datasets["images"]
    index = DatasetIndex.from_parquet(store.backend.get(f"datasets/{dataset['fingerprint']}.parquet"))
    assert (index.format, index.fingerprint) == ("webdataset_tar", dataset["fingerprint"])
    assert [image.key for n in range(index.shards()) for image in index.shard(n)] == KEYS
    (pointer,) = [e.key for e in store.backend.entries("datasets/sources/")]
    assert DatasetIndex.from_parquet(store.backend.get(pointer)).table.equals(index.table)
    record = last_run(store)
    assert (record["state"], record["command"]) == ("completed", "gazeflow run example.toml")
    assert not living(record)
