"""The local backend under what only real files meet: other processes, a full disk, kill -9."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.backends.local import LocalBackend


def script(code: str, *args: object, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Another Python process that has `backend`, `sys` and `time`; args[0] is the store's folder."""
    head = (
        "import sys, time\nfrom pathlib import Path\nfrom storage.backends.local import LocalBackend\n"
        "backend = LocalBackend(Path(sys.argv[1]))\n"
    )
    command = [*before, sys.executable, "-c", head + code, *map(str, args)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def test_processes_racing_for_keys_have_one_winner(tmp_path: Path) -> None:
    racing = """
print("ready", flush=True)
while not Path(sys.argv[3]).exists():
    time.sleep(0.001)
data = sys.argv[2].encode() * 300_000
print([n for n in range(20) if backend.create(f"race/{n}", data)], flush=True)
"""
    racers = [script(racing, tmp_path / "store", n, tmp_path / "go") for n in range(8)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    won = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    backend = LocalBackend(tmp_path / "store")
    assert sorted(n for keys in won for n in keys) == list(range(20))
    for number, keys in enumerate(won):
        for n in keys:
            assert backend.get(f"race/{n}") == str(number).encode() * 300_000
    assert list((tmp_path / "store" / ".aside").iterdir()) == []


def test_full_disk_is_transient_and_leaves_nothing(tmp_path: Path) -> None:
    """On a tmpfs of 2 MB, in a mount namespace of its own."""
    filling = """
from storage.errors import Transient
assert backend.create("fits", b"x" * 1_000_000)
for write in (backend.create, backend.replace):
    for key in ("big/new", "fits"):
        try:
            done = write(key, b"y" * 5_000_000)
        except Transient as error:
            assert "Free space" in str(error) and key in str(error), error
        else:
            assert done is False and key == "fits", (write, key)
assert [e.key for e in backend.entries("")] == ["fits"] and backend.get("fits") == b"x" * 1_000_000
assert list((backend.root / ".aside").iterdir()) == []
backend.delete("fits")
assert backend.create("big/new", b"y" * 1_500_000)
print("done")
"""
    mount = ("unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=2m tmpfs "{tmp_path}" || exit 77; exec "$@"', "sh")
    try:
        filler = script(filling, tmp_path / "store", before=mount)
    except FileNotFoundError:
        pytest.skip("no unshare(1) here")
    output = filler.communicate(timeout=60)[0]
    if filler.returncode in (1, 77) and ("unshare" in output or "mount" in output):
        pytest.skip(f"no mount namespace here: {output.strip()}")
    assert output == "done\n"


WRITERS = {
    "create": """
import hashlib, itertools
print("ready", flush=True)
for n in itertools.count():
    data = f"{sys.argv[2]} {n} ".encode().ljust(64) * 80_000
    assert backend.create("objects/" + hashlib.sha256(data).hexdigest(), data)
""",
    "replace": """
import itertools
print("ready", flush=True)
for n in itertools.count():
    backend.replace("one", bytes([n % 256]) * 5_000_000)
""",
}


@pytest.mark.system
@pytest.mark.parametrize("writer", WRITERS)
def test_killed_writers_leave_whole_objects_alone(tmp_path: Path, writer: str) -> None:
    moments = random.Random(0)
    for round in range(6):
        process = script(WRITERS[writer], tmp_path, round)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.02, 0.25))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stdout.read()
        process.stdout.close()
    backend = LocalBackend(tmp_path)
    keys = [entry.key for entry in backend.entries("")]
    assert keys
    for key in keys:
        data = backend.get(key)
        if writer == "create":
            assert key == "objects/" + hashlib.sha256(data).hexdigest()
        else:
            assert (key, len(data), len(set(data))) == ("one", 5_000_000, 1)


def test_leftovers_are_never_listed_and_go_after_a_day(tmp_path: Path) -> None:
    aside = tmp_path / ".aside"
    aside.mkdir()
    (aside / "old").write_bytes(b"half")
    (aside / "young").write_bytes(b"half")
    day_ago = time.time() - 25 * 3600
    os.utime(aside / "old", (day_ago, day_ago))
    backend = LocalBackend(tmp_path)
    assert backend.sweep(24 * 3600) == 1
    assert sorted(p.name for p in aside.iterdir()) == ["young"]
    assert list(backend.entries("")) == backend.children("") == []
