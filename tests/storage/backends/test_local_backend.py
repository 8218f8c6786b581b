"""The local backend under what only real files meet: other processes, a full disk, kill -9."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.backends.local import LocalBackend
from storage.errors import InvalidInput

ROOT = Path(__file__).parents[3]


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


AS_NOBODY = """
import os, sys
from pathlib import Path
from storage.backends.local import LocalBackend
os.setgid(65534); os.setuid(65534)
backend = LocalBackend(Path(sys.argv[1]))
for call in (
    lambda: list(backend.entries("")), lambda: backend.children("a/private/"), lambda: backend.get("a/private/k"),
    lambda: backend.size("a/private/k"), lambda: backend.create("a/new", b"x"), lambda: backend.delete("a/open"),
):
    try:
        print("returned", call())
    except Exception as error:
        print(type(error).__name__, str(error).count("Permission denied"))
"""


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A temporary folder that every user of the machine may enter; pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_what_may_not_be_looked_into_is_never_taken_for_empty(public_path: Path) -> None:
    """A listing without what is hidden from this user would make gc take its members for nobody's."""
    backend = LocalBackend(public_path / "store")
    backend.create("a/private/k", b"x")
    backend.create("a/open", b"x")
    (public_path / "store" / "a" / "private").chmod(0o700)
    told = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(public_path / "store")], capture_output=True, text=True, cwd=ROOT
    )
    assert told.stdout.splitlines() == ["InvalidInput 1"] * 6, told.stderr


def test_a_folder_that_is_a_link_is_listed_like_any_other(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "store")
    backend.create("a/moved/k", b"x")
    (tmp_path / "store" / "a" / "moved").rename(tmp_path / "elsewhere")
    (tmp_path / "store" / "a" / "moved").symlink_to(tmp_path / "elsewhere")
    assert [e.key for e in backend.entries("")] == ["a/moved/k"]
    assert backend.children("a/") == ["moved/"]


def test_a_place_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidInput, match="GAZEFLOW_STORE"):
        LocalBackend(tmp_path / "file" / "store").create("k", b"x")
    with pytest.raises(InvalidInput, match="GAZEFLOW_STORE"):
        LocalBackend(Path("/proc/nothing")).create("k", b"x")
