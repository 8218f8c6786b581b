"""A minute of the fault loop: killed, cut, stalled and refused, nothing is lost and nothing half-made is seen."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.ceph import FOLDER

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


def test_nothing_is_lost_or_half_visible() -> None:
    built = [name for name in ("ceph20", "ceph16") if (FOLDER / name / ".built").exists()]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.fault_loop", "--runs", "60", "--seconds", "50", "--seed", "7"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *_, ends, harm = done.stdout.splitlines()
    assert all(name in ends for name in ("local", *built)), ends
    assert int(re.findall(r"(\d+) killed", ends)[0]) > 0
    assert harm.endswith("; 0 things wrong")
    if not built:
        pytest.skip("only the local folder was tried: no Ceph in .servers; run `make servers`")
    assert int(re.findall(r"(\d+) requests harmed", harm)[0]) > 0
