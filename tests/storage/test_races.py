"""Real processes at once, on every place that a store can lie in: one winner each, and nothing tagged is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.errors import NotFound
from storage.store import Store
from storage.tags import all_tags, history
from tests.servers.fixtures import FAST, REAL, FindServer, Place
from tests.storage.mortal import read_whole
from tests.storage.racer import KIND, key_of

ROOT = Path(__file__).parents[2]
PROCESSES, ROUNDS, SECONDS = 8, 4, 5

Start = Callable[[str, str, int], "subprocess.Popen[str]"]

PLACES = ["local", *(pytest.param(n, marks=pytest.mark.system) for n in (*FAST, *REAL))]


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path, s3_server: FindServer, s3_place: Place) -> Store:
    """A new store in the place that the test is parametrized by."""
    url = f"file://{tmp_path}/store" if request.param == "local" else s3_place(s3_server(request.param))
    return Store.open(url)


@pytest.fixture
def start(store: Store) -> Iterator[Start]:
    """Start a racer, which waits for a line; it does not outlive the test."""
    started = []

    def begin(role: str, name: str, amount: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.storage.racer", role, store.backend.url, name, str(amount)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def run(processes: list[subprocess.Popen[str]]) -> list[Any]:
    """Let all go at once; what each says in the end."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [p.returncode for p in processes] == [0] * len(processes)
    return [json.loads(line) for line in said]


@pytest.mark.parametrize("store", PLACES, indirect=True)
def test_one_winner_for_a_key_and_for_a_move_of_a_tag(store: Store, start: Start) -> None:
    said = run([start("race", str(n), ROUNDS) for n in range(PROCESSES)])
    for n in range(ROUNDS):
        winners = {made[n] for made, _ in said}
        assert len(winners) == 1, "all of them were told the same winner"
        versions = store.of_key(KIND, key_of(n).digest())
        (version,) = [v for v in versions if v.state == "complete"]
        assert not [v for v in versions if v.state == "open"]
        manifest = store.resolve(version.ref)
        assert {manifest.run} == winners
        read_whole(store, manifest)
        entries = history(store.backend, KIND, f"round-{n}")
        assert [e.number for e in entries] == list(range(1, len(entries) + 1))
        assert sorted(moved[n] for _, moved in said if moved[n]) == [e.number for e in entries]
        for number, (_, moved) in enumerate(said):
            own = store.complete(KIND, key_of(1000 + number).digest())
            assert own is not None
            assert moved[n] is None or entries[moved[n] - 1].version == own.name
    assert not [e.key for e in store.backend.entries("artifacts/") if "/claims/" in e.key]


@pytest.mark.parametrize("store", PLACES, indirect=True)
def test_gc_beside_publishers_loses_nothing_that_is_tagged(store: Store, start: Start) -> None:
    suppliers = [start("supply", str(n), SECONDS) for n in range(3)]
    sweepers = [start("sweep", str(n), SECONDS) for n in range(2 if store.backend.url.startswith("file") else 1)]
    said = run([*suppliers, *sweepers])
    assert all(tagged > 0 for tagged, _ in said[:3]), said
    assert sum(versions for versions, _, _ in said[3:]) > 0, said
    for kind, tag in all_tags(store.backend):
        entries = history(store.backend, kind, tag)
        assert [e.number for e in entries] == list(range(1, len(entries) + 1))
        for entry in entries[-10:]:
            read_whole(store, store.resolve(entry.ref))
    for version in store.versions(KIND):
        if version.state == "complete":
            read_whole(store, store.manifest(KIND, version.name))
    with pytest.raises(NotFound):
        store.resolve(f"{KIND}:nobody")
