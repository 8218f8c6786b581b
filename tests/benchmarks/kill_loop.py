"""Kill runs with -9 at random moments, run them again, and compare every label with an undisturbed run.

    python tests/benchmarks/kill_loop.py --runs 10 --until fixations

One reference run makes the data and says how long a run takes. Then each of N fresh stores is killed once, the
command alone: its child processes and its server must end by themselves. The same command is given again, and
the SHA-256 of every teacher, label and student member must be the reference's. Exit status 1 on any difference.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks._config import find_config, load_config

KINDS = ("teacher", "saliency", "fixations", "student")
END_SECONDS = 15.0  # for the processes of a killed run to end by themselves
COLUMNS = "{:>4}  {:>10}  {:<24}  {:>11}  {:>9}  {}"


@dataclass(frozen=True)
class Kill:
    """What one killed run came to."""

    number: int
    seconds: float  # from the start of the command to its end by kill
    under_way: str  # nodes that the run's record names as running
    ended: float | None  # seconds until none of its processes was left; None: some stayed
    rerun: float  # seconds of the second run
    verdict: str  # "OK", or what is different

    def line(self) -> str:
        ended = "LEFT" if self.ended is None else f"{self.ended:.1f} s"
        killed, rerun = f"{self.seconds:.1f} s", f"{self.rerun:.0f} s"
        return COLUMNS.format(self.number, killed, self.under_way, ended, rerun, self.verdict)


def main() -> int:
    """Run the loop; returns the exit status."""
    args = _arguments()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="gazeflow-kill-loop-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    config = str(find_config(args.config).resolve())  # the runs have folders of their own
    words = ["run", config, *_shared_data(config, folder)]
    first = [*words, *(["--until", args.until] if args.until else [])]
    again = [*words, "--until", args.again_until] if args.again_until else first
    kinds = _kinds(config, args.again_until)
    print(f"folder {folder}, seed {args.seed}", flush=True)
    whole = _undisturbed(first, folder / "reference")
    expected = members(folder / "reference", kinds)
    print(f"reference: {whole:.1f} s, {len(expected)} members", flush=True)
    print(COLUMNS.format("RUN", "KILLED", "UNDER WAY", "CHILDREN", "RERUN", "RESULT"), flush=True)
    rng = random.Random(args.seed)
    wrong = 0
    for number in range(1, args.runs + 1):
        place = folder / f"run-{number:03d}"
        kill = _killed(number, first, again, place, rng.uniform(0.02, 0.98) * whole, expected, kinds)
        print(kill.line(), flush=True)
        if kill.verdict == "OK" and kill.ended is not None:
            shutil.rmtree(place)  # a wrong one stays to be looked at
        else:
            wrong += 1
    print(f"{args.runs} kills, {wrong} different")
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=10, help="stores to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--config", default="demo.toml", help="a TOML file or preset")
    parser.add_argument("--until", default=None, help="last node to make, such as fixations")
    parser.add_argument("--again-until", default=None, help="last node of the second run; only up to it is compared")
    parser.add_argument("--folder", default=None, help="where to work; a new temporary folder otherwise")
    return parser.parse_args()


def _kinds(config: str, until: str | None) -> set[str]:
    """The kinds whose members are compared."""
    if until is None:
        return set(KINDS)
    loaded = load_config(config)
    return {loaded.node(n).stage for n in (until, *loaded.upstream(until))}


def _shared_data(config: str, folder: Path) -> list[str]:
    """Overrides that give every run the same data: what is generated lies beside the runs."""
    words = []
    for name, dataset in load_config(config).datasets.items():
        base = folder if dataset.generate is not None else Path.cwd()
        words += ["--set", f"datasets.{name}.path={json.dumps(str(base / dataset.path))}"]
    return [*words, "--set", 'settings.store="file://./store"']


def _undisturbed(words: list[str], place: Path) -> float:
    """Seconds of a whole run; raises when it fails."""
    started = time.monotonic()
    with _started(words, place) as process:
        code = process.wait()
    if code:
        raise SystemExit(f"the reference run ended with status {code}:\n{(place / 'run.err').read_text()[-3000:]}")
    return time.monotonic() - started


def _killed(
    number: int,
    first: list[str],
    again: list[str],
    place: Path,
    moment: float,
    expected: dict[str, str],
    kinds: set[str],
) -> Kill:
    started = time.monotonic()
    with _started(first, place) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.kill()
        process.wait()
    seconds = time.monotonic() - started
    node, ended = under_way(place), _ended(place)
    started = time.monotonic()
    with _started(again, place) as process:
        code = process.wait()
    found = difference(expected, members(place, kinds))
    verdict = f"FAILED with status {code}, see {place / 'run.err'}" if code else found
    return Kill(number, seconds, node, ended, time.monotonic() - started, verdict)


def _started(words: list[str], place: Path) -> subprocess.Popen[bytes]:
    """The command, begun in a folder of its own, what it tells appended to run.err."""
    place.mkdir(parents=True, exist_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GAZEFLOW_", "PREFECT_"))}
    command = str(Path(sys.executable).with_name("gazeflow"))
    with open(place / "run.err", "ab") as told:
        return subprocess.Popen([command, *words], cwd=place, env=env, stdout=told, stderr=told)


def _ended(place: Path) -> float | None:
    """Seconds until no process works in a folder any more; None when one stays."""
    started = time.monotonic()
    while time.monotonic() - started < END_SECONDS:
        if not _processes(place):
            return time.monotonic() - started
        time.sleep(0.05)
    return None


def _processes(place: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.joinpath("cwd").resolve() == place and process.joinpath("cmdline").read_bytes():
                found.append(int(process.name))
    return found


def under_way(place: Path) -> str:
    """The nodes that the last run's record names as running."""
    records = sorted(place.glob("store/runs/*.json"))
    if not records:
        return "(starting)"
    nodes = json.loads(records[-1].read_text())["nodes"]
    return ", ".join(n for n, facts in nodes.items() if facts["state"] == "running") or "(between nodes)"


def members(place: Path, kinds: Iterable[str] = KINDS) -> dict[str, str]:
    """SHA-256 of the bytes of every result member of every complete version, by version and name."""
    found = {}
    for kind in sorted(kinds):
        for path in sorted(place.glob(f"store/artifacts/{kind}/*/manifest.json")):
            for member in json.loads(path.read_text())["members"]:
                data = (place / "store" / member["key"]).read_bytes()
                found[f"{kind}@{path.parent.name}/{member['name']}"] = hashlib.sha256(data).hexdigest()
    return found


def difference(expected: dict[str, str], found: dict[str, str]) -> str:
    """"OK", or the first members that differ."""
    names = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
    return f"DIFFERENT: {len(names)} members: {', '.join(names[:4])}" if names else "OK"


if __name__ == "__main__":
    sys.exit(main())
