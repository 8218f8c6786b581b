"""What a command asks for: which nodes, which shards, which config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InvalidInput, NotFound
from storage.runs import Run
from storage.store import Store
from tasks._config import load_config
from tasks._run import NodeOptions, chosen_config, parse_shards, redo_shards, wanted_nodes

DEMO = load_config("demo.toml")


@given(st.sets(st.integers(0, 2000), min_size=1, max_size=30))
def test_shards_are_read_back_from_any_way_of_writing_them(numbers: set[int]) -> None:
    assert parse_shards(",".join(map(str, numbers))) == sorted(numbers)
    first, last = min(numbers), max(numbers)
    assert parse_shards(f"{first}-{last}, {first}") == list(range(first, last + 1))


@pytest.mark.parametrize("text", ["", "a", "1,,2", "1-", "-1", "1-b", "1;2", "0x1"])
def test_what_are_no_shards_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="3,17-20"):
        parse_shards(text)


@pytest.mark.parametrize("text", ["20-17", "0-99999999999"])
def test_ranges_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="shards"):
        parse_shards(text)


def test_wanted_nodes() -> None:
    nodes = list(DEMO.nodes)
    assert wanted_nodes(DEMO, None, None, None) == nodes
    assert wanted_nodes(DEMO, "saliency", None, None) == ["saliency"]
    assert wanted_nodes(DEMO, None, None, "fixations") == ["teacher", "saliency", "fixations"]
    assert wanted_nodes(DEMO, None, "student", None) == ["student", "evaluation"]
    assert wanted_nodes(DEMO, None, "saliency", "student") == ["saliency", "fixations", "student"]


def test_wanted_nodes_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InvalidInput, match="--only"):
        wanted_nodes(DEMO, "student", "teacher", None)
    with pytest.raises(InvalidInput, match="no node lies between"):
        wanted_nodes(DEMO, None, "evaluation", "teacher")
    with pytest.raises(InvalidInput, match="did you mean 'student'"):
        wanted_nodes(DEMO, None, "studnet", None)


def test_shards_to_redo_are_those_the_version_has(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[dict[str, bytes]], tmp_path: Path
) -> None:
    broken = [*four_shards[:2], {"x.jpg": b"", **four_shards[2]}, four_shards[3]]
    made = of_tars(write_tars(tmp_path / "tars", broken), "settings.max_failed_share=0.5")
    made.make("saliency")

    def redo(node: str = "saliency", **options: Any) -> list[int] | None:
        return redo_shards(made.config, NodeOptions(node=node, **options))

    assert redo() is None
    assert redo(shards="1-3") == [1, 2, 3]
    assert redo(failed=True) == [2]
    with pytest.raises(NotFound, match="no damaged shard"):
        redo(damaged=True)
    with pytest.raises(NotFound, match=r"no shards \[4\]; it has 4, 0 to 3"):
        redo(shards="3-4")
    with pytest.raises(InvalidInput, match="made whole"):
        redo("teacher", shards="0")
    with pytest.raises(InvalidInput, match="exclude each other"):
        redo(shards="0", failed=True)
    (tar,) = tmp_path.glob("store/artifacts/saliency/shards/saliency-000001-*.tar")
    tar.write_bytes(b"x" + tar.read_bytes()[1:])
    assert redo(damaged=True) == [1]


def test_without_a_config_the_last_runs_is_meant(
    bare: Callable[..., Any], labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bare("fixations.cap=5", store=labelled)
    monkeypatch.setenv("GAZEFLOW_STORE", f"file://{labelled}")
    with pytest.raises(NotFound, match="no run yet"):
        chosen_config(None, [])
    Run(made.store, made.config.model_dump(mode="json"), "gazeflow run tiny.toml").end("completed")
    assert chosen_config(None, []).nodes == made.config.nodes
    with pytest.raises(InvalidInput, match="--set goes with --config"):
        chosen_config(None, ["fixations.cap=6"])


def test_the_last_runs_config_has_inputs_first_though_its_record_is_sorted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAZEFLOW_STORE", f"file://{tmp_path}/store")
    Run(Store.open(f"file://{tmp_path}/store"), DEMO.model_dump(mode="json"), "gazeflow run").end("completed")
    seen: set[str] = set()
    for name in chosen_config(None, []).nodes:
        assert set(DEMO.parents(name)) <= seen
        seen.add(name)
    assert seen == set(DEMO.nodes)


def test_a_narrowed_config_needs_no_other_data() -> None:
    narrow = DEMO.narrowed(["fixations"])
    assert list(narrow.nodes) == ["teacher", "saliency", "fixations"]
    assert set(narrow.datasets) == {"people", "scenes"}
