"""Whole runs through the real command with its Prefect server: cached, killed, stopped, doubled, out of space."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

NODES = ["teacher", "saliency", "fixations", "student", "student.baseline", "student.permuted", "evaluation"]
LABELS = ("saliency", "fixations")
GONE_SECONDS = 10  # for processes to notice that their parent went; a second where nothing else runs
Gazeflow = Callable[..., "subprocess.CompletedProcess[str]"]


def status(gazeflow: Gazeflow, folder: Path) -> dict[str, Any]:
    done = gazeflow("status", "--config", "tiny.toml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def states(gazeflow: Gazeflow, folder: Path) -> dict[str, str]:
    return {n["node"]: n["state"] for n in status(gazeflow, folder)["nodes"]}


def complete(folder: Path, kind: str) -> list[Path]:
    return sorted(p.parent for p in folder.glob(f"store/artifacts/{kind}/*/manifest.json"))


def shas(folder: Path, kind: str) -> dict[str, str]:
    """Result members of the only complete version of a kind."""
    (version,) = complete(folder, kind)
    return {m["name"]: m["sha256"] for m in json.loads((version / "manifest.json").read_text())["members"]}


def ours(folder: Path) -> list[int]:
    """Processes that work in this folder, zombies aside."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.joinpath("cwd").resolve() == folder and process.joinpath("cmdline").read_bytes():
                found.append(int(process.name))
    return found


def gone_within(folder: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while ours(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not ours(folder)


def check_store(gazeflow: Gazeflow, folder: Path) -> None:
    """Every version in the store is whole, down to the last byte."""
    for manifest in folder.glob("store/artifacts/*/*/manifest.json"):
        ref = f"{manifest.parts[-3]}@{manifest.parts[-2]}"
        done = gazeflow("verify", ref, "--deep", "--config", "tiny.toml", cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished(
    write_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, command: list[str],
    outside: dict[str, str],
) -> Path:  # fmt: skip
    """A folder in which the whole tiny DAG has run once, undisturbed."""
    folder = tmp_path_factory.mktemp("finished").resolve()
    write_tiny(folder)
    done = subprocess.run(
        [*command, "run", "tiny.toml"], cwd=folder, env=outside, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stderr
    (folder / "first.out").write_text(done.stdout)
    (folder / "first.err").write_text(done.stderr)
    return folder


@pytest.fixture
def copy(finished: Path, write_tiny: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of that folder, to go on from."""
    folder = Path(shutil.copytree(finished, tmp_path / "copy")).resolve()
    write_tiny(folder)
    return folder


@pytest.fixture
def fresh(finished: Path, write_tiny: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with the config and no store; Prefect's database is there, which saves its migrations."""
    folder = (tmp_path / "fresh").resolve()
    write_tiny(folder)
    shutil.copytree(finished / ".gazeflow", folder / ".gazeflow")
    return folder


@contextlib.contextmanager
def running(command: list[str], folder: Path, env: dict[str, str], *words: str) -> Iterator[subprocess.Popen[str]]:
    """The command under way, its standard error in run.err; killed with all it started on leaving."""
    with open(folder / "run.err", "w") as err:
        process = subprocess.Popen([*command, *words], cwd=folder, env=env, stdout=err, stderr=err, text=True)
        try:
            yield process
        finally:
            for pid in ours(folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def wait_for(process: subprocess.Popen[str], folder: Path, text: str, seconds: float = 900) -> None:
    """Until the run has said so."""
    deadline = time.monotonic() + seconds
    while text not in (folder / "run.err").read_text():
        told = (folder / "run.err").read_text()
        assert process.poll() is None, told
        assert time.monotonic() < deadline, told
        time.sleep(0.02)


def test_all_nodes_are_made_and_told(finished: Path, gazeflow: Gazeflow) -> None:
    assert states(gazeflow, finished) == dict.fromkeys(NODES, "Made")
    out, err = (finished / "first.out").read_text(), (finished / "first.err").read_text()
    assert all(f"{n} " in out for n in NODES)
    assert "report: file://" in out
    assert "next: gazeflow show evaluation@" in out
    assert "saliency: 80/80 images" in err
    assert "ETA" in err
    assert not ours(finished), "the server ended with the run"
    check_store(gazeflow, finished)


def test_a_second_run_finds_everything_cached(copy: Path, gazeflow: Gazeflow) -> None:
    before = sorted(p for p in copy.rglob("store/artifacts/**/*"))
    done = gazeflow("run", "tiny.toml", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert states(gazeflow, copy) == dict.fromkeys(NODES, "Cached")
    assert sorted(p for p in copy.rglob("store/artifacts/**/*")) == before
    with sqlite3.connect(copy / ".gazeflow" / "prefect" / "prefect.db") as database:
        named = database.execute("select state_name, count(*) from task_run group by state_name").fetchall()
        flows = database.execute("select distinct state_type from flow_run").fetchall()
    assert dict(named)["Cached"] == len(NODES)
    assert flows == [("COMPLETED",)]


def test_the_run_page_shows_progress_tables_and_pictures(finished: Path) -> None:
    with sqlite3.connect(finished / ".gazeflow" / "prefect" / "prefect.db") as database:
        found = database.execute("select type, key, data from artifact where task_run_id is not null").fetchall()
        runs = database.execute("select name, tags from task_run").fetchall()
        logs = database.execute("select count(*) from log").fetchone()[0]
    kinds = {kind for kind, _, _ in found}
    assert {"progress", "table", "markdown"} <= kinds
    progress = {key: float(data) for kind, key, data in found if kind == "progress"}
    assert progress.keys() >= {"teacher-progress", "saliency-progress", "student-baseline-progress"}
    assert progress["teacher-progress"] == 100
    assert all(re.search(r"data:image/(png|jpeg);base64,", data) for kind, _, data in found if kind == "markdown")
    assert {n for n, _ in runs} >= set(NODES)
    assert all("gazeflow" in tags for n, tags in runs if n in NODES)
    assert logs > 0


def test_one_node_again_alone(copy: Path, gazeflow: Gazeflow) -> None:
    done = gazeflow("rerun", "fixations", "--only", "--config", "tiny.toml", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert "same result as fixations@" in done.stderr
    assert states(gazeflow, copy)["fixations"] == "Made"
    assert states(gazeflow, copy)["student"] == "not begun"
    assert len(complete(copy, "fixations")) == 1, "an equal result publishes nothing"


def test_shards_again_and_what_does_not_exist(copy: Path, gazeflow: Gazeflow) -> None:
    done = gazeflow("rerun", "saliency", "--shards", "0", "--only", "--config", "tiny.toml", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert len(complete(copy, "saliency")) == 1
    wrong = gazeflow("rerun", "saliency", "--shards", "0,7", "--config", "tiny.toml", cwd=copy)
    assert wrong.returncode == 3
    assert "no shards [7]" in wrong.stderr
    whole = gazeflow("rerun", "teacher", "--shards", "0", "--config", "tiny.toml", cwd=copy)
    assert whole.returncode == 2


def test_a_damaged_shard_is_found_and_made_again(copy: Path, gazeflow: Gazeflow, finished: Path) -> None:
    (tar,) = copy.glob("store/artifacts/saliency/shards/*.tar")
    tar.write_bytes(tar.read_bytes()[:-1024] + b"x" * 1024)
    (version,) = complete(copy, "saliency")
    found = gazeflow("verify", f"saliency@{version.name}", "--deep", "--config", "tiny.toml", cwd=copy)
    assert found.returncode == 4
    assert "next: gazeflow rerun saliency --damaged" in found.stdout
    done = gazeflow("rerun", "saliency", "--damaged", "--only", "--config", "tiny.toml", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert shas(copy, "saliency") == shas(finished, "saliency")
    check_store(gazeflow, copy)


def test_until_stops_there(fresh: Path, gazeflow: Gazeflow, finished: Path) -> None:
    done = gazeflow("run", "tiny.toml", "--until", "saliency", cwd=fresh)
    assert done.returncode == 0, done.stderr
    found = states(gazeflow, fresh)
    assert (found["teacher"], found["saliency"], found["fixations"]) == ("Made", "Made", "not begun")
    assert shas(fresh, "saliency") == shas(finished, "saliency"), "the same labels in another store"


def test_only_needs_its_inputs(fresh: Path, gazeflow: Gazeflow) -> None:
    done = gazeflow("run", "tiny.toml", "--only", "saliency", cwd=fresh)
    assert done.returncode == 3
    assert "--until teacher" in done.stderr


def test_a_broken_data_set_fails_its_node_alone(copy: Path, gazeflow: Gazeflow) -> None:
    """The node's error is the command's; what does not need it is made."""
    done = gazeflow("run", "tiny.toml", "--set", "student.baseline.batch_size=999", cwd=copy)
    assert done.returncode == 2, done.stderr
    assert "expected at least one batch of 999" in done.stderr
    found = states(gazeflow, copy)
    assert (found["student"], found["student.baseline"], found["evaluation"]) == ("Cached", "failed", "not begun")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing_running_and_goes_on(
    fresh: Path, gazeflow: Gazeflow, command: list[str], outside: dict[str, str], finished: Path, number: int
) -> None:
    words = ("run", "tiny.toml", "--until", "fixations")
    with running(command, fresh, outside, *words) as process:
        wait_for(process, fresh, "saliency: making" if number == signal.SIGINT else "teacher: making")
        process.send_signal(number)
        assert process.wait(120) == 130, (fresh / "run.err").read_text()
        assert gone_within(fresh, GONE_SECONDS), "no child and no server left"
    told = (fresh / "run.err").read_text()
    assert "gazeflow: " in told
    assert "Traceback" not in told
    assert status(gazeflow, fresh)["state"] == "stopped"
    done = gazeflow(*words, cwd=fresh)
    assert done.returncode == 0, done.stderr
    assert {k: shas(fresh, k) for k in LABELS} == {k: shas(finished, k) for k in LABELS}


def test_a_killed_run_ends_its_processes_and_goes_on_to_the_same_bytes(
    fresh: Path, gazeflow: Gazeflow, command: list[str], outside: dict[str, str], finished: Path
) -> None:
    words = ("run", "tiny.toml", "--until", "fixations")
    with running(command, fresh, outside, *words) as process:
        wait_for(process, fresh, "saliency: making")
        time.sleep(1)
        process.kill()
        process.wait()
        assert gone_within(fresh, GONE_SECONDS), "child and server end by themselves"
    assert not complete(fresh, "fixations")
    check_store(gazeflow, fresh)
    done = gazeflow(*words, cwd=fresh)
    assert done.returncode == 0, done.stderr
    assert {k: shas(fresh, k) for k in LABELS} == {k: shas(finished, k) for k in LABELS}


def test_two_runs_beside_each_other_end_well(
    fresh: Path, gazeflow: Gazeflow, command: list[str], outside: dict[str, str], finished: Path
) -> None:
    words = ("run", "tiny.toml", "--until", "fixations")
    with running(command, fresh, outside, *words) as first:
        second = gazeflow(*words, cwd=fresh)
        assert first.wait(900) == 0, (fresh / "run.err").read_text()
    assert second.returncode == 0, second.stderr
    assert len(complete(fresh, "teacher")) == 1
    assert {k: shas(fresh, k) for k in LABELS} == {k: shas(finished, k) for k in LABELS}
    check_store(gazeflow, fresh)


def test_a_newer_store_is_refused_before_anything_starts(copy: Path, gazeflow: Gazeflow) -> None:
    (copy / "store" / "gazeflow.json").write_text('{"format": 2}')
    done = gazeflow("run", "tiny.toml", cwd=copy)
    assert done.returncode == 4
    assert "expected store format 1, found 2" in done.stderr


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


def test_a_full_disk_is_told_leaves_nothing_half_written_and_goes_on(
    fresh: Path, gazeflow: Gazeflow, small_disk: Path, finished: Path
) -> None:
    words = ("run", "tiny.toml", "--until", "fixations", "--set", f"settings.store=file://{small_disk}/store")
    first = gazeflow(*words, "--set", "fixations.cap=511", cwd=fresh)
    assert first.returncode == 0, first.stderr
    (version,) = small_disk.glob("store/artifacts/saliency/*/manifest.json")
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    full = gazeflow(*words, "--set", "saliency.size=64", cwd=fresh)
    assert full.returncode == 75, (full.returncode, full.stderr)
    assert "No space left on device" in full.stderr
    assert "Traceback" not in full.stderr
    assert list(small_disk.glob("store/artifacts/saliency/*/manifest.json")) == [version]
    assert not list(small_disk.glob("store/.aside/*"))
    ballast.unlink()
    again = gazeflow(*words, "--set", "saliency.size=64", cwd=fresh)
    assert again.returncode == 0, again.stderr
    assert len(list(small_disk.glob("store/artifacts/saliency/*/manifest.json"))) == 2


def test_the_kill_loop_finds_no_difference(
    finished: Path, write_tiny: Callable[..., Path], tmp_path: Path, outside: dict[str, str]
) -> None:
    import sys

    script = Path(__file__).parents[1] / "benchmarks" / "kill_loop.py"
    done = subprocess.run(
        [sys.executable, str(script), "--runs", "2", "--seed", "1", "--config", str(write_tiny(tmp_path)),
         "--until", "fixations", "--folder", str(tmp_path / "loop")],
        cwd=tmp_path, env=outside, capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" OK") == 2
