"""A node's run page: the events of its stage as Prefect's progress, tables, pictures and lines of the log."""

from __future__ import annotations

import base64
import io
import logging
import time
from collections.abc import Callable
from typing import Any

from PIL import Image
from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from tasks._stage import Event, Shard

_PICTURE_LIMIT = 100_000  # bytes of a PNG shown on a run page
_PROGRESS_SECONDS = 2.0


class Page:
    """A node's run page: what its events show there, in the log and to the session's onlooker."""

    def __init__(self, node: str, show: Callable[[str, Event], None]) -> None:
        self._node = node
        self._onlooker = show
        self._progress: Any = None  # the artifact's id
        self._shown = 0.0
        self._total = self._done = 0

    def expect(self, shards: list[Shard]) -> None:
        """Count progress in samples of these shards."""
        self._total = sum(s.samples for s in shards)

    def log(self, text: str) -> None:
        """Tell a line of our own; one that begins with WARNING is shown as such."""
        self.report(Event(kind="log", text=text))

    def report(self, event: Event) -> None:
        """Take one event of the running stage."""
        if event.kind == "shard":
            event = self._counted(event)
        self._onlooker(self._node, event)
        if event.kind == "log":
            get_run_logger().log(logging.WARNING if event.text.startswith("WARNING") else logging.INFO, event.text)
            return
        try:
            self._show(event)
        except Exception as error:  # the page is a view: Prefect being away must not stop the work
            get_run_logger().debug("run page not updated: %s", error)

    def _counted(self, event: Event) -> Event:
        if event.record is not None:
            self._done += event.record.done + event.record.failed
        return Event(kind="progress", done=self._done, total=self._total, unit="images")

    def _show(self, event: Event) -> None:
        key = self._node.replace(".", "-")
        if event.kind == "progress" and event.total:
            self._show_progress(key, 100 * event.done / event.total, event.done >= event.total)
        elif event.kind == "table":
            create_table_artifact(event.rows, key=f"{key}-table", description=event.text)
        elif event.kind == "picture":
            markdown = f"### {event.text}\n\n![{event.text}]({_data_uri(event.png)})"
            create_markdown_artifact(markdown, key=f"{key}-{_slug(event.text)}", description=event.text)

    def _show_progress(self, key: str, percent: float, last: bool) -> None:
        if self._progress is None:
            self._progress = create_progress_artifact(percent, key=f"{key}-progress", description=self._node)
        elif last or time.monotonic() - self._shown > _PROGRESS_SECONDS:
            update_progress_artifact(self._progress, percent)
        else:
            return
        self._shown = time.monotonic()


def _data_uri(png: str) -> str:
    """A picture as a run page holds it: the PNG itself when small, else a smaller JPEG; the full one is a view."""
    if len(png) * 3 / 4 < _PICTURE_LIMIT:
        return f"data:image/png;base64,{png}"
    picture = Image.open(io.BytesIO(base64.b64decode(png)), formats=["PNG"]).convert("RGB")
    picture.thumbnail((720, 720))
    sink = io.BytesIO()
    picture.save(sink, format="JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower()).strip("-")[:40] or "picture"
