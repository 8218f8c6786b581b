"""What a run shows on the terminal, and how it makes shards whose process dies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.errors import GazeflowError
from tasks import _prefect
from tasks._make import finish_sharded, make_shards
from tasks._process import ChildDied
from tasks._session import _line, _plain_lines
from tasks._stage import Event, Shard


def test_a_line_of_progress_has_rate_and_time_to_go() -> None:
    event = Event(kind="progress", done=20, total=80, unit="images", text="shard 1")
    assert _line("saliency", event, 10) == "saliency: 20/80 images, 2.0/s, ETA 30 s; shard 1"
    assert _line("saliency", event, 0) == "saliency: 20/80 images; shard 1"


def test_plain_lines_are_few_and_hold_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    show = _plain_lines()
    for done in range(1, 101):
        show("saliency", Event(kind="progress", done=done, total=100, unit="images"))
    show("saliency", Event(kind="log", text="WARNING one is broken"))
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert len(lines) <= 3
    assert lines[-2].startswith("saliency: 100/100 images")
    assert lines[-1] == "saliency: WARNING one is broken"


class Page:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def expect(self, shards: object) -> None:
        """Take no notice."""

    def report(self, event: Event) -> None:
        if event.kind == "log":
            self.told.append(event.text)


@pytest.fixture
def all_shards(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[dict[str, bytes]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:  # fmt: skip
    """`_make_all_shards` over four real shards, two in a call, which `call` makes; without Prefect around it."""
    made = of_tars(write_tars(tmp_path / "tars", four_shards))
    order, attempt = made.open("saliency")

    def run(call: Callable[[Any, Sequence[int]], None]) -> tuple[set[int], list[str]]:
        page = Page()

        def task(order: Any, child: Any, page: Any, batch: Sequence[Shard], seconds: float) -> Callable[[], None]:
            return lambda: call(order, [s.number for s in batch])

        monkeypatch.setattr(_prefect, "_shards_task", task)
        try:
            _prefect._make_all_shards(order, attempt, None, page, 2, 60)  # type: ignore[arg-type]
        finally:
            run.made = set(attempt.finished())  # type: ignore[attr-defined]
        finish_sharded(order, lambda event: None)
        return set(attempt.finished()), page.told

    return run


def make(order: Any, numbers: Sequence[int]) -> None:
    make_shards(order, numbers, lambda event: None)


def test_a_shard_that_kills_its_process_once_costs_one_try(all_shards: Any) -> None:
    deaths = [3]

    def call(order: Any, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number in deaths:
                deaths.remove(number)
                raise ChildDied("killed by SIGSEGV")
            make(order, [number])

    made, told = all_shards(call)
    assert made == {0, 1, 2, 3}
    assert told == ["WARNING shard 3: try 1: killed by SIGSEGV"]


def test_a_shard_that_always_kills_is_named_and_all_others_are_made(all_shards: Any) -> None:
    def call(order: Any, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number == 1:
                raise ChildDied("killed by SIGSEGV")
            make(order, [number])

    with pytest.raises(GazeflowError, match=r"the shards \[1\] killed their process 3 times each"):
        all_shards(call)
    assert all_shards.made == {0, 2, 3}


def test_a_process_that_never_starts_ends_the_node_soon(all_shards: Any) -> None:
    calls: list[int] = []

    def call(order: Any, numbers: Sequence[int]) -> None:
        calls.append(1)
        raise ChildDied("exited with status 1")

    with pytest.raises(GazeflowError, match=r"the shards \[0, 1, 2\]"):
        all_shards(call)
    assert len(calls) == 9


def test_shards_that_another_run_makes_meanwhile_are_not_waited_for(all_shards: Any) -> None:
    """The other run is ahead of us in every batch: ours makes nothing and still ends."""
    assert all_shards(make)[0] == {0, 1, 2, 3}


def test_a_whole_batch_made_by_another_run_is_passed_over(all_shards: Any) -> None:
    asked: list[list[int]] = []

    def call(order: Any, numbers: Sequence[int]) -> None:
        asked.append(list(numbers))
        make(order, [0, 1, 2, 3])  # the other run's work, done before ours began
        make(order, numbers)

    assert all_shards(call)[0] == {0, 1, 2, 3}
    assert asked == [[0, 1], [2, 3]]


def test_a_version_that_another_run_publishes_meanwhile_is_taken(
    bare: Callable[..., Any], labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run is first between our look into the store and the opening of our attempt."""
    from prefect.logging import disable_run_logger

    from storage.runs import Run

    made = bare("fixations.cap=3", store=labelled)
    saliency = made.plan()["saliency"].ref

    def meanwhile(store: Any, key: Any) -> str:
        made.make("fixations", run="the other")
        return "no version of it yet"

    monkeypatch.setattr(_prefect, "why_missed", meanwhile)
    run = Run(made.store, made.config.model_dump(mode="json"), "test")
    with disable_run_logger():
        ref, cached = _prefect._make_node(
            made.config, "fixations", {"saliency": saliency}, run, _prefect.Session(), False, None
        )
    assert cached
    assert made.store.resolve(ref).run == "the other"
    assert made.plan()["fixations"].ref == ref
    key = made.store.resolve(ref).key
    assert [v.state for v in made.store.of_key("fixations", key.digest())] == ["complete", "closed"]
