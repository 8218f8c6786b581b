"""How fast versions go into a store and out of it, beside what a plain loop over the same server or folder takes.

    python -m tests.benchmarks.transfer --servers local,ceph20 --gigabytes 2

Every way runs as a process of its own, in turns, on the same bytes: a version of shards of 12.5 MB. On a server the
plain loop is boto3 in as many threads, hashing each file as we do (SHA-256 in, SHA-256 out); on a folder it is `cp`,
then `sync`, then `sha256sum`. Rates count from the start of the work to its end, with a process's own start left out.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from tests.servers.base import S3Server, Unavailable
from tests.servers.ceph import ceph

MB = 10**6
SHARD = 12_500_000  # bytes: 1,000 maps of 12 kB
THREADS = 8
WAYS = {"in": ("publish", "loop_in"), "out": ("pull", "loop_out")}


def main() -> int:
    """Measure; returns the exit status: 1 when we are slower than 0.9 of the plain loop or take 300 MB."""
    args = _arguments()
    slow = False
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gazeflow-transfer-", dir=args.folder)))
        shards = _write_shards(folder / "shards", int(args.gigabytes * 1000 * MB / SHARD))
        for name in args.servers.split(","):
            (folder / name).mkdir()
            try:
                server = None if name == "local" else stack.enter_context(ceph(name, folder / name)).http
            except Unavailable as reason:
                print(f"{name}: left out: {reason}", flush=True)
                continue
            slow |= _measure(name, server, folder, shards, args.rounds)
    return int(slow)


def _measure(name: str, server: S3Server | None, folder: Path, shards: Path, rounds: int) -> bool:
    """Measure one place and print it; whether we were slow or large there."""
    found: dict[str, list[tuple[float, float]]] = {way: [] for ways in WAYS.values() for way in ways}
    for number in range(rounds):
        home = folder / name / f"round-{number}"
        home.mkdir()
        url = f"file://{home}/store" if server is None else f"s3://{server.bucket()}"
        order = ["publish", "loop_in", "pull", "loop_out"]
        if number % 2:  # who goes first has the colder caches
            order = ["loop_in", "publish", "loop_out", "pull"]
        for way in order:
            found[way].append(_run(way, url, server, shards, home))
        shutil.rmtree(home)
        if server is not None:
            _empty(server, url)
    slow = False
    total = sum(p.stat().st_size for p in shards.iterdir())
    for what, (ours, plain) in WAYS.items():
        seconds = {way: median(s for s, _ in found[way]) for way in (ours, plain)}
        peak = max(m for _, m in found[ours])
        ratio = seconds[plain] / seconds[ours]
        slow |= ratio < 0.9 or peak >= 300
        rates = ", ".join(f"{way} {total / MB / seconds[way]:.0f} MB/s" for way in (ours, plain))
        each = " against ".join(" ".join(f"{s:.2f}" for s, _ in found[way]) for way in (ours, plain))
        print(f"{name} {what}: {rates}, ratio {ratio:.2f}, peak {peak:.0f} MB (seconds {each})", flush=True)
    return slow


def _run(way: str, url: str, server: S3Server | None, shards: Path, home: Path) -> tuple[float, float]:
    """One way in a process of its own: (seconds, peak MB)."""
    env = os.environ | (server.env if server else {})
    command = [sys.executable, "-m", "tests.benchmarks.transfer", "--way", way, url, str(shards), str(home)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way} on {url} ended with {done.returncode}: {done.stderr[-2000:]}")
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def publish(url: str, shards: Path, home: Path) -> None:
    """As a run publishes: each shard hashed and stored under its content's name, its record, the manifest."""
    from storage.attempt import open_attempt
    from storage.canonical import now
    from storage.manifest import Key, Manifest, Producer, ShardRecord
    from storage.parallel import ordered_map
    from storage.store import Store

    key = Key(stage="saliency", stage_version=1, params={}, inputs={}, datasets={})
    attempt = open_attempt(Store.open(url), key, "saliency", "a benchmark", "run")

    def made(numbered: tuple[int, Path]) -> ShardRecord:
        number, path = numbered
        member = attempt.put_shard(number, ".tar", path.read_bytes(), samples=1)
        return attempt.finish(ShardRecord(shard=number, shard_key=f"{number:064x}", members=[member], done=1, failed=0))

    records = list(ordered_map(made, enumerate(sorted(shards.iterdir())), THREADS, ahead=THREADS))
    producer = Producer(release="0", commit=None, python="3", torch=None, device="cpu")
    attempt.publish(
        Manifest(
            kind="saliency", version=attempt.version.name, node="saliency", key=key, views=[], shards=records,
            members=[m for r in records for m in r.members], done=len(records), failed=0, seconds=0, published=now(),
            producer=producer, run="run",
        )
    )  # fmt: skip


def pull(url: str, shards: Path, home: Path) -> None:
    """As the command pulls."""
    from storage.pull import pull as pull_version
    from storage.store import Store

    store = Store.existing(url)
    (version,) = store.versions("saliency")
    pull_version(store.backend, store.manifest("saliency", version.name), home / "pulled")


def loop_in(url: str, shards: Path, home: Path) -> None:
    """The plain way in."""
    if url.startswith("file://"):
        _copied_and_hashed(shards, home / "copied")
        return
    client, bucket = _plain_client(), url.removeprefix("s3://")

    def put(path: Path) -> str:
        data = path.read_bytes()
        client.put_object(Bucket=bucket, Key=f"plain/{path.name}", Body=data)
        return hashlib.sha256(data).hexdigest()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(put, sorted(shards.iterdir())))


def loop_out(url: str, shards: Path, home: Path) -> None:
    """The plain way out."""
    if url.startswith("file://"):
        _copied_and_hashed(home / "copied", home / "out")
        return
    client, bucket = _plain_client(), url.removeprefix("s3://")
    (home / "plain").mkdir()

    def get(path: Path) -> str:
        hasher = hashlib.sha256()
        with open(home / "plain" / path.name, "wb") as file:
            for chunk in client.get_object(Bucket=bucket, Key=f"plain/{path.name}")["Body"].iter_chunks(2**20):
                hasher.update(chunk)
                file.write(chunk)
        return hasher.hexdigest()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(get, sorted(shards.iterdir())))


def _plain_client() -> object:
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client("s3", config=Config(max_pool_connections=32, s3={"addressing_style": "path"}))


def _copied_and_hashed(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    subprocess.run(["sync", "-f", str(target)], check=True)
    subprocess.run(["sha256sum", *map(str, sorted(target.iterdir()))], check=True, stdout=subprocess.DEVNULL)


def _write_shards(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"saliency-{number:06d}.tar").write_bytes(random.Random(number).randbytes(SHARD))
    return folder


def _empty(server: S3Server, url: str) -> None:
    client, bucket = server.client(), url.removeprefix("s3://")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", ()):
            client.delete_object(Bucket=bucket, Key=entry["Key"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", default="local,ceph20", help="some of local, ceph20, ceph16")
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to work; a temporary folder otherwise")
    return parser.parse_args()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--way"]:
        way, url, shards, home = sys.argv[2:]
        began = time.perf_counter()
        {"publish": publish, "pull": pull, "loop_in": loop_in, "loop_out": loop_out}[way](url, Path(shards), Path(home))
        print(json.dumps([time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000]))
        sys.exit(0)
    sys.exit(main())
