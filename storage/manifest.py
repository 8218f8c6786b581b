"""The JSON records of a store: what opens an attempt, what a shard left, what closes a version.

Everything read from a store is data from outside: sizes are capped before parsing, keys are checked, an
unknown format is refused.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import from_json

from storage.backends.base import check_key
from storage.canonical import digest, pretty_json
from storage.errors import Format

STORE_FORMAT = 1
RECORD_LIMIT = 64 * 2**20  # bytes; a manifest of 10,000 shards takes about 6 MB

_KEY = re.compile(r"artifacts/[a-z0-9][a-z0-9._-]{0,63}/.+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Record(BaseModel):
    """A frozen record that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_bytes(self) -> bytes:
        """The record as it is stored: its fields, and `digest`, theirs, so that a changed byte is seen."""
        fields = self.model_dump(mode="json")
        return pretty_json(fields | {"digest": digest(fields)})


class Member(Record):
    """One object of an artifact: `name` is what people see, `key` where it lies."""

    name: str
    key: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    samples: int = Field(0, ge=0)

    @field_validator("key")
    @classmethod
    def _key_is_ours(cls, key: str) -> str:
        if not _KEY.fullmatch(key):
            raise ValueError(f"expected artifacts/<kind>/..., found {key[:200]!r}")
        return check_key(key)

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"expected a plain file name, found {name[:200]!r}")
        return name


class Key(Record):
    """All that decides a result; its digest names the version."""

    stage: str
    stage_version: int
    params: dict[str, Any]
    inputs: dict[str, list[str]]  # role -> versions, as kind@version
    datasets: dict[str, list[dict[str, Any]]]  # role -> fingerprints with the options of their reading
    format: int = STORE_FORMAT

    def digest(self) -> str:
        return digest(self.model_dump(mode="json"))


class Producer(Record):
    """What made a result: release, code, libraries, device. Told, never part of a key."""

    release: str
    commit: str | None
    python: str
    torch: str | None
    device: str
    create_only: bool = True  # False: the store overwrites what it should refuse to, and its user accepted that


class ShardRecord(Record):
    """A finished shard: its members, what it counted, what it cost."""

    shard: int
    shard_key: str
    members: list[Member]
    done: int
    failed: int
    errors: list[str] = []  # the first few failed samples: "key: message"
    counts: dict[str, Any] = {}  # what the stage sums over shards
    seconds: float = 0.0
    adopted: str | None = None  # the version this shard was taken over from


class Attempt(Record):
    """Opens a version: the whole key, why it was made, and which shards are to be redone."""

    kind: str
    version: str
    node: str
    key: Key
    reason: str
    base: str | None = None  # the version a forced attempt starts from
    redo: list[int] | None = None  # shards of the base to make again; None: all
    opened: str
    run: str


class Manifest(Record):
    """Closes a version: written last, so that its presence means complete."""

    kind: str
    version: str
    node: str
    key: Key
    members: list[Member]  # results: compared, verified, pulled
    views: list[Member]  # pictures, reports, timings: made from results, never compared
    shards: list[ShardRecord] = []
    done: int
    failed: int
    summary: dict[str, Any] = {}  # headline figures of the result
    seconds: float
    published: str
    producer: Producer
    run: str

    @model_validator(mode="after")
    def _names_are_unique(self) -> Manifest:
        names = [m.name for m in (*self.members, *self.views)]
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise ValueError(f"expected every member to have a name of its own, found {twice!r} twice")
        return self

    @property
    def ref(self) -> str:
        return f"{self.kind}@{self.version}"

    def result_digest(self) -> str:
        """What two attempts must share to be equal: name and SHA-256 of every result member."""
        return digest(sorted((m.name, m.sha256) for m in self.members))

    def member(self, name: str) -> Member:
        for member in (*self.members, *self.views):
            if member.name == name:
                return member
        raise Format(
            f"{self.kind}@{self.version}: expected a member {name!r}, found {[m.name for m in self.members][:8]}"
        )


R = TypeVar("R", bound=Record)


def parse(record: type[R], data: bytes, where: str) -> R:
    """Read a record. Raises Format naming the object and the first field that is wrong, or that its bytes changed."""
    next_step = "Another release may have written it"
    try:
        fields = from_json(data, allow_inf_nan=False)
        stated = fields.pop("digest", None) if isinstance(fields, dict) else None
        found = record.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(str(p) for p in first['loc']) or 'the whole'}: {first['msg']}"
    except ValueError as error:  # no JSON
        problem = f"the whole: {error}"
    else:
        if stated in (None, digest(fields)):  # records of older releases state none
            return found
        problem = f"expected fields of the digest {stated!r:.80}, found {digest(fields)}: its bytes changed"
        next_step = "Put back a copy; or delete a manifest or a shard's record, which the next run then makes anew"
    raise Format(
        f"{where}: not a {record.__name__.lower()} of store format {STORE_FORMAT}: {problem}; "
        f"it was left as it is. {next_step}"
    ) from None
