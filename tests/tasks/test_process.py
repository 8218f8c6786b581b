"""The child process: killed, cancelled, left behind by its parent, asked for the impossible."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.errors import InvalidInput, Transient
from tasks._child import Call
from tasks._process import Cancelled, Child, ChildDied
from tasks._stage import Event

ROOT = Path(__file__).parents[2]


@pytest.fixture
def calls(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[dict[str, bytes]], tmp_path: Path
) -> tuple[Any, Callable[..., Call]]:
    """A store with a teacher, and calls that ask for shards of its saliency."""
    made = of_tars(write_tars(tmp_path / "tars", four_shards))
    order, attempt = made.open("saliency")

    def call(what: str = "shards", shards: tuple[int, ...] = (0, 1, 2, 3)) -> Call:
        return Call(order=order, what=what, shards=list(shards))

    return attempt, call


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


def test_a_killed_child_is_told_started_anew_and_loses_no_finished_shard(
    calls: tuple[Any, Callable[..., Call]],
) -> None:
    attempt, call = calls
    pids: list[int] = []
    with Child(threading.Event()) as child:

        def report(event: Event) -> None:
            if event.record is not None and not pids:
                assert child._process is not None
                pids.append(child._process.pid)
                os.kill(pids[0], signal.SIGKILL)

        with pytest.raises(ChildDied, match="killed by SIGKILL; what it finished is in the store"):
            child.call(call(), report, 60)
        kept = set(attempt.finished())
        assert 0 in kept
        events: list[Event] = []
        assert child.call(call(), events.append, 60) == 4 - len(kept)
        assert child._process is not None
        second = child._process.pid
        assert second != pids[0]
        assert set(attempt.finished()) == {0, 1, 2, 3}
        made = {e.record.shard for e in events if e.record is not None}
        assert made == {0, 1, 2, 3} - kept
        assert str(child.call(call("finish"), events.append, 60)).startswith("saliency@")
    assert gone_within(second, 1), "leaving the block leaves no process"


def test_a_cancelled_call_ends_the_child_within_seconds(calls: tuple[Any, Callable[..., Call]]) -> None:
    cancel = threading.Event()
    with Child(cancel) as child:
        pids: list[int] = []

        def report(event: Event) -> None:
            assert child._process is not None
            pids.append(child._process.pid)
            cancel.set()

        with pytest.raises(Cancelled, match="the same command goes on from there"):
            child.call(calls[1](), report, 60)
        assert gone_within(pids[0], 1)


def test_a_call_that_takes_too_long_is_ended(calls: tuple[Any, Callable[..., Call]]) -> None:
    with Child(threading.Event()) as child, pytest.raises(Transient, match="did not finish in time"):
        child.call(calls[1](), lambda event: None, 0.0)


def test_errors_cross_the_border_with_kind_and_message(calls: tuple[Any, Callable[..., Call]]) -> None:
    call = calls[1]()
    key = call.order.key.model_copy(update={"inputs": {"teacher": ["x"]}})
    wrong = call.model_copy(update={"order": call.order.model_copy(update={"key": key})})
    with Child(threading.Event()) as child:
        with pytest.raises(InvalidInput, match="ref 'x': expected KIND@VERSION"):
            child.call(wrong, lambda event: None, 60)
        assert child.call(call.model_copy(update={"shards": [2]}), lambda event: None, 60) == 1, "it serves on"


def test_a_child_ends_when_its_parents_pipe_closes() -> None:
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "tasks._child"], stdin=subprocess.PIPE, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(20) == 1


def test_a_child_ends_when_its_parent_is_killed(calls: tuple[Any, Callable[..., Call]], tmp_path: Path) -> None:
    """kill -9 of the parent in the middle of a call: the child follows by itself."""
    (tmp_path / "call.json").write_text(calls[1]().model_dump_json())
    parent = subprocess.Popen(
        [sys.executable, "-P", "-c", _PARENT, str(tmp_path / "call.json")], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert gone_within(pid, 5)


_PARENT = """
import sys, threading
from tasks._child import Call
from tasks._process import Child
with Child(threading.Event()) as child:
    call = Call.model_validate_json(open(sys.argv[1]).read())
    told = []
    def report(event):
        if not told:
            told.append(print(child._process.pid, flush=True))
    child.call(call, report, 60)
    threading.Event().wait()
"""
