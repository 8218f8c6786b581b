"""What a plan says of every node, and why; which shards a change leaves to make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.datasets.index import DatasetIndex
from storage.errors import InvalidInput
from storage.store import Store
from tasks import _datasets
from tasks._config import Config, load_config
from tasks._datasets import OpenDataset, refresh
from tasks._inspect import planned
from tasks._make import make_shards, remaining_shards
from tasks._plan import key_difference, node_key
from tasks._stage import Event

STUDENTS = ("student", "student.baseline", "student.permuted")
DEMO = load_config("demo.toml")


def states(made: Any, **options: Any) -> dict[str, str]:
    return {name: plan.state for name, plan in made.plan(**options).items()}


def test_a_new_store_misses_everything_and_says_what_comes_first(bare: Callable[..., Any]) -> None:
    plans = bare().plan()
    assert {p.state for p in plans.values()} == {"miss"}
    assert plans["teacher"].reason == "no version of teacher yet"
    assert plans["saliency"].reason == "teacher will be made first"
    assert all(p.shards is None for p in plans.values())


def test_what_is_complete_hits_with_the_version_that_was_planned(bare: Callable[..., Any], labelled: Path) -> None:
    planned = bare(store=labelled.parent / "new").plan()["teacher"].ref
    plans = bare(store=labelled).plan()
    assert [plans[n].state for n in ("teacher", "saliency", "fixations")] == ["hit"] * 3
    assert [plans[n].state for n in (*STUDENTS, "evaluation")] == ["miss"] * 4
    assert plans["teacher"].ref == planned


def test_a_plan_writes_no_artifact(bare: Callable[..., Any], labelled: Path) -> None:
    made = bare("teacher.epochs=3", store=labelled)
    before = list(made.store.backend.entries("artifacts/"))
    made.plan(forced=["teacher"])
    assert list(made.store.backend.entries("artifacts/")) == before


@pytest.mark.parametrize(
    ("override", "node", "told"),
    [
        ("fixations.threshold=0.3", "fixations", "params.threshold: 0.2 -> 0.3"),
        ("teacher.epochs=3", "teacher", "params.epochs: 2 -> 3"),
        ("saliency.size=64", "saliency", "params.size: 32 -> 64"),
    ],
)
def test_a_miss_names_the_field_with_old_and_new_value(
    bare: Callable[..., Any], labelled: Path, override: str, node: str, told: str
) -> None:
    made = bare(override, store=labelled)
    plan = made.plan()[node]
    assert plan.state == "miss"
    assert told in plan.reason
    assert f"{node}@" in plan.reason
    assert all(made.plan()[n].state == "miss" for n in made.config.downstream(node))


def test_a_miss_names_the_nearest_version(bare: Callable[..., Any], labelled: Path) -> None:
    made = bare("fixations.threshold=0.3", store=labelled)
    near = made.make("fixations")
    plan = bare("fixations.threshold=0.3", "fixations.cap=9", store=labelled).plan()["fixations"]
    assert f"differs from fixations@{near.version} in params.cap: 512 -> 9" in plan.reason


def test_forced_nodes_make_what_needs_them_wait(bare: Callable[..., Any], labelled: Path) -> None:
    found = bare(store=labelled).plan(forced=["saliency"])
    assert (found["teacher"].state, found["saliency"].state, found["fixations"].state) == ("hit", "forced", "waits")
    assert found["saliency"].remaining == (0,)
    assert "saliency" in found["fixations"].reason


def test_forcing_what_was_never_made_is_a_miss(bare: Callable[..., Any]) -> None:
    assert states(bare(), forced=["teacher"])["teacher"] == "miss"


def test_an_open_training_is_partial(bare: Callable[..., Any], labelled: Path) -> None:
    made = bare("teacher.epochs=3", store=labelled)
    made.open("teacher")
    assert states(made)["teacher"] == "partial"


def test_a_data_set_without_fixations_cannot_play_attention(bare: Callable[..., Any]) -> None:
    with pytest.raises(InvalidInput, match=r"\[teacher\] dataset attention.*'scenes' of format imagenet"):
        bare("teacher.datasets.attention=scenes").plan()


def test_one_changed_image_leaves_one_shard_to_make(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[dict[str, bytes]], tmp_path: Path
) -> None:
    tars = write_tars(tmp_path / "tars", four_shards)
    before = of_tars(tars).make("saliency")
    changed = [dict(s) for s in four_shards]
    name, other = [n for n in changed[2] if n.endswith(".jpg")][:2]
    changed[2][name] = changed[2][other]
    write_tars(tars, changed)
    made = of_tars(tars)
    plan = made.plan()["saliency"]
    assert (plan.state, plan.shards, plan.remaining) == ("partial", 4, (2,))
    assert "3 of 4 shards" in plan.reason
    assert "datasets.images" in plan.reason
    after = made.make("saliency")
    assert after.version != before.version
    assert [r.adopted for r in after.shards] == [before.version, before.version, None, before.version]
    same = [r.members == s.members for r, s in zip(after.shards, before.shards, strict=True)]
    assert same == [True, True, False, True]


def test_plan_and_run_agree_on_shards_whose_number_moved(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[dict[str, bytes]], tmp_path: Path
) -> None:
    of_tars(write_tars(tmp_path / "tars", four_shards)).make("saliency")
    fewer = of_tars(write_tars(tmp_path / "fewer", four_shards[1:]))
    plan = fewer.plan()["saliency"]
    order, _ = fewer.open("saliency")
    assert tuple(s.number for s in remaining_shards(order)) == plan.remaining
    assert len(fewer.make("saliency").shards) == 3


def test_shards_of_an_unfinished_attempt_count(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[dict[str, bytes]], tmp_path: Path
) -> None:
    made = of_tars(write_tars(tmp_path / "tars", four_shards))
    order, _ = made.open("saliency")
    make_shards(order, [1, 3], lambda event: None)
    plan = made.plan()["saliency"]
    assert (plan.state, plan.remaining) == ("partial", (0, 2))


def test_data_of_nodes_that_are_not_wanted_is_not_listed_again(
    bare: Callable[..., Any], labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare(store=labelled)  # every source is listed once
    listed: list[str] = []

    def spied(store: Store, name: str, *more: Any) -> OpenDataset:
        listed.append(name)
        return refresh(store, name, *more)

    monkeypatch.setattr(_datasets, "refresh", spied)
    config = str(tmp_path / "config" / "tiny.toml")
    found = planned(config, [], [], "saliency", None, None)
    assert [(row["node"], row["state"]) for row in found] == [("saliency", "hit")]
    assert listed == ["scenes"]
    planned(config, [], [], None, None, "fixations")
    assert listed == ["scenes", "people", "scenes"]


# What a key depends on, and on what not


def dataset(name: str, fingerprint: str = "f" * 64) -> OpenDataset:
    index = DatasetIndex(fingerprint, DEMO.datasets[name].format, (), 1000, None)
    return OpenDataset(name, None, index)  # type: ignore[arg-type]  # a key asks for no image


def key_of(config: Config, node: str, refs: dict[str, str] | None = None, **fingerprints: str) -> str:
    datasets = {n: dataset(n, fingerprints.get(n, "f" * 64)) for n in config.datasets}
    refs = {n: f"{config.nodes[n].stage}@{'0' * 12}" for n in config.nodes} | (refs or {})
    return node_key(config, node, refs, datasets).digest()


def leaves(params: dict[str, Any], prefix: str = "") -> list[str]:
    return [
        path
        for name, value in params.items()
        for path in (leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"])
    ]


ALL_PARAMS = [(n, path) for n in DEMO.nodes for path in leaves(DEMO.nodes[n].params)]


def changed(config: Config, node: str, path: str) -> Config:
    """The config with another value at one param of one node."""
    params = Config.model_validate_json(config.model_dump_json()).nodes[node].params
    *outer, last = path.split(".")
    table = params
    for name in outer:
        table = table[name]
    table[last] = f"not {table[last]!r}"
    nodes = config.nodes | {node: config.nodes[node].model_copy(update={"params": params})}
    return config.model_copy(update={"nodes": nodes})


@given(st.sampled_from(ALL_PARAMS))
def test_every_param_is_in_its_nodes_key_and_in_no_others(place: tuple[str, str]) -> None:
    node, path = place
    other = changed(DEMO, node, path)
    assert {n for n in DEMO.nodes if key_of(DEMO, n) != key_of(other, n)} == {node}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "store": st.just("file:///elsewhere"),
            "workers": st.integers(1, 9),
            "shards_per_task": st.integers(1, 99),
            "decoders": st.integers(1, 9),
            "retries": st.integers(0, 9),
            "retry_seconds": st.floats(0, 9),
            "timeout_hours": st.floats(1, 9),
            "max_failed_share": st.floats(0, 1),
            "checkpoint_seconds": st.floats(0, 99),
        },
    )
)
def test_no_setting_is_in_any_key(values: dict[str, Any]) -> None:
    assert values.keys() <= type(DEMO.settings).model_fields.keys()
    other = DEMO.model_copy(update={"settings": DEMO.settings.model_copy(update=values)})
    assert all(key_of(DEMO, n) == key_of(other, n) for n in DEMO.nodes)


def test_every_setting_is_tried_above() -> None:
    assert len(type(DEMO.settings).model_fields) == 9, "a new setting: add it to the strategy above"


def test_inputs_and_fingerprints_are_in_the_key() -> None:
    assert key_of(DEMO, "saliency") != key_of(DEMO, "saliency", {"teacher": f"teacher@{'1' * 12}"})
    assert key_of(DEMO, "saliency") != key_of(DEMO, "saliency", scenes="e" * 64)
    assert key_of(DEMO, "saliency") == key_of(DEMO, "saliency", people="e" * 64)


def test_where_a_data_set_lies_is_not_in_the_key() -> None:
    moved = {n: d.model_copy(update={"path": "/elsewhere"}) for n, d in DEMO.datasets.items()}
    other = DEMO.model_copy(update={"datasets": moved})
    assert all(key_of(DEMO, n) == key_of(other, n) for n in DEMO.nodes)


def test_key_difference_is_empty_for_equal_keys(bare: Callable[..., Any], labelled: Path) -> None:
    made = bare(store=labelled)
    attempt = made.store.attempt(made.store.versions("teacher")[0])
    assert key_difference(attempt.key, attempt.key) == []
    other = attempt.key.model_copy(update={"stage_version": 99})
    assert key_difference(attempt.key, other) == [("stage_version", attempt.key.stage_version, 99)]


def test_events_of_a_whole_make_are_told(bare: Callable[..., Any], labelled: Path) -> None:
    made = bare("fixations.cap=7", store=labelled)
    made.make("fixations")
    kinds = [e.kind for e in made.events]
    assert kinds.count("shard") == 2
    assert isinstance(made.events[0], Event)
