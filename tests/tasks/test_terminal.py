"""What a run shows on the terminal."""

from __future__ import annotations

import pytest

from tasks._stage import Event
from tasks._terminal import _line, plain_lines


def test_a_line_of_progress_has_rate_and_time_to_go() -> None:
    event = Event(kind="progress", done=20, total=80, unit="images", text="shard 1")
    assert _line("saliency", event, 10, 0) == "saliency: 20/80 images, 2.0/s, ETA 30 s; shard 1"
    assert _line("saliency", event, 10, 10) == "saliency: 20/80 images, 1.0/s, ETA 60 s; shard 1"
    assert _line("saliency", event, 0, 20) == "saliency: 20/80 images; shard 1"


def test_plain_lines_are_few_and_hold_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    show = plain_lines()
    for done in range(1, 101):
        show("saliency", Event(kind="progress", done=done, total=100, unit="images"))
    show("saliency", Event(kind="log", text="WARNING one is broken"))
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert len(lines) <= 3
    assert lines[-2].startswith("saliency: 100/100 images")
    assert lines[-1] == "saliency: WARNING one is broken"
