"""A Ceph RGW out of a folder that `make servers` built: started in seconds, gone with the test run."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers.base import ACCESS_KEY, SECRET_KEY, S3Server, Unavailable, die_with_parent, free_ports

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".servers"

# In a mount and a process name space of its own; without root also in a user name space.
SPACES = (
    ["unshare", "--mount", "--pid", "--fork", "--kill-child"],
    ["unshare", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child"],
)
MOUNTED = """set -e
for d in tmp run; do mount -t tmpfs none "$0/$d"; done
mount --bind "$1" "$0/mnt"
mount --rbind /dev "$0/dev"
mount -t proc proc "$0/proc"
shift
"""


@dataclass(frozen=True)
class Ceph:
    """A running cluster: the same gateway by http and by https."""

    http: S3Server
    https: S3Server


@contextlib.contextmanager
def ceph(name: str, folder: Path) -> Iterator[Ceph]:
    """Run .servers/NAME with all its data in `folder`. Raises Unavailable with the reason."""
    root = FOLDER / name
    if not (root / ".built").exists():
        raise Unavailable(f"no {name} in .servers: run `make servers`, which says why when it cannot build it")
    version = f"radosgw {(root / '.built').read_text().strip()}"
    port, tls_port, mon_port = free_ports(3)
    conf = (HERE / "ceph.conf").read_text()
    for field, value in {"fsid": uuid.uuid4(), "port": port, "tls_port": tls_port, "mon_port": mon_port}.items():
        conf = conf.replace(f"{{{field}}}", str(value))
    (folder / "ceph.conf").write_text(conf)
    shutil.copy(HERE / "ceph.sh", folder)
    env = {"OSD_UUID": str(uuid.uuid4()), "MON_PORT": str(mon_port), "ACCESS_KEY": ACCESS_KEY, "SECRET_KEY": SECRET_KEY}
    with _in_root(root, folder, ["/bin/bash", "/mnt/ceph.sh"], env) as process:
        _wait(process, f"http://127.0.0.1:{port}/", folder)
        yield Ceph(
            S3Server(f"{name}-http", f"http://127.0.0.1:{port}", version),
            S3Server(f"{name}-https", f"https://127.0.0.1:{tls_port}", version, str(folder / "tls.crt")),
        )


@contextlib.contextmanager
def _in_root(root: Path, folder: Path, command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command within `root`, `folder` being its /mnt. It ends when we leave, or when this process dies.

    Threefold: its standard input ends with us; unshare(1) dies with us; and it dies with unshare(1).
    """
    inside = [*_space(root, folder), "sh", "-c", MOUNTED + 'exec chroot "$0" "$@"', str(root), str(folder), *command]
    with open(folder / "start.out", "wb") as out:
        process = subprocess.Popen(
            inside, stdin=subprocess.PIPE, stdout=out, stderr=out, preexec_fn=die_with_parent,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **env},
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _space(root: Path, folder: Path) -> list[str]:
    """The first way into name spaces that this machine allows."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        raise Unavailable("no unshare(1) here")
    said = ""
    for space in SPACES:
        tried = subprocess.run([*space, "sh", "-c", MOUNTED, str(root), str(folder)], capture_output=True, text=True)
        if tried.returncode == 0:
            return space
        said = tried.stderr.strip()
    raise Unavailable(f"neither root nor a user name space here: {said}")


def _wait(process: subprocess.Popen[bytes], url: str, folder: Path, seconds: float = 60) -> None:
    """Until the gateway answers."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.05)
    logs = "".join(f"\n{f.name}: {f.read_text(errors='replace')[-1500:]}" for f in sorted(folder.glob("*.out")))
    ended = f"ended with {process.returncode}" if process.poll() is not None else f"did not answer in {seconds} s"
    raise RuntimeError(f"the Ceph for {url} {ended}:{logs}")
