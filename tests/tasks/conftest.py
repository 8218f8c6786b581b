"""Nodes made in this process, without Prefect: what the flow does, as plain calls."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from storage.attempt import OpenAttempt
from storage.manifest import Manifest
from storage.store import Store
from tasks._config import Config, load_config
from tasks._datasets import refresh
from tasks._make import Order, Report, finish_sharded, make_shards, make_whole, open_order, remaining_shards
from tasks._plan import NodePlan, node_key, plan_run
from tasks._stage import Event, load_stage


class Bare:
    """A config's nodes, made one after another in this process."""

    def __init__(self, config: Config, report: Report | None = None) -> None:
        self.config = config
        self.events: list[Event] = []
        self.report = report or self.events.append
        self.store = Store.open(config.settings.store)
        self.datasets = {n: refresh(self.store, n, d) for n, d in config.datasets.items()}

    def plan(self, forced: Sequence[str] = ()) -> dict[str, NodePlan]:
        """What a run would do now, with the data sets as they are now."""
        self.datasets = {n: refresh(self.store, n, d) for n, d in self.config.datasets.items()}
        return {p.node: p for p in plan_run(self.config, self.store, self.datasets, list(self.config.nodes), forced)}

    def open(
        self, node: str, forced: bool = False, redo: list[int] | None = None, run: str = "run"
    ) -> tuple[Order, OpenAttempt]:
        """Open a node's attempt; its inputs must be complete."""
        plans = self.plan()
        refs = {p: plans[p].ref for p in self.config.parents(node)}
        assert all(plans[p].state == "hit" for p in refs), plans
        key = node_key(self.config, node, refs, self.datasets)
        return open_order(self.config, node, key, run, "test", forced, redo)

    def make(
        self, node: str, forced: bool = False, redo: list[int] | None = None, batch: int = 16, run: str = "run"
    ) -> Manifest:
        """Make a node anew or to its end, shards in calls of `batch`."""
        order, _ = self.open(node, forced, redo, run)
        if load_stage(order.key.stage).sharded is None:
            return self.store.resolve(make_whole(order, self.report))
        numbers = [s.number for s in remaining_shards(order)]
        for first in range(0, len(numbers), batch):
            make_shards(order, numbers[first : first + batch], self.report)
        return self.store.resolve(finish_sharded(order, self.report))

    def members(self, ref: str) -> dict[str, bytes]:
        """A version's result members by name."""
        return {m.name: self.store.read(m) for m in self.store.resolve(ref).members}


MakeBare = Callable[..., Bare]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def bare(write_tiny: Callable[..., Path], tmp_path: Path) -> MakeBare:
    """Make a `Bare` of the tiny config with overrides; a store of its own unless `store` says otherwise."""

    def make(*overrides: str, store: Path | None = None, report: Report | None = None, extra: str = "") -> Bare:
        file = write_tiny(tmp_path / "config", str(store or tmp_path / "store"), extra)
        return Bare(load_config(str(file), overrides), report)

    return make


@pytest.fixture(scope="session")
def labelled_store(write_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the tiny config's teacher, saliency and fixations are complete; copy it to write to it."""
    folder = tmp_path_factory.mktemp("labelled")
    made = Bare(load_config(str(write_tiny(folder))))
    for node in ("teacher", "saliency", "fixations"):
        made.make(node)
    return folder / "store"


@pytest.fixture
def labelled(labelled_store: Path, tmp_path: Path) -> Path:
    """A copy of that store, to write to."""
    return Path(shutil.copytree(labelled_store, tmp_path / "store"))


WriteTars = Callable[[Path, Sequence[Mapping[str, bytes]]], Path]


@pytest.fixture(scope="session")
def write_tars() -> WriteTars:
    """Write WebDataset tars, one per mapping of member names to bytes; returns their folder."""

    def write(folder: Path, shards: Sequence[Mapping[str, bytes]]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for number, members in enumerate(shards):
            with tarfile.open(folder / f"part-{number:06d}.tar", "w") as tar:
                for name, data in members.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        return folder

    return write


@pytest.fixture(scope="session")
def four_shards(tiny_data: Path) -> list[dict[str, bytes]]:
    """Contents of four tars of six images each, with labels."""
    files = sorted((tiny_data / "imagenet" / "train").rglob("*.JPEG"), key=lambda p: p.name)[:24]
    names = [{f"{f.stem}.jpg": f.read_bytes(), f"{f.stem}.cls": b"%d" % (i % 10)} for i, f in enumerate(files)]
    return [{k: v for one in names[6 * n : 6 * n + 6] for k, v in one.items()} for n in range(4)]


@pytest.fixture
def of_tars(bare: MakeBare, labelled: Path) -> Callable[..., Bare]:
    """A `Bare` whose saliency and students take the tars of a folder; its teacher is complete already."""

    def make(tars: Path, *overrides: str, store: Path = labelled, report: Report | None = None) -> Bare:
        extra = f'\n[datasets.tars]\nformat = "webdataset_tar"\npath = "{tars}"\n'
        roles = ("saliency.datasets.images=tars", "student.datasets.images=tars")
        return bare(*roles, *overrides, store=store, report=report, extra=extra)

    return make
