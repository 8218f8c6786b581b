"""Whole runs through the real command with its Prefect server: made, cached, in part, again."""

from __future__ import annotations

import re
import sqlite3
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

NODES = ["teacher", "saliency", "fixations", "student", "student.baseline", "student.permuted", "evaluation"]


def test_all_nodes_are_made_and_told(finished: Any) -> None:
    assert finished.states() == dict.fromkeys(NODES, "Made")
    out, err = (finished.path / "first.out").read_text(), (finished.path / "first.err").read_text()
    assert all(f"{n} " in out for n in NODES)
    assert "report: file://" in out
    assert "next: gazeflow show evaluation@" in out
    assert "saliency: 80/80 images" in err
    assert "ETA" in err
    assert not finished.processes(), "the server ended with the run"
    finished.check_store()


def test_a_second_run_finds_everything_cached(copy: Any) -> None:
    before = sorted(p for p in copy.path.rglob("store/artifacts/**/*"))
    done = copy.run("run", "tiny.toml")
    assert done.returncode == 0, done.stderr
    assert copy.states() == dict.fromkeys(NODES, "Cached")
    assert sorted(p for p in copy.path.rglob("store/artifacts/**/*")) == before
    with sqlite3.connect(copy.path / ".gazeflow" / "prefect" / "prefect.db") as database:
        named = database.execute("select state_name, count(*) from task_run group by state_name").fetchall()
        flows = database.execute("select distinct state_type from flow_run").fetchall()
    assert dict(named)["Cached"] == len(NODES)
    assert flows == [("COMPLETED",)]


def test_the_run_page_shows_progress_tables_and_pictures(finished: Any) -> None:
    with sqlite3.connect(finished.path / ".gazeflow" / "prefect" / "prefect.db") as database:
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


def test_one_node_again_alone(copy: Any) -> None:
    done = copy.run("rerun", "fixations", "--only", "--config", "tiny.toml")
    assert done.returncode == 0, done.stderr
    assert "same result as fixations@" in done.stderr
    assert copy.states()["fixations"] == "Made"
    assert copy.states()["student"] == "not begun"
    assert len(copy.complete("fixations")) == 1, "an equal result publishes nothing"


def test_shards_again_and_what_does_not_exist(copy: Any) -> None:
    done = copy.run("rerun", "saliency", "--shards", "0", "--only", "--config", "tiny.toml")
    assert done.returncode == 0, done.stderr
    assert len(copy.complete("saliency")) == 1
    wrong = copy.run("rerun", "saliency", "--shards", "0,7", "--config", "tiny.toml")
    assert wrong.returncode == 3
    assert "no shards [7]" in wrong.stderr
    whole = copy.run("rerun", "teacher", "--shards", "0", "--config", "tiny.toml")
    assert whole.returncode == 2


def test_a_damaged_shard_is_found_and_made_again(copy: Any, finished: Any) -> None:
    (tar,) = copy.path.glob("store/artifacts/saliency/shards/*.tar")
    tar.write_bytes(tar.read_bytes()[:-1024] + b"x" * 1024)
    (version,) = copy.complete("saliency")
    found = copy.run("verify", f"saliency@{version.name}", "--deep", "--config", "tiny.toml")
    assert found.returncode == 4
    assert "next: gazeflow rerun saliency --damaged" in found.stdout
    done = copy.run("rerun", "saliency", "--damaged", "--only", "--config", "tiny.toml")
    assert done.returncode == 0, done.stderr
    assert copy.shas("saliency") == finished.shas("saliency")
    copy.check_store()


def test_until_stops_there(fresh: Any, finished: Any) -> None:
    done = fresh.run("run", "tiny.toml", "--until", "saliency")
    assert done.returncode == 0, done.stderr
    found = fresh.states()
    assert (found["teacher"], found["saliency"], found["fixations"]) == ("Made", "Made", "not begun")
    assert fresh.shas("saliency") == finished.shas("saliency"), "the same labels in another store"


def test_only_needs_its_inputs(fresh: Any) -> None:
    done = fresh.run("run", "tiny.toml", "--only", "saliency")
    assert done.returncode == 3
    assert "--until teacher" in done.stderr


def test_a_broken_data_set_fails_its_node_alone(copy: Any) -> None:
    """The node's error is the command's; what does not need it is made."""
    done = copy.run("run", "tiny.toml", "--set", "student.baseline.batch_size=999")
    assert done.returncode == 2, done.stderr
    assert "expected at least one batch of 999" in done.stderr
    found = copy.states()
    assert (found["student"], found["student.baseline"], found["evaluation"]) == ("Cached", "failed", "not begun")


def test_a_newer_store_is_refused_before_anything_starts(copy: Any) -> None:
    (copy.path / "store" / "gazeflow.json").write_text('{"format": 2}')
    done = copy.run("run", "tiny.toml")
    assert done.returncode == 4
    assert "expected store format 1, found 2" in done.stderr
