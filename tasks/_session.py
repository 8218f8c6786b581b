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
from tasks._terminal import terminal

_START_SECONDS = 600  # it is waited for while it lives: a busy machine is no fault

Flow = Callable[[Any], dict[str, str]]


def run_flow(load: Callable[[], Flow], options: PipelineOptions | NodeOptions) -> dict[str, Any]:
    """Run a flow in this process and say what came of it.

    `load` imports the flow, once Prefect's settings are made. Without PREFECT_API_URL a server of our own runs
    beside it and ends with it.
    """
    config = chosen_config(options.config, options.set)  # wrong input is told before anything starts
    os.environ.update(_quiet() | os.environ)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes its last folder alone
    with _server(), terminal() as show:
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
