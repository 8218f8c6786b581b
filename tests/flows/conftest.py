"""The real command, as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from storage.attempt import open_attempt
from storage.images import decode_png_gray, encode_png_gray
from storage.manifest import Manifest
from storage.shards import write_saliency
from storage.store import Store
from tests.storage.labels import Labels, make_labels, publish

GONE_SECONDS = 10  # for processes to notice that their parent went; a second where nothing else runs
Gazeflow = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def command() -> list[str]:
    """The installed `gazeflow` of this environment."""
    script = Path(sys.executable).with_name("gazeflow")
    if not script.exists():
        pytest.skip("gazeflow is not installed in this environment; `make install`")
    return [str(script)]


@pytest.fixture(scope="session")
def outside() -> dict[str, str]:
    """An environment without settings of gazeflow or Prefect, and without borrowed import paths."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GAZEFLOW_", "PREFECT_", "PYTHON"))}
    return kept | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def gazeflow(command: list[str], outside: dict[str, str], tmp_path: Path) -> Gazeflow:
    """Run the command in a folder (a fresh one unless said otherwise) to its end."""

    def run(*words: str, cwd: Path = tmp_path, timeout: float = 900, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *words], cwd=cwd, env=outside | env, capture_output=True, text=True, timeout=timeout
        )

    return run


@dataclass(frozen=True)
class Home:
    """A folder with the tiny config, in which the command runs; what it left there."""

    path: Path
    command: list[str]
    env: dict[str, str]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command to its end."""
        return subprocess.run(
            [*self.command, *words], cwd=self.path, env=self.env, capture_output=True, text=True, timeout=1500
        )

    @contextlib.contextmanager
    def running(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """The command under way, its standard error in run.err; killed with all it started on leaving."""
        with open(self.path / "run.err", "w") as err:
            command = [*self.command, *words]
            process = subprocess.Popen(command, cwd=self.path, env=self.env, stdout=err, stderr=err, text=True)
            try:
                yield process
            finally:
                for pid in self.processes():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()

    def told(self) -> str:
        return (self.path / "run.err").read_text()

    def wait_for(self, process: subprocess.Popen[str], text: str, seconds: float = 900) -> None:
        """Until the run under way has said so."""
        deadline = time.monotonic() + seconds
        while text not in self.told():
            assert process.poll() is None, self.told()
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.02)

    def status(self) -> dict[str, Any]:
        done = self.run("status", "--config", "tiny.toml", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def states(self) -> dict[str, str]:
        return {n["node"]: n["state"] for n in self.status()["nodes"]}

    def complete(self, kind: str) -> list[Path]:
        return sorted(p.parent for p in self.path.glob(f"store/artifacts/{kind}/*/manifest.json"))

    def shas(self, kind: str) -> dict[str, str]:
        """Result members of the only complete version of a kind."""
        (version,) = self.complete(kind)
        return {m["name"]: m["sha256"] for m in json.loads((version / "manifest.json").read_text())["members"]}

    def label_shas(self) -> list[dict[str, str]]:
        return [self.shas("saliency"), self.shas("fixations")]

    def check_store(self) -> None:
        """Every version in the store is whole, down to the last byte."""
        for manifest in self.path.glob("store/artifacts/*/*/manifest.json"):
            ref = f"{manifest.parts[-3]}@{manifest.parts[-2]}"
            done = self.run("verify", ref, "--deep", "--config", "tiny.toml")
            assert done.returncode == 0, done.stdout + done.stderr

    def processes(self) -> list[int]:
        """Processes that work in this folder, zombies aside."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if process.joinpath("cwd").resolve() == self.path and process.joinpath("cmdline").read_bytes():
                    found.append(int(process.name))
        return found

    def quiet(self) -> bool:
        """Whether within seconds no process works here any more."""
        deadline = time.monotonic() + GONE_SECONDS
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        return not self.processes()


@pytest.fixture(scope="session")
def finished(
    write_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, command: list[str],
    outside: dict[str, str],
) -> Home:  # fmt: skip
    """A folder in which the whole tiny DAG has run once, undisturbed."""
    home = Home(tmp_path_factory.mktemp("finished").resolve(), command, outside)
    write_tiny(home.path)
    done = home.run("run", "tiny.toml")
    assert done.returncode == 0, done.stderr
    (home.path / "first.out").write_text(done.stdout)
    (home.path / "first.err").write_text(done.stderr)
    return home


@pytest.fixture
def copy(finished: Home, write_tiny: Callable[..., Path], tmp_path: Path) -> Home:
    """A copy of that folder, to go on from."""
    folder = Path(shutil.copytree(finished.path, tmp_path / "copy")).resolve()
    write_tiny(folder)
    return Home(folder, finished.command, finished.env)


@pytest.fixture
def fresh(finished: Home, write_tiny: Callable[..., Path], tmp_path: Path) -> Home:
    """A folder with the config and no store; Prefect's database is there, which saves its migrations."""
    folder = (tmp_path / "fresh").resolve()
    write_tiny(folder)
    shutil.copytree(finished.path / ".gazeflow", folder / ".gazeflow")
    return Home(folder, finished.command, finished.env)


@dataclass(frozen=True)
class Told:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Ask = Callable[..., Told]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Ask:
    """Run the command within this process, in a folder of its own; a refusal is one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GAZEFLOW_STORE", f"file://{tmp_path}/store")

    def ask(*words: str, code: int | None = 0) -> Told:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["gazeflow", *words])
        ended: Any = 0
        try:
            main()
        except SystemExit as end:
            ended = end.code
        told = Told(ended, *capsys.readouterr())
        if code is None:  # any
            return told
        assert told.code == code, (words, told)
        if told.code and not told.out:
            *progress, error = told.err.splitlines()
            assert error.startswith("gazeflow: ")
            assert all(" kB" in line for line in progress)
        return told

    return ask


@pytest.fixture
def labels(ask: Ask, tmp_path: Path) -> Labels:
    return make_labels(Store.open(f"file://{tmp_path}/store"))


@pytest.fixture
def newer(labels: Labels) -> Manifest:
    """A second version of the maps: those of shard 0 the other way round, the other shards as they were."""
    turned = [replace(r, png=r.png and encode_png_gray(255 - decode_png_gray(r.png))) for r in labels.rows[0]]
    tar, index = write_saliency(turned)
    key = labels.saliency.key.model_copy(update={"params": {"turned": True}})
    attempt = open_attempt(labels.store, key, "node", "asked for", "r")
    first, *rest = labels.saliency.shards
    members = [attempt.put_shard(0, ".tar", tar, first.done), attempt.put_shard(0, ".parquet", index, len(turned))]
    return publish(attempt, [attempt.finish(r) for r in (first.model_copy(update={"members": members}), *rest)])
