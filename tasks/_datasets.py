"""Datasets of a config: generated when asked for, indexed in the store, opened by fingerprint."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from storage.canonical import canonical_json, digest
from storage.datasets import open_dataset
from storage.datasets.base import Reader
from storage.datasets.index import DatasetIndex, build_index
from storage.errors import NotFound
from storage.store import Store


class DatasetConfig(BaseModel):
    """One source of images: its format, where it lies, the format's own options."""

    model_config = ConfigDict(frozen=True)

    format: str
    path: str
    generate: dict[str, Any] | None = None  # write it procedurally when it is not there
    options: dict[str, Any] = {}


@dataclass(frozen=True)
class OpenDataset:
    """A source with its index: what there is, and how to read it."""

    name: str
    reader: Reader
    index: DatasetIndex

    def identity(self, options: dict[str, Any]) -> dict[str, Any]:
        """What of it stands in a key: the bytes, and the options by which they are read."""
        places = getattr(self.reader, "locations", ())
        read_by = {k: v for k, v in options.items() if k not in places}
        return {"format": self.index.format, "fingerprint": self.index.fingerprint, "options": read_by}


def refresh(store: Store, name: str, config: DatasetConfig, rehash: bool = False) -> OpenDataset:
    """List a source, hash what is new or changed, and keep its index in the store.

    Raises NotFound or InvalidInput when the source is missing or holds nothing of its format.
    """
    if config.generate is not None:
        from storage.datasets.procedural import generate

        generate(config.format, Path(config.path), config.generate)
    reader = open_dataset(config.format, config.path, **config.options)
    pointer = _pointer(config)
    previous = None if rehash else _last_index(store, pointer)
    index = build_index(reader, previous)
    if previous is None or index.to_parquet() != previous.to_parquet():
        store.backend.create(f"datasets/{index.fingerprint}.parquet", index.to_parquet())
        store.backend.replace(pointer, index.to_parquet())
    return OpenDataset(name, reader, index)


def reopen(store: Store, name: str, config: DatasetConfig) -> OpenDataset:
    """Open a source by the index its last `refresh` left, listing nothing."""
    index = _last_index(store, _pointer(config))
    if index is None:
        raise NotFound(f"dataset {name!r}: expected its index in {store.backend.url}, found none; run the pipeline")
    return OpenDataset(name, open_dataset(config.format, config.path, **config.options), index)


def refreshed(
    store: Store, configs: Mapping[str, DatasetConfig], used: Collection[str], rehash: bool = False
) -> dict[str, OpenDataset]:
    """Datasets by name: the used ones as they are now, the others as last seen, listed if never."""
    datasets = {n: refresh(store, n, c, rehash) for n, c in configs.items() if n in used}
    for name, config in configs.items():
        if name not in used:
            try:
                datasets[name] = reopen(store, name, config)
            except NotFound:
                datasets[name] = refresh(store, name, config)
    return datasets


def _pointer(config: DatasetConfig) -> str:
    """Where the index of this source as last listed lies: one object per source and way of reading."""
    place = config.path if "://" in config.path else str(Path(config.path).absolute())
    source = canonical_json([config.format, place, config.options])
    return f"datasets/sources/{digest(source.decode())[:16]}.parquet"


def _last_index(store: Store, pointer: str) -> DatasetIndex | None:
    if store.backend.size(pointer) is None:
        return None
    return DatasetIndex.from_parquet(store.backend.get(pointer))

