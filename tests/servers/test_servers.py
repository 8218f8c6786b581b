"""The servers of the tests end with those who started them, whatever happens to these."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers import ceph
from tests.servers.base import Unavailable
from tests.servers.fixtures import FindServer

CEPH = """
from tests.servers.ceph import ceph
with ceph({name!r}, Path(sys.argv[1])) as cluster:
    print(*cluster.http.address, flush=True)
    time.sleep(60)
"""
RCLONE = """
from tests.servers.rclone import rclone_server
with rclone_server(Path(sys.argv[1])) as server:
    print(*server.address, flush=True)
    time.sleep(60)
"""
STARTS = {"ceph20-http": CEPH.format(name="ceph20"), "ceph16-http": CEPH.format(name="ceph16"), "rclone": RCLONE}


def listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, 1).close()
    except OSError:
        return False
    return True


@pytest.mark.system
@pytest.mark.parametrize("name", STARTS)
def test_servers_die_with_a_killed_test_run(tmp_path: Path, s3_server: FindServer, name: str) -> None:
    s3_server(name)  # skips where there is none
    code = "import sys, time\nfrom pathlib import Path\n" + STARTS[name]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    starter = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=env)
    assert starter.stdout is not None
    host, port = starter.stdout.readline().split()
    assert listens((host, int(port)))
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    deadline = time.monotonic() + 10
    while listens((host, int(port))):
        assert time.monotonic() < deadline, f"{name} lives on"
        time.sleep(0.05)
    starter.stdout.close()


def test_without_a_build_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceph, "FOLDER", tmp_path)
    with pytest.raises(Unavailable, match="make servers"), ceph.ceph("ceph20", tmp_path):
        pass


@pytest.mark.system
def test_buckets_are_new_and_two_schemes_show_one_store(s3_server: FindServer) -> None:
    http, https = s3_server("ceph20-http"), s3_server("ceph20-https")
    bucket, other = http.bucket(), http.bucket()
    assert bucket != other
    http.client().put_object(Bucket=bucket, Key="a", Body=b"x")
    assert https.client().get_object(Bucket=bucket, Key="a")["Body"].read() == b"x"
    assert http.version.startswith("radosgw 20.")
