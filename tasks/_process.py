"""The parent's side of `_child.py`: a child process that is started when needed and again when it dies."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Any

from storage.errors import GazeflowError, Transient, error_from
from tasks._child import Call
from tasks._make import Report
from tasks._stage import Event

_GRACE_SECONDS = 10

# How torch uses this machine, unless the user says otherwise; neither changes a result. Threads that wait sleep
# instead of spinning, and numpy's small matrix products take no threads of their own: with either, two busy
# processes on two cores made a teacher's step several times slower. Large pages take 4 to 10 % off a student's.
_FASTER = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1", "THP_MEM_ALLOC_ENABLE": "1"}


class ChildDied(Transient):
    """The child ended without an answer: killed, out of memory, or crashed in native code."""


class Cancelled(GazeflowError):
    """The run was told to stop."""

    kind = "cancelled"
    exit_code = 130


class Child:
    """One child process; use as a context manager, which leaves none behind."""

    def __init__(self, cancel: threading.Event) -> None:
        self._cancel = cancel
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def call(self, call: Call, report: Report, seconds: float) -> Any:
        """Have the child do something and return its answer, its events reported as they come.

        Raises what the child raised; ChildDied when it ended without an answer, Transient after `seconds`,
        Cancelled when the run is told to stop.
        """
        self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        deadline = time.monotonic() + seconds
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(call.model_dump_json() + "\n")
            self._process.stdin.flush()
        while True:
            line = self._next_line(deadline, call.order.node)
            if "event" in line:
                report(Event.model_validate(line["event"]))
            elif "error" in line:
                raise error_from(line["error"]["kind"], line["error"]["message"])
            else:
                return line["result"]

    def _next_line(self, deadline: float, node: str) -> dict[str, Any]:
        while not self._cancel.is_set():
            if time.monotonic() > deadline:
                self._end()
                raise Transient(f"{node}: did not finish in time; its process was ended. Raise settings.timeout_hours")
            with contextlib.suppress(queue.Empty):
                line = self._lines.get(timeout=0.2)
                if line is None:
                    raise ChildDied(f"{node}: its process {self._ending()}; what it finished is in the store")
                parsed: dict[str, Any] = json.loads(line)
                return parsed
        self._end()
        raise Cancelled(f"{node}: stopped; what it finished is in the store, the same command goes on from there")

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        path = os.pathsep.join(p for p in sys.path if p)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tasks._child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_FASTER | os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which ends its children in order
        )
        self._lines = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(self._process, self._lines), daemon=True).start()

    def _read(self, process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("\n"):  # a child killed while writing leaves half a line
                lines.put(line)
        process.wait()
        lines.put(None)

    def _ending(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"

    def _end(self) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, ValueError):
                assert pipe is not None
                pipe.close()
        self._process = None
