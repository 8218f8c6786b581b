"""A local store whose disk fails, fills up or loses its writer at any single call to the kernel.

strace makes the n-th write, fsync, link, rename, mkdir or unlink of a publication fail, for every n.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.errors import Transient
from storage.store import Store
from storage.tags import all_tags, history
from tests.storage.mortal import read_whole
from tests.storage.racer import KIND, key_of

ROOT = Path(__file__).parents[2]
WRITING = ("write", "fsync", "link", "linkat", "rename", "renameat", "renameat2", "mkdir", "mkdirat")
CALLS = (*WRITING, "unlink", "unlinkat")  # of the last two only the death: what cannot be unlinked is only a leftover
FAULTS = {"full": "error=ENOSPC", "broken": "error=EIO", "killed": "signal=SIGKILL"}

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here: apt-get install strace"),
]


class Disk:
    """Publishes in processes of their own, under strace."""

    def __init__(self, folder: Path, zygote: subprocess.Popen[str]) -> None:
        self.folder = folder
        self.zygote = zygote

    def publish(self, name: str) -> int:
        """Publish in the store of a name; returns the exit status."""
        store = self.folder / name
        Path(f"{store}.go").touch()
        self._ask(f"{store}\n")
        return self._end(store)

    def publish_traced(self, name: str, *inject: str) -> tuple[int, list[str]]:
        """The same under strace: (exit status, the names of the calls made)."""
        store, log = self.folder / name, self.folder / f"{name}.strace"
        pid = self._ask(f"{store}\n")
        command = ["strace", "-qq", "-o", str(log), "-p", str(pid), *inject]
        tracer = subprocess.Popen([*command, "-e", f"trace={','.join(f'?{c}' for c in CALLS)}"], stderr=subprocess.PIPE)
        self._wait_for_tracer(pid, tracer)
        Path(f"{store}.go").touch()
        status = self._end(store)
        tracer.communicate(timeout=20)
        return status, re.findall(r"^(\w+)\(", log.read_text(), re.MULTILINE)

    def _end(self, store: Path) -> int:
        status = self._ask("")
        Path(f"{store}.go").unlink()
        error = Path(f"{store}.error")
        assert not error.exists(), error.read_text()
        return status

    def _ask(self, line: str) -> int:
        assert self.zygote.stdin is not None
        assert self.zygote.stdout is not None
        self.zygote.stdin.write(line)
        self.zygote.stdin.flush()
        return int(self.zygote.stdout.readline())

    def _wait_for_tracer(self, pid: int, tracer: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + 20
        while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
            if tracer.poll() is not None or time.monotonic() > until:
                os.kill(pid, 9)
                assert tracer.stderr is not None
                pytest.skip(f"strace cannot attach to a process here: {tracer.stderr.read().decode().strip()}")
            time.sleep(0.002)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    command = [sys.executable, "-m", "tests.storage.zygote"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as zygote:
        yield Disk(tmp_path_factory.mktemp("disk"), zygote)
        zygote.kill()


@pytest.fixture(scope="module")
def calls(disk: Disk) -> Counter[str]:
    """How often an undisturbed publication makes each call."""
    status, made = disk.publish_traced("reference")
    assert status == 0
    return Counter(made)


def objects(folder: Path) -> dict[str, bytes]:
    """Every object of a store but those that say who wrote them and when, and checkpoints, which gc clears away."""
    store = Store.existing(f"file://{folder}")
    keys = [e.key for e in store.backend.entries("") if not re.search(r"^tags/|/claims/|/work/|\.try-", e.key)]
    return {key: store.backend.get(key) for key in keys}


def check_readable(folder: Path, reference: dict[str, bytes]) -> None:
    """Whatever is there is whole, and what is marked as complete is complete."""
    if not (folder / "gazeflow.json").exists():
        return
    store = Store.existing(f"file://{folder}")
    assert objects(folder).items() <= reference.items()
    for version in store.versions(KIND):
        assert store.attempt(version).key == key_of(1)
        if version.state == "complete":
            read_whole(store, store.manifest(KIND, version.name))
    for kind, tag in all_tags(store.backend):
        assert len(history(store.backend, kind, tag)) == 1
        read_whole(store, store.resolve(f"{kind}:{tag}"))


@pytest.mark.parametrize("fault", FAULTS)
def test_any_failing_call_leaves_a_store_to_go_on_with(disk: Disk, calls: Counter[str], fault: str) -> None:
    reference = objects(disk.folder / "reference")
    ends: Counter[int] = Counter()
    for call, count in calls.items():
        for number in range(1, count + 1):
            if call not in WRITING and fault != "killed":
                continue
            name = f"{fault}-{call}-{number}"
            status, _ = disk.publish_traced(name, "-e", f"inject={call}:{FAULTS[fault]}:when={number}")
            assert status in ((-9,) if fault == "killed" else (0, Transient.exit_code)), name
            ends[status] += 1
            check_readable(disk.folder / name, reference)
            assert disk.publish(name) == 0, name
            assert objects(disk.folder / name) == reference, name
            assert history(Store.existing(f"file://{disk.folder / name}").backend, KIND, "prod")[0].number == 1
            shutil.rmtree(disk.folder / name)
    assert sum(ends.values()) > 40, ends
    assert ends[-9 if fault == "killed" else Transient.exit_code] > 30, ends
