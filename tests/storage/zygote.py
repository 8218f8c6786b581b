"""Forks a process that publishes and tags one version, in each store that it is told of.

A line on its input is the folder of a store; it answers with the new process's id and, when that has ended, with its
status. The process begins when FOLDER.go is there, so that strace can be attached to it first: it has nothing left to
import then, and its calls are those of the store alone.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from unittest.mock import patch

from storage.attempt import open_attempt
from storage.errors import GazeflowError
from storage.manifest import Manifest, ShardRecord
from storage.store import Store
from storage.tags import set_tag
from tests.storage.racer import KIND, PRODUCER, key_of

THEN = "2030-01-01T00:00:00Z"
SHARD = b"the bytes of a shard " * 10_000


def publish(folder: Path) -> None:
    """One version with a shard, a view and a checkpoint on the way, then its tag."""
    store = Store.open(f"file://{folder}")
    key = key_of(1)
    done = store.complete(KIND, key.digest())
    if done is None:
        attempt = open_attempt(store, key, "node", "asked for", "r")
        if not attempt.is_finished(0):
            attempt.start(0)
            member = attempt.put_shard(0, ".tar", SHARD, samples=1)
            attempt.save_checkpoint(1, b"weights", {})
            attempt.finish(ShardRecord(shard=0, shard_key="0" * 64, members=[member], done=1, failed=0))
        records = list(attempt.finished().values())
        view = attempt.put("report.html", b"<p>")
        attempt.publish(
            Manifest(
                kind=KIND, version=attempt.version.name, node="node", key=key, members=records[0].members, views=[view],
                shards=records, done=1, failed=0, seconds=0, published=THEN, producer=PRODUCER, run="r",
            )
        )  # fmt: skip
    set_tag(store, f"{KIND}@{key.digest()[:12]}", "prod")


def child(folder: Path) -> int:
    while not Path(f"{folder}.go").exists():
        time.sleep(0.002)
    try:
        publish(folder)
    except GazeflowError as error:
        return error.exit_code
    except BaseException:
        Path(f"{folder}.error").write_text(traceback.format_exc())
        return 1
    return 0


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os._exit(child(Path(line.strip())))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    with patch("storage.attempt.now", lambda: THEN), patch("storage.tags.now", lambda: THEN):
        main()
