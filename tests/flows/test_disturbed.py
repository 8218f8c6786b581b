"""Whole runs that are stopped, killed, doubled or out of space: nothing is left behind, and they go on."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

WORDS = ("run", "tiny.toml", "--until", "fixations")


@pytest.mark.parametrize(("number", "node"), [(signal.SIGINT, "saliency"), (signal.SIGTERM, "teacher")])
def test_a_stopped_run_leaves_nothing_running_and_goes_on(fresh: Any, finished: Any, number: int, node: str) -> None:
    with fresh.running(*WORDS) as process:
        fresh.wait_for(process, f"{node}: making")
        process.send_signal(number)
        assert process.wait(120) == 130, fresh.told()
        assert fresh.quiet(), "no child and no server left"
    assert "gazeflow: " in fresh.told()
    assert "Traceback" not in fresh.told()
    assert fresh.status()["state"] == "stopped"
    states = fresh.states()
    assert states.pop(node) == "stopped"
    assert set(states.values()) <= {"Made", "not begun"}
    done = fresh.run(*WORDS)
    assert done.returncode == 0, done.stderr
    assert fresh.label_shas() == finished.label_shas()


def test_a_killed_run_ends_its_processes_and_goes_on_to_the_same_bytes(fresh: Any, finished: Any) -> None:
    with fresh.running(*WORDS) as process:
        fresh.wait_for(process, "saliency: making")
        time.sleep(1)
        process.kill()
        process.wait()
        assert fresh.quiet(), "child and server end by themselves"
    assert not fresh.complete("fixations")
    fresh.check_store()
    done = fresh.run(*WORDS)
    assert done.returncode == 0, done.stderr
    assert fresh.label_shas() == finished.label_shas()


def test_two_runs_beside_each_other_end_well(fresh: Any, finished: Any) -> None:
    with fresh.running(*WORDS) as first:
        second = fresh.run(*WORDS)
        assert first.wait(900) == 0, fresh.told()
    assert second.returncode == 0, second.stderr
    assert len(fresh.complete("teacher")) == 1
    assert fresh.label_shas() == finished.label_shas()
    fresh.check_store()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_told_leaves_nothing_half_done_and_goes_on(fresh: Any, small_disk: Path) -> None:
    words = (*WORDS, "--set", f"settings.store=file://{small_disk}/store")
    first = fresh.run(*words, "--set", "fixations.cap=511")
    assert first.returncode == 0, first.stderr
    (version,) = small_disk.glob("store/artifacts/saliency/*/manifest.json")
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    full = fresh.run(*words, "--set", "saliency.size=64")
    assert full.returncode == 75, (full.returncode, full.stderr)
    assert "No space left on device" in full.stderr
    assert "Traceback" not in full.stderr
    assert list(small_disk.glob("store/artifacts/saliency/*/manifest.json")) == [version]
    assert not list(small_disk.glob("store/.aside/*"))
    ballast.unlink()
    again = fresh.run(*words, "--set", "saliency.size=64")
    assert again.returncode == 0, again.stderr
    assert len(list(small_disk.glob("store/artifacts/saliency/*/manifest.json"))) == 2


def test_the_kill_loop_finds_no_difference(
    finished: Any, write_tiny: Callable[..., Path], tmp_path: Path, outside: dict[str, str]
) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "kill_loop.py"
    done = subprocess.run(
        [sys.executable, str(script), "--runs", "2", "--seed", "1", "--config", str(write_tiny(tmp_path)),
         "--until", "fixations", "--folder", str(tmp_path / "loop")],
        cwd=tmp_path, env=outside, capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" OK") == 2
