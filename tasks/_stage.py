"""What a stage is: one declaration from which its Prefect task, config table, key and README row all come.

A stage is one public file of this folder with a constant `STAGE`. The file declares; its functions import
models when they run, so that `gazeflow --help` and `plan` start without torch.
"""

from __future__ import annotations

import base64
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

import tasks
from storage.errors import InvalidInput
from storage.manifest import Manifest, Member, ShardRecord
from storage.store import Store
from tasks._mistakes import nearest

if TYPE_CHECKING:
    from storage.attempt import OpenAttempt
    from tasks._datasets import OpenDataset
    from tasks._settings import Settings


class Params(BaseModel):
    """Base of every stage's params: all that changes its result, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Event(BaseModel):
    """Something a running stage tells: shown on the terminal and on the Prefect run page."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["progress", "log", "table", "picture", "shard"]
    text: str = ""  # the message, or a title
    done: float = 0  # progress: so many of `total` `unit`s
    total: float = 0
    unit: str = ""
    rows: list[dict[str, Any]] = []  # table
    png: str = ""  # picture: base64
    record: ShardRecord | None = None  # shard: finished


@dataclass(frozen=True)
class Input:
    """A role that other nodes' artifacts play for a stage."""

    kind: str
    node: str  # the node that plays it unless the config says otherwise
    many: bool = False


@dataclass(frozen=True)
class Shard:
    """One shard to make: its number, its samples and the digest of its own inputs."""

    number: int
    samples: int
    inputs: str


@dataclass(frozen=True)
class ShardResult:
    """What one shard came to, its members already stored."""

    shard: Shard
    members: list[Member]
    done: int
    failed: int
    errors: list[str] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What an unsharded stage came to, its members already stored."""

    members: list[Member]
    views: list[Member] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    done: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Context:
    """All that a running stage sees of the world."""

    params: Any  # the stage's own Params
    inputs: Mapping[str, Sequence[Manifest]]  # by role
    datasets: Mapping[str, Sequence[OpenDataset]]  # by role
    store: Store
    attempt: OpenAttempt
    settings: Settings
    report: Callable[[Event], None]

    def log(self, text: str) -> None:
        self.report(Event(kind="log", text=text))

    def progress(self, done: float, total: float, unit: str, text: str = "") -> None:
        self.report(Event(kind="progress", done=done, total=total, unit=unit, text=text))

    def report_table(self, title: str, rows: list[dict[str, Any]]) -> None:
        self.report(Event(kind="table", text=title, rows=rows))

    def picture(self, name: str, png: bytes) -> Member:
        """Keep a picture as a view of the artifact and show it."""
        self.report(Event(kind="picture", text=name.removesuffix(".png"), png=base64.b64encode(png).decode()))
        return self.attempt.put(name, png)


@dataclass(frozen=True)
class Sharded:
    """How a stage makes an artifact of many shards, each on its own."""

    plan: Callable[[Mapping[str, Sequence[Manifest]], Mapping[str, Sequence[OpenDataset]]], list[Shard]]
    run: Callable[[Context, Iterable[Shard]], Iterator[ShardResult]]
    finish: Callable[[Context, Sequence[ShardRecord]], Result]  # views and summary; no members


@dataclass(frozen=True)
class Stage:
    """A kind of step, declared once.

    `version` is raised whenever the code changes a result; it is part of every key.
    """

    name: str
    version: int
    title: str  # what it does, in a line
    params: type[Params]
    run: Callable[[Context], Result] | Sharded
    inputs: Mapping[str, Input] = field(default_factory=dict)
    datasets: Mapping[str, Literal["images", "attention"]] = field(default_factory=dict)

    @property
    def sharded(self) -> Sharded | None:
        return self.run if isinstance(self.run, Sharded) else None


def stage_names() -> list[str]:
    """Names of all stages: the public files of tasks/."""
    return sorted(m.name for m in pkgutil.iter_modules(tasks.__path__) if not m.name.startswith("_"))


def load_stage(name: str) -> Stage:
    """The stage of that name. Raises InvalidInput naming the nearest known one."""
    if name not in stage_names():
        raise InvalidInput(f"stage {name!r}: no such stage; {nearest(name, stage_names())}")
    stage = importlib.import_module(f"tasks.{name}").STAGE
    assert isinstance(stage, Stage)
    assert stage.name == name, f"tasks/{name}.py declares a stage named {stage.name}"
    return stage
