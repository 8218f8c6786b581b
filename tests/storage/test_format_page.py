"""storage/FORMAT.md says what the code does: its tables are compared with the schemas and the records."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import BaseModel

import storage.manifest
from storage._garbage import Collected
from storage._landing import Marker
from storage.datasets.index import _SCHEMA
from storage.gc import Announcement
from storage.manifest import STORE_FORMAT, Attempt, Key, Manifest, Member, Producer, ShardRecord
from storage.shards import FIXATIONS_SCHEMA, SALIENCY_SCHEMA
from storage.tags import TagEntry

PAGE = (Path(storage.manifest.__file__).parent / "FORMAT.md").read_text()


def table(heading: str) -> dict[str, str]:
    """Names and types of the first table under a heading."""
    section = PAGE.split(f"# {heading}\n")[1].split("\n#")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", section, re.MULTILINE)
    return {name: kind for names, kind in rows for name in re.findall(r"`(\w+)`", names)}


@pytest.mark.parametrize(
    ("heading", "schema"),
    [("Saliency shards", SALIENCY_SCHEMA), ("Fixations shards", FIXATIONS_SCHEMA), ("Data set indexes", _SCHEMA)],
)
def test_columns(heading: str, schema: pa.Schema) -> None:
    told = table(heading)
    types = {f.name: str(f.type).replace("item: ", "").replace("<", "&lt;").replace(">", "&gt;") for f in schema}
    assert list(told) == schema.names
    assert told == types


@pytest.mark.parametrize(
    ("heading", "record"),
    [("`attempt.json`", Attempt), ("`key`", Key), ("`manifest.json`", Manifest), ("member", Member),
     ("shard record", ShardRecord), ("tag entry", TagEntry)],
)  # fmt: skip
def test_fields(heading: str, record: type[BaseModel]) -> None:
    told = table(heading)
    assert set(told) == set(record.model_fields)
    optional = {name for name, kind in told.items() if "=" in kind}
    assert optional == {name for name, field in record.model_fields.items() if not field.is_required()}


def test_producer_and_number() -> None:
    assert PAGE.startswith(f"# Store format {STORE_FORMAT}\n")
    assert ", ".join(f"`{name}`" for name in Producer.model_fields) in PAGE


@pytest.mark.parametrize("record", [Collected, Announcement, Marker])
def test_small_records(record: type[BaseModel]) -> None:
    """Those without a table are told as {"field", "field"}."""
    told = [re.findall('"([a-z_]+)"', r) for r in re.findall(r"`(\{\".*?\})`", PAGE)]
    assert list(record.model_fields) in told
