"""A flow run from the command line: Prefect's home and server, progress on the terminal, a clean stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storage.errors import Transient
from tasks._inspect import finished_run
from tasks._run import NodeOptions, PipelineOptions, chosen_config
from tasks._stage import Event

_START_SECONDS = 600  # it is waited for while it lives: a busy machine is no fault
_LINE_SECONDS = 10  # between two lines of one node's progress

Flow = Callable[[Any], dict[str, str]]
Show = Callable[[str, Event], None]


def run_flow(load: Callable[[], Flow], options: PipelineOptions | NodeOptions) -> dict[str, Any]:
    """Run a flow in this process and say what came of it.

    `load` imports the flow, once Prefect's settings are made. Without PREFECT_API_URL a server of our own runs
    beside it and ends with it.
    """
    config = chosen_config(options.config, options.set)  # wrong input is told before anything starts
    os.environ.update(_quiet() | os.environ)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes its last folder alone
    with _server(), _terminal() as show:
        from tasks._prefect import SESSION, Session

        flow = load()
        session = Session(threading.Event(), show)
        token = SESSION.set(session)
        try:
            with _stop_on_signal(session.cancel):
                refs = flow(options)
        finally:
            SESSION.reset(token)
            _drain()
    return finished_run(config, refs)


def _quiet() -> dict[str, str]:
    """Prefect's settings unless the user has others: its home beside the store, telemetry off, its log on its pages."""
    return {
        "PREFECT_HOME": str(Path(".gazeflow/prefect").absolute()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # its pages keep the log, we tell the terminal
        "PREFECT_CLI_PROMPT": "false",
    }


@contextlib.contextmanager
def _server() -> Iterator[None]:
    """A Prefect server for the time of the run, unless the user has one."""
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tasks._server", str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        start_new_session=True,
    )
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    try:
        _wait_until_up(process, port)
        print(f"watch: http://127.0.0.1:{port}", file=sys.stderr, flush=True)
        yield
    finally:
        del os.environ["PREFECT_API_URL"]
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _drain() -> None:
    """Send Prefect what it has queued, while its server is still there to take it."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    with contextlib.suppress(Exception):  # history only; the store has what matters
        APILogHandler().flush()
        EventsWorker.drain_all(timeout=10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_up(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Transient(f"Prefect's server on port {port} ended with status {process.returncode} while starting")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2).close()
            return
        time.sleep(0.1)
    raise Transient(f"Prefect's server did not answer on port {port} within {_START_SECONDS} s; run again")


@contextlib.contextmanager
def _stop_on_signal(cancel: threading.Event) -> Iterator[None]:
    """SIGTERM stops a run as Ctrl-C does: children end, the record says so."""

    def stop(number: int, frame: object) -> None:
        cancel.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:
        cancel.set()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _terminal() -> Iterator[Show]:
    """Progress bars on a terminal, plain lines elsewhere, on standard error."""
    if not sys.stderr.isatty():
        yield _plain_lines()
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


def _plain_lines() -> Show:
    began: dict[str, float] = {}
    told: dict[str, float] = {}

    def show(node: str, event: Event) -> None:
        now = time.monotonic()
        if event.kind == "log":
            print(f"{node}: {event.text}", file=sys.stderr, flush=True)
        elif event.kind == "progress" and (event.done >= event.total or now - told.get(node, 0) > _LINE_SECONDS):
            told[node] = now
            print(_line(node, event, now - began.setdefault(node, now)), file=sys.stderr, flush=True)

    return show


def _line(node: str, event: Event, seconds: float) -> str:
    """Progress as one line: so many of so many, the rate and the time to go once they are known."""
    line = f"{node}: {event.done:.0f}/{event.total:.0f} {event.unit}"
    if seconds and event.done:
        left = seconds * (event.total - event.done) / event.done
        line += f", {event.done / seconds:.1f}/s, ETA {left:.0f} s"
    return f"{line}; {event.text}" if event.text else line
