"""The README says what is there: stages, commands, presets and make targets."""

import re
from pathlib import Path

from flows.cli import app
from tasks._stage import load_stage, stage_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_stage_table_is_the_stages_own_words() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE))
    assert rows == {name: load_stage(name).title for name in stage_names()}


def test_every_command_it_shows_exists() -> None:
    shown = set(re.findall(r"^    gazeflow +([a-z]+)", README, re.MULTILINE))
    commands = {name for name in app if not name.startswith("-")}
    assert shown - {"run"} <= commands
    assert shown >= {"run", "plan", "rerun", "status", "versions", "pull", "verify"}


def test_every_make_target_it_shows_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets


def test_every_file_it_names_exists() -> None:
    for path in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / path).is_file(), path


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in README
