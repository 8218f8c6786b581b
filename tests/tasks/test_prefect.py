"""Nodes as a run makes them: one at a time of a key, stopped ones on record as such, others' versions taken over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.logging import disable_run_logger

from storage.runs import Run, read_run
from tasks import _prefect
from tasks._plan import node_key
from tasks._process import Cancelled
from tasks._stage import Event

ANOTHER = """
[teacher.another]
{params}
"""


class Nodes:
    """Two teachers of one run, made side by side as its task runner would, without Prefect around them."""

    def __init__(self, made: Any, workers: int, show: Callable[[Event], None]) -> None:
        self.made = made
        self.run = Run(made.store, made.config.model_dump(mode="json"), "test")
        self.session = _prefect.Session(show=lambda node, event: show(event))
        self._turns = _prefect._Turns(threading.BoundedSemaphore(workers))

    def __call__(self) -> list[Any]:
        """What each comes to: a ref, a Prefect state, or its error."""
        with disable_run_logger(), ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(self._task(name).fn, {}) for name in ("teacher", "teacher.another")]
            return [future.exception() or future.result() for future in futures]

    def _task(self, name: str) -> Any:
        return _prefect._node_task(self.made.config, name, self.run, self.session, self._turns, False, None)

    def noted(self) -> dict[str, Any]:
        return dict(read_run(self.made.store, self.run.id)["nodes"])


@pytest.fixture(autouse=True)
def _no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent to a server: there is none."""
    monkeypatch.setattr(_prefect.Page, "_show", lambda page, event: None)


def test_equal_nodes_of_one_run_are_made_once(bare: Callable[..., Any]) -> None:
    begun: list[str] = []

    def show(event: Event) -> None:
        if event.text.startswith("making "):
            begun.append(event.text)

    nodes = Nodes(bare(extra=ANOTHER.format(params="")), workers=2, show=show)
    ref, cached = sorted(nodes(), key=lambda found: isinstance(found, State))
    assert isinstance(ref, str), ref
    assert (cached.name, cached.data) == ("Cached", ref)
    assert len(begun) == 1
    assert sorted(n["state"] for n in nodes.noted().values()) == ["Cached", "Made"]
    assert [v.state for v in nodes.made.store.versions("teacher")] == ["complete"]


def test_a_stopped_node_is_on_record_as_stopped_and_one_that_never_began_is_not(bare: Callable[..., Any]) -> None:
    """Both want the one slot: whichever has it is stopped at work, and the other when its turn comes."""
    made = bare(extra=ANOTHER.format(params="seed = 1"))
    nodes = Nodes(made, workers=1, show=lambda event: nodes.session.cancel.set())
    never, stopped = sorted(nodes(), key=lambda found: isinstance(found, Exception))
    assert isinstance(stopped, Cancelled)
    assert never.is_cancelled()
    assert [n["state"] for n in nodes.noted().values()] == ["stopped"]
    assert "error" not in next(iter(nodes.noted().values()))
    assert [v.state for v in nodes.made.store.versions("teacher")] == ["open"]


def test_any_fault_is_on_record_as_failed(bare: Callable[..., Any]) -> None:
    def show(event: Event) -> None:
        raise OSError("no terminal any more")

    nodes = Nodes(bare(extra=ANOTHER.format(params="")), workers=2, show=show)
    assert all(isinstance(found, OSError) for found in nodes())
    assert [(n["state"], n["error"]) for n in nodes.noted().values()] == [("failed", "no terminal any more")] * 2


def test_a_version_that_another_run_publishes_meanwhile_is_taken(
    bare: Callable[..., Any], labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run is first between our look into the store and the opening of our attempt."""
    made = bare("fixations.cap=3", store=labelled)
    key = node_key(made.config, "fixations", {"saliency": made.plan()["saliency"].ref}, made.datasets)

    def meanwhile(store: Any, key: Any) -> str:
        made.make("fixations", run="the other")
        return "no version of it yet"

    monkeypatch.setattr(_prefect, "why_missed", meanwhile)
    run = Run(made.store, made.config.model_dump(mode="json"), "test")
    with disable_run_logger():
        ref, cached = _prefect._make_node(
            made.config, "fixations", key, run, _prefect.Session(), False, None
        )
    assert cached
    assert made.store.resolve(ref).run == "the other"
    assert made.plan()["fixations"].ref == ref
    assert [v.state for v in made.store.of_key("fixations", key.digest())] == ["complete", "closed"]
