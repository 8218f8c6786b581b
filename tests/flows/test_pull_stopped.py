"""Ctrl-C while a server is silent: the command ends at once, and goes on when it is given again."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from storage.pull import MARKER
from storage.store import Store
from tests.servers.base import S3Server
from tests.servers.fixtures import Place
from tests.servers.proxy import Fault, FaultProxy
from tests.storage.labels import make_labels


@pytest.mark.parametrize("silent_from", [0, 2000])
@pytest.mark.parametrize("classes", [0, 1])
def test_a_pull_is_stopped_while_it_waits_for_bytes(
    moto: S3Server, s3_place: Place, command: list[str], outside: dict[str, str], tmp_path: Path, silent_from: int,
    classes: int,
) -> None:  # fmt: skip
    url = s3_place(moto)
    labels = make_labels(Store.open(url), side=40)
    words = [*command, "pull", labels.saliency.ref, "dest"]
    words += ["--classes", labels.classes[0]] if classes else []
    with FaultProxy(moto.address) as proxy:
        env = outside | moto.env | {"GAZEFLOW_STORE": url, "AWS_ENDPOINT_URL_S3": proxy.endpoint}
        (tar,) = [m.key for m in labels.saliency.shards[1].members if m.key.endswith(".tar")]
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        proxy.set(Fault(stall_down=silent_from), only=f"GET /{bucket}/{prefix}/{tar}".encode())
        process = subprocess.Popen(words, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
        while not proxy.hits:
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in err) == (130, False), err
        assert time.monotonic() - began < 5
        folder = tmp_path / "dest" / labels.saliency.ref
        assert not (folder / MARKER).exists()
        proxy.heal()
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        marker = json.loads((folder / MARKER).read_bytes())
        assert {p.name for p in folder.iterdir()} == {MARKER, *marker["files"]}
