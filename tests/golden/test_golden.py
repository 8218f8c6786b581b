"""Is the code that makes a stage's result still the code its golden file was made with?"""

import importlib.util
import json
from pathlib import Path

import pytest

from tasks._stage import load_stage, stage_names

spec = importlib.util.spec_from_file_location("golden", Path(__file__).parent / "golden.py")
assert spec is not None
assert spec.loader is not None
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)


@pytest.mark.parametrize("stage", stage_names())
def test_code_that_makes_results_is_the_golden_one(stage: str) -> None:
    recorded = json.loads(golden.golden_file(stage).read_text())
    assert (recorded["version"], recorded["code"]) == (load_stage(stage).version, golden.code_digest(stage)), (
        f"the code that makes {stage}'s results has changed since tests/golden/{stage}.json: run `make golden`; "
        "it asks for a new stage version where the bytes changed"
    )


def test_digest_sees_code_and_not_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("tasks", "models"):
        (tmp_path / package).mkdir()
    (tmp_path / "tasks" / "s.py").write_text("from models import m\n")
    maker = tmp_path / "models" / "m.py"
    monkeypatch.setattr(golden, "ROOT", tmp_path)
    maker.write_text("def f():\n    return 1\n")
    first = golden.code_digest("s")
    maker.write_text('def f():\n    """Now told."""\n    return 1  # one\n')
    assert golden.code_digest("s") == first
    maker.write_text("def f():\n    return 2\n")
    assert golden.code_digest("s") != first
