"""The command line: light to start, exit codes that scripts can act on, help for everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli import app
from storage.runs import Run
from storage.store import Store

HEAVY = ("torch", "prefect", "webdataset", "matplotlib", "boto3")
LOADED = """
import json, sys
sys.argv = ["gazeflow", *sys.argv[1:]]
from flows.cli import main
try:
    main()
except SystemExit:
    pass
print("\\n" + json.dumps(sorted({m.partition(".")[0] for m in sys.modules})))
"""

COMMANDS = [c for c in app if not c.startswith("-")]


def loaded(code: str, *words: str, cwd: Path, env: dict[str, str]) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["plan"], ["versions", "teacher"]])
def test_looking_loads_neither_torch_nor_prefect(
    words: list[str], write_tiny: Callable[..., Path], tmp_path: Path, outside: dict[str, str]
) -> None:
    if words == ["plan"]:
        words = ["plan", str(write_tiny(tmp_path))]
    modules = loaded(LOADED, *words, cwd=tmp_path, env=outside)
    assert "flows" in modules
    assert not modules & set(HEAVY)


def test_importing_storage_loads_nothing_heavy(tmp_path: Path, outside: dict[str, str]) -> None:
    code = (
        "import storage, storage.store, storage.attempt, storage.pull, storage.datasets.index, json, sys;"
        "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    modules = loaded(code, cwd=tmp_path, env=outside)
    assert not modules & {*HEAVY, "cyclopts", "rich", "tasks", "models"}


def test_declaring_all_stages_loads_no_torch(tmp_path: Path, outside: dict[str, str]) -> None:
    code = (
        "from tasks._stage import load_stage, stage_names; import json, sys;"
        "[load_stage(n) for n in stage_names()];"
        "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    assert not loaded(code, cwd=tmp_path, env=outside) & {*HEAVY, "cyclopts", "webdataset"}


def test_the_commands_are_there() -> None:
    assert {"run", "plan", "rerun", "status", "versions", "show", "pull", "verify", "preview"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    assert app[name].help
    parameters = app[name].assemble_argument_collection()
    bare = [a.name for a in parameters if a.parse and a.name.startswith("--") and not a.parameter.help]
    known_by_name = {"--dest", "--config", "--ref", "--kind", "--node"}
    assert set(bare) <= known_by_name


def test_an_unknown_config_key_is_usage(gazeflow: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = gazeflow("plan", "demo.toml", "--set", "student.epocs=3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gazeflow: demo.toml [student]: unknown key 'epocs'; did you mean 'epochs'?")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["nosuch"], ["run"], ["plan", "demo.toml", "--nosuch"], ["run", "x", "--only"]])
def test_a_wrong_command_line_is_usage(
    gazeflow: Callable[..., subprocess.CompletedProcess[str]], words: list[str]
) -> None:
    done = gazeflow(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr + done.stdout


def test_what_is_not_there_is_3(gazeflow: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    for words in (["show", "teacher@0123456789ab"], ["plan", "nosuch.toml"], ["status"], ["versions", "teacher"]):
        done = gazeflow(*words)
        assert done.returncode == 3, done.stderr
        assert done.stderr.startswith("gazeflow: ")
        assert "Traceback" not in done.stderr


def test_something_that_is_no_ref_is_2(
    gazeflow: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    Store.open(f"file://{tmp_path}/.gazeflow/store")
    assert gazeflow("show", "teacher").returncode == 2


@pytest.mark.parametrize("content", ['{"format": 2}', '{"format": "later"}', "{", ""])
def test_a_newer_or_damaged_store_is_4_and_left_alone(
    gazeflow: Callable[..., subprocess.CompletedProcess[str]], write_tiny: Callable[..., Path], tmp_path: Path,
    content: str,
) -> None:  # fmt: skip
    store = tmp_path / "store"
    store.mkdir()
    (store / "gazeflow.json").write_text(content)
    done = gazeflow("plan", str(write_tiny(tmp_path)))
    assert done.returncode == 4, done.stderr
    assert str(store) in done.stderr
    assert [p.name for p in store.iterdir()] == ["gazeflow.json"]
    assert (store / "gazeflow.json").read_text() == content


def test_a_missing_or_empty_folder_is_named(
    gazeflow: Callable[..., subprocess.CompletedProcess[str]], write_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    file = write_tiny(tmp_path, extra='\n[datasets.mine]\nformat = "class_folder"\npath = "mine"\n')
    words = ("plan", str(file), "--set", "student.datasets.images=mine")
    missing = gazeflow(*words)
    assert missing.returncode == 3
    assert "mine" in missing.stderr
    empty = gazeflow(*words, "--set", "datasets.mine.path=empty")
    assert empty.returncode == 2
    assert "empty" in empty.stderr
    labels = gazeflow(*words, "--until", "fixations", "--json")
    assert labels.returncode == 0, "what the wanted nodes do not read is not looked at"
    assert [row["node"] for row in json.loads(labels.stdout)] == ["teacher", "saliency", "fixations"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "tiny.toml", "--only", "studnet"], "no node 'studnet'; did you mean 'student'?"),
        (["run", "tiny.toml", "--from", "studnet"], "no node 'studnet'"),
        (["run", "tiny.toml", "--until", "studnet"], "no node 'studnet'"),
        (["run", "tiny.toml", "--force", "studnet"], "no node 'studnet'"),
        (["run", "tiny.toml", "--only", "student", "--from", "teacher"], "--only goes with neither --from nor --until"),
        (["run", "tiny.toml", "--from", "evaluation", "--until", "teacher"], "no node lies between"),
        (["run", "tiny.toml", "--until", "teacher", "--force", "student"], "--force student: expected one of"),
        (["plan", "tiny.toml", "--only", "studnet"], "no node 'studnet'"),
        (["rerun", "studnet", "--config", "tiny.toml"], "no node 'studnet'"),
        (["rerun", "saliency", "--failed", "--damaged", "--config", "tiny.toml"], "exclude each other"),
    ],
)
def test_a_wrong_choice_of_nodes_is_told_before_anything_starts(
    gazeflow: Callable[..., subprocess.CompletedProcess[str]], write_tiny: Callable[..., Path], tmp_path: Path,
    words: list[str], told: str,
) -> None:  # fmt: skip
    write_tiny(tmp_path)
    done = gazeflow(*words)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.toml"]


@pytest.mark.parametrize(
    "words",
    [["status"], ["versions", "teacher"], ["show", "teacher@0123456789ab"], ["verify", "teacher@0123456789ab"],
     ["pull", "teacher@0123456789ab", "dest"], ["preview", "teacher@0123456789ab"], ["plan"], ["rerun", "teacher"],
     ["status", "--config", "tiny.toml"], ["rerun", "saliency", "--failed", "--config", "tiny.toml"]],
)  # fmt: skip
def test_looking_into_a_store_that_is_not_there_makes_none(
    gazeflow: Callable[..., subprocess.CompletedProcess[str]], write_tiny: Callable[..., Path], tmp_path: Path,
    words: list[str],
) -> None:  # fmt: skip
    write_tiny(tmp_path)
    done = gazeflow(*words)
    assert (done.returncode, done.stdout) == (3, "")
    place = tmp_path / ("store" if "--config" in words else ".gazeflow/store")
    assert done.stderr.startswith(f"gazeflow: file://{place}: expected a store, found none; nothing was made.")
    assert "gazeflow run CONFIG" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.toml"]


@pytest.mark.parametrize(("words", "code"), [(["plan", "tiny.toml", "--json"], 141), (["--help"], 1)])  # 1 is rich's
def test_a_reader_that_goes_away_ends_a_command_quietly(
    command: list[str], outside: dict[str, str], write_tiny: Callable[..., Path], tmp_path: Path, words: list[str],
    code: int,
) -> None:  # fmt: skip
    write_tiny(tmp_path)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*command, *words], cwd=tmp_path, env=outside, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (code, b"")


def test_status_lists_nodes_in_order_with_the_first_line_of_an_error(
    gazeflow: Callable[..., subprocess.CompletedProcess[str]], write_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    from tasks._config import load_config

    config = load_config(str(write_tiny(tmp_path)))
    run = Run(Store.open(config.settings.store), config.model_dump(mode="json"), "gazeflow run tiny.toml")
    run.note("saliency", state="failed", error="the maps are flat\nTraceback: a long one")
    run.end("failed")
    found = json.loads(gazeflow("status", "--config", "tiny.toml", "--json").stdout)["nodes"]
    assert [row["node"] for row in found] == list(config.nodes)
    assert found[1]["error"] == "the maps are flat\nTraceback: a long one"
    done = gazeflow("status", "--config", "tiny.toml")
    assert "the maps are flat\n" in done.stdout
    assert "Traceback" not in done.stdout


def test_plan_json_is_json_alone(
    gazeflow: Callable[..., subprocess.CompletedProcess[str]], write_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    done = gazeflow("plan", str(write_tiny(tmp_path)), "--json")
    assert done.returncode == 0
    assert [row["node"] for row in json.loads(done.stdout)] == [
        "teacher", "saliency", "fixations", "student", "student.baseline", "student.permuted", "evaluation",
    ]  # fmt: skip
