"""The real command, as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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
