"""How a node's shards are made when their process dies, and beside another run that makes the same ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.attempt import OpenAttempt
from storage.errors import GazeflowError
from tasks import _batches
from tasks._make import Order, finish_sharded, make_shards
from tasks._page import Page
from tasks._process import Child, ChildDied
from tasks._stage import Event, Shard

Make = Callable[[Order, Sequence[int]], None]


class Quiet(Page):
    """A run page without Prefect: it keeps the lines that it is told."""

    def __init__(self) -> None:
        super().__init__("saliency", lambda node, event: None)
        self.told: list[str] = []

    def report(self, event: Event) -> None:
        if event.kind == "log":
            self.told.append(event.text)


class AllShards:
    """`make_all_shards` over four real shards, two in a call, which `call` makes; without Prefect around it."""

    def __init__(self, order: Order, attempt: OpenAttempt, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order, self.attempt, self._patch = order, attempt, monkeypatch
        self.child = Child(threading.Event())  # never started: `call` stands in its place

    @property
    def made(self) -> set[int]:
        return set(self.attempt.finished())

    def __call__(self, call: Make) -> tuple[set[int], list[str]]:
        page = Quiet()

        def task(order: Order, child: Child, page: Page, batch: Sequence[Shard], seconds: float) -> Callable[[], None]:
            return lambda: call(order, [s.number for s in batch])

        self._patch.setattr(_batches, "_shards_task", task)
        _batches.make_all_shards(self.order, self.attempt, self.child, page, 2, 60)
        finish_sharded(self.order, lambda event: None)
        return self.made, page.told


@pytest.fixture
def all_shards(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[dict[str, bytes]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AllShards:  # fmt: skip
    made = of_tars(write_tars(tmp_path / "tars", four_shards))
    order, attempt = made.open("saliency")
    return AllShards(order, attempt, monkeypatch)


def make(order: Order, numbers: Sequence[int]) -> None:
    make_shards(order, numbers, lambda event: None)


def test_a_shard_that_kills_its_process_once_costs_one_try(all_shards: AllShards) -> None:
    deaths = [3]

    def call(order: Order, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number in deaths:
                deaths.remove(number)
                raise ChildDied("killed by SIGSEGV")
            make(order, [number])

    made, told = all_shards(call)
    assert made == {0, 1, 2, 3}
    assert told == ["WARNING shard 3: try 1: killed by SIGSEGV"]


def test_a_shard_that_always_kills_is_named_and_all_others_are_made(all_shards: AllShards) -> None:
    def call(order: Order, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number == 1:
                raise ChildDied("killed by SIGSEGV")
            make(order, [number])

    with pytest.raises(GazeflowError, match=r"the shards \[1\] killed their process 3 times each"):
        all_shards(call)
    assert all_shards.made == {0, 2, 3}


def test_a_process_that_never_starts_ends_the_node_soon(all_shards: AllShards) -> None:
    calls: list[int] = []

    def call(order: Order, numbers: Sequence[int]) -> None:
        calls.append(1)
        raise ChildDied("exited with status 1")

    with pytest.raises(GazeflowError, match=r"the shards \[0, 1, 2\]"):
        all_shards(call)
    assert len(calls) == 9


def test_shards_that_another_run_makes_meanwhile_are_not_waited_for(all_shards: AllShards) -> None:
    """The other run is ahead of us in every batch: ours makes nothing and still ends."""
    assert all_shards(make)[0] == {0, 1, 2, 3}


def test_a_whole_batch_made_by_another_run_is_passed_over(all_shards: AllShards) -> None:
    asked: list[list[int]] = []

    def call(order: Order, numbers: Sequence[int]) -> None:
        asked.append(list(numbers))
        make(order, [0, 1, 2, 3])  # the other run's work, done before ours began
        make(order, numbers)

    assert all_shards(call)[0] == {0, 1, 2, 3}
    assert asked == [[0, 1], [2, 3]]
