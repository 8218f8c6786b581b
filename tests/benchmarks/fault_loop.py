"""Publish, tag and pull a version while it is killed, cut off, stalled and refused; then look what came of it.

    python -m tests.benchmarks.fault_loop --runs 200 --servers local,ceph20,ceph16

Each run has a fresh store. A process publishes a few shards, tags the version, collects garbage and pulls it; a TCP
proxy before the server does a seeded harm to its requests, and at a seeded moment it is killed with -9 (or left to end
by itself). After each such try nothing half-made may be visible; after the last, undisturbed one the store must hold
the expected bytes, one version, one tag entry, and the pulled folder the same bytes. Exit status 1 on any difference.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from storage.errors import NotFound
from storage.store import Store
from storage.tags import history
from storage.verify import damaged
from tests.benchmarks.fault_worker import KIND, TAG, shard_bytes, shards_of
from tests.servers.base import Unavailable
from tests.servers.ceph import ceph
from tests.servers.proxy import Fault, FaultProxy

SERVERS = ("local", "ceph20", "ceph16")
IMPATIENT = {"GAZEFLOW_S3_READ_SECONDS": "0.5", "GAZEFLOW_S3_ATTEMPTS": "4"}
TRIES = 3  # disturbed ones of a run
ENDS = {0: "ended well", 4: "refused damaged bytes", -9: "killed", 75: "gave up for now"}


@dataclass(frozen=True)
class Place:
    """Where stores are made."""

    name: str
    url: str  # with fields for the run's folder and seed
    env: dict[str, str] = field(default_factory=dict)
    address: tuple[str, int] | None = None  # of the server, which the proxy goes before


@dataclass
class Told:
    """What happened."""

    runs: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    faults: int = 0  # requests that a fault befell
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Told) -> None:
        self.runs += other.runs
        self.ends += other.ends
        self.faults += other.faults
        self.wrong += other.wrong


def main() -> int:
    """Run the loop; returns the exit status."""
    args = _arguments()
    began = time.monotonic()
    told = Told()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gazeflow-faults-")))
        places = _places(args.servers.split(","), folder, stack)
        pool = stack.enter_context(ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")))
        runs = []
        for number in range(args.runs if places else 0):
            place = places[number % len(places)]
            runs.append(pool.submit(_run, args.seed * 100_000 + number, place, folder / f"run-{number}"))
        for number, run in enumerate(runs):
            if args.seconds and time.monotonic() - began > args.seconds:
                for waiting in runs[number:]:  # of those under way none is cancelled
                    waiting.cancel()
            if not run.cancelled():
                told.add(run.result())
            if (number + 1) % 20 == 0:
                print(f"{told.runs} runs, {time.monotonic() - began:.0f} s, {len(told.wrong)} wrong", flush=True)
    ends = ", ".join(f"{count} {end}" for end, count in sorted(told.ends.items()))
    where = ", ".join(p.name for p in places)
    print(f"{told.runs} runs on {where} in {time.monotonic() - began:.0f} s, seed {args.seed}: processes {ends}")
    print(f"{told.faults} requests harmed; {len(told.wrong)} things wrong")
    for line in told.wrong:
        print(line)
    return 1 if told.wrong or not told.runs else 0


def _run(seed: int, place: Place, folder: Path) -> Told:
    """One run."""
    chance = random.Random(seed)
    told = Told(runs=1)
    folder.mkdir()
    url = place.url.format(folder=folder, seed=seed)
    os.environ.update(place.env)
    for number in range(chance.randint(1, TRIES)):
        told.ends[_disturbed(chance, url, place, seed, folder, told)] += 1
        told.wrong += [f"after try {number}: {w}" for w in _half_visible(url, folder)]
    calm = subprocess.run(_worker(url, seed, folder), capture_output=True, text=True, timeout=300)
    if calm.returncode:
        told.wrong.append(f"the undisturbed try ended with {calm.returncode}: {calm.stderr[-2000:]}")
    else:
        told.wrong += _different(url, seed, folder)
    told.wrong = [f"seed {seed} ({place.name}): {w}" for w in told.wrong]
    return told


def _disturbed(chance: random.Random, url: str, place: Place, seed: int, folder: Path, told: Told) -> str:
    """Let a process work under a fault, killed at some moment perhaps; returns how it ended."""
    env = dict(os.environ)
    with contextlib.ExitStack() as stack:
        if place.address is not None:
            proxy = stack.enter_context(FaultProxy(place.address, seed))
            proxy.set(_fault(chance), share=chance.choice((0.02, 0.1, 0.3)))
            env |= {"AWS_ENDPOINT_URL_S3": proxy.endpoint} | IMPATIENT
        process = subprocess.Popen(
            _worker(url, seed, folder), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        kill_after = chance.uniform(0.3, 3.0) if place.address is None or chance.random() < 0.6 else 60.0
        try:
            _, error = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            _, error = process.communicate()
        if place.address is not None:
            told.faults += proxy.hits
    if process.returncode not in ENDS or "Traceback" in error:
        told.wrong.append(f"a process ended with {process.returncode}: {error[-1500:]}")
    return ENDS.get(process.returncode, f"ended with {process.returncode}")


def _fault(chance: random.Random) -> Fault:
    """A harm to some requests."""
    at = chance.choice((0, 100, 700, 5_000, 200_000))
    return chance.choice(
        (
            Fault(cut_up=at), Fault(cut_down=at), Fault(cut_down=at, reset=True), Fault(cut_up=at, reset=True),
            Fault(stall_up=at), Fault(stall_down=at), Fault(lose=True), Fault(lose=True, reset=True),
            Fault(refuse=True), Fault(flip_up=at), Fault(flip_down=at), Fault(latency=0.05), Fault(bandwidth=2e6),
        )
    )  # fmt: skip


def _half_visible(url: str, folder: Path) -> Iterator[str]:
    """What looks complete and is not."""
    try:
        store = Store.existing(url)
    except NotFound:
        return  # killed before there was one
    for version in store.versions(KIND):
        if version.state == "complete":
            manifest = store.manifest(KIND, version.name)
            yield from (f"{d.member.name}: {d.problem}" for d in damaged(store.backend, manifest, deep=True))
    for marker in folder.glob("pulled/*/gazeflow.json"):
        for name, digest in json.loads(marker.read_text())["files"].items():
            if hashlib.sha256((marker.parent / name).read_bytes()).hexdigest() != digest:
                yield f"{marker.parent / name} is not what its folder's marker says"


def _different(url: str, seed: int, folder: Path) -> Iterator[str]:
    """What is not as an undisturbed run leaves it."""
    yield from _half_visible(url, folder)
    store = Store.existing(url)
    found = store.versions(KIND)
    if [v.state for v in found] != ["complete"]:
        yield f"expected one complete version, found {found}"
        return
    expected = {f"{KIND}-{n:06d}.tar": shard_bytes(seed, n) for n in shards_of(seed)}
    manifest = store.manifest(KIND, found[0].name)
    stored = {m.name: store.read(m) for m in manifest.members}
    if stored != expected:
        yield f"other bytes in the store: {sorted(n for n in expected if stored.get(n) != expected[n])}"
    entries = history(store.backend, KIND, TAG)
    if [(e.number, e.version) for e in entries] != [(1, found[0].name)]:
        yield f"expected one entry of the tag, found {entries}"
    pulled = {p.name: p.read_bytes() for p in (folder / "pulled" / manifest.ref).glob("*.tar")}
    if pulled != expected:
        yield f"other bytes in the pulled folder: {sorted(n for n in expected if pulled.get(n) != expected[n])}"


def _worker(url: str, seed: int, folder: Path) -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks.fault_worker", url, str(seed), str(folder / "pulled")]


def _places(names: list[str], folder: Path, stack: contextlib.ExitStack) -> list[Place]:
    places = []
    for name in names:
        if name == "local":
            places.append(Place(name, "file://{folder}/store"))
            continue
        (folder / name).mkdir()
        try:
            server = stack.enter_context(ceph(name, folder / name)).http
        except Unavailable as reason:
            print(f"{name}: left out: {reason}", flush=True)
            continue
        places.append(Place(name, f"s3://{server.bucket()}/run-{{seed}}", server.env, server.address))
    return places


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="begin no run after so long")
    parser.add_argument("--jobs", type=int, default=6, help="runs at once")
    parser.add_argument("--servers", default=",".join(SERVERS), help="some of these; Ceph by `make servers`")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
