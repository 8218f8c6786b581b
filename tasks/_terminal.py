"""What a person sees while long work goes on: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tasks._stage import Event

_LINE_SECONDS = 10  # between two lines of one node's progress

Show = Callable[[str, Event], None]


@contextlib.contextmanager
def terminal() -> Iterator[Show]:
    """Progress bars on a terminal, plain lines elsewhere, on standard error."""
    if not sys.stderr.isatty():
        yield plain_lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bars: dict[str, Any] = {}

        def show(node: str, event: Event) -> None:
            if event.kind == "log":
                progress.console.print(f"{node}: {event.text}", highlight=False, markup=False)
            elif event.kind == "progress":
                if node not in bars:
                    bars[node] = progress.add_task(node, total=event.total, unit=event.unit, rate="", text="")
                speed = progress.tasks[bars[node]].speed
                rate = f"{speed:.1f}/s" if speed else ""
                progress.update(bars[node], completed=event.done, total=event.total, rate=rate, text=event.text[:60])

        yield show


def plain_lines() -> Show:
    began: dict[str, tuple[float, float]] = {}  # when, and what was done by then
    told: dict[str, float] = {}

    def show(node: str, event: Event) -> None:
        now = time.monotonic()
        if event.kind == "log":
            _say(f"{node}: {event.text}")
        elif event.kind == "progress" and (event.done >= event.total or now - told.get(node, 0) > _LINE_SECONDS):
            told[node] = now
            since, before = began.setdefault(node, (now, event.done))
            _say(_line(node, event, now - since, before))

    return show


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # who read along has gone; the work goes on
        print(line, file=sys.stderr, flush=True)


def _line(node: str, event: Event, seconds: float, before: float) -> str:
    """Progress as one line: so many of so many, the rate since `before` was done and the time to go, once known."""
    line = f"{node}: {event.done:.0f}/{event.total:.0f} {event.unit}"
    if seconds and event.done > before:
        rate = (event.done - before) / seconds
        line += f", {rate:.1f}/s, ETA {(event.total - event.done) / rate:.0f} s"
    return f"{line}; {event.text}" if event.text else line
