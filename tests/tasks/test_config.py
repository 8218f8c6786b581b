"""Configs: inheritance, precedence, and messages that name the key and its nearest known one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InvalidInput, NotFound
from tasks._config import Config, build_config, config_bytes, find_config, load_config

PRESETS = sorted(p.name for p in (Path(__file__).parents[2] / "flows" / "configs").glob("*.toml"))


@pytest.fixture
def load(write_tiny: Callable[..., Path], tmp_path: Path) -> Callable[..., Config]:
    def load(*overrides: str, extra: str = "") -> Config:
        return load_config(str(write_tiny(tmp_path, extra=extra)), overrides)

    return load


def built(**tables: Any) -> Config:
    base = {"teacher": {"datasets": {"attention": "people"}}, "datasets": {"people": {"format": "osie", "path": "x"}}}
    return build_config(base | tables, "test.toml", {})


def test_presets_are_there() -> None:
    assert {"demo.toml", "trial.toml"} <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load_by_name_with_all_seven_kinds_of_node(name: str) -> None:
    config = load_config(name)
    assert config.nodes == load_config(name.removesuffix(".toml")).nodes
    assert {"teacher", "saliency", "fixations", "student", "student.baseline", "student.permuted", "evaluation"} <= set(
        config.nodes
    )


def test_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(NotFound, match=r"demo\.toml"):
        find_config("nosuch.toml")


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("teacher.epocs=3", "epocs", "epochs"),
        ("settings.wrokers=3", "wrokers", "workers"),
        ("student.attention.lamb=1.0", "attention.lamb", "lam"),
        ("student.baseline.seeds=1", "seeds", "seed"),
        ("techer.epochs=3", "techer", "teacher"),
        ("dataset.people.path='x'", "dataset", "datasets"),
        ("saliency.inputs.techer='teacher'", "techer", "teacher"),
        ("teacher.datasets.atention='people'", "atention", "attention"),
        ("teacher.datasets.attention='peopel'", "peopel", "people"),
        ("saliency.inputs.teacher='techer'", "techer", "teacher"),
    ],
)
def test_an_unknown_key_is_named_with_file_and_nearest(
    load: Callable[..., Config], override: str, key: str, nearest: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(override)
    message = str(caught.value)
    assert "tiny.toml" in message
    assert repr(key) in message or f"datasets.{key}" in message
    assert f"did you mean {nearest!r}" in message


@pytest.mark.parametrize(
    ("override", "table", "told"),
    [
        ("student.basline.seed=1", "student.basline", "did you mean 'student.baseline'"),
        ("student.basline.attention.lam=1.0", "student.basline", "did you mean 'student.baseline'"),
        ("student.basline={seed=1}", "student.basline", "did you mean 'student.baseline'"),
        ("student.attetion.lam=1.0", "student.attetion", "did you mean 'student.attention'"),
        ("saliency.input.teacher=teacher", "saliency.input", "did you mean 'saliency.inputs'"),
        ("datasets.peple.path=x", "datasets.peple", "did you mean 'datasets.people'"),
        ("student.baseline={x={seed=1}}", "student.baseline.x", "did you mean 'student.baseline'"),
    ],
)
def test_an_override_makes_no_table(load: Callable[..., Config], override: str, table: str, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load("student.epochs=3", override)
    message = str(caught.value)
    assert message.startswith(f"--set {override.partition('=')[0]}: ")
    assert f"tiny.toml has, and [{table}] is none of them; " in message
    assert told in message


def test_an_override_makes_no_node_of_a_stage_that_the_file_leaves_out(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text('datasets.people = {format = "osie", path = "x"}\nteacher.datasets.attention = "people"\n')
    assert load_config(str(file), ["settings.workers=3", "teacher.epochs=3"]).settings.workers == 3
    with pytest.raises(InvalidInput, match=r"--set student\.epochs: .*small\.toml has, and \[student\] is none"):
        load_config(str(file), ["student.epochs=3"])


@pytest.mark.parametrize(
    ("key", "named"),
    [("Baseline", "Baseline"), ("-a", "-a"), ('"two words"', "two words"), ('"a.b"', "a.b"), ('""', ""),
     ("x" * 65, "x" * 65), (f"{'x' * 40}.{'y' * 40}", f"student.{'x' * 40}.{'y' * 40}"), ("a.B", "B")],
)  # fmt: skip
def test_a_node_is_named_so_that_every_place_takes_it(load: Callable[..., Config], key: str, named: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(extra=f"\n[student.{key}]\nseed = 1\n")
    assert "tiny.toml" in str(caught.value)
    assert f"node {named!r}: expected " in str(caught.value)


@pytest.mark.parametrize("override", ["epochs=3", "teacher.epochs", "=3", "teacher.=3", ".epochs=3"])
def test_a_malformed_override_is_refused(load: Callable[..., Config], override: str) -> None:
    with pytest.raises(InvalidInput, match=r"--set"):
        load(override)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("teacher.epochs='many'", "epochs"),
        ("teacher.epochs=0", "epochs"),
        ("teacher.held_out=1.5", "held_out"),
        ("student.attention.gradient='sideways'", "attention.gradient"),
        ("student.crop_area=[0.1]", "crop_area"),
        ("settings.workers=0", "workers"),
        ("settings.store=3", "store"),
        ("teacher.datasets='people'", "datasets"),
        ("teacher.datasets.attention=3", "attention"),
        ("teacher.datasets.attention=[3]", "attention"),
        ("saliency.inputs='teacher'", "inputs"),
        ("saliency.inputs.teacher=3", "teacher"),
        ("datasets.people=3", "people"),
        ("datasets.people.format=3", "format"),
        ("datasets.people.generate=3", "generate"),
    ],
)
def test_a_wrong_kind_of_value_is_named(load: Callable[..., Config], override: str, named: str) -> None:
    with pytest.raises(InvalidInput, match=named.replace(".", r"\.")):
        load(override)


@pytest.mark.parametrize("key", ["settings", "datasets", "teacher"])
def test_a_value_where_a_table_belongs_is_named(key: str) -> None:
    with pytest.raises(InvalidInput, match=key):
        built(**{key: 3})


@pytest.mark.parametrize("content", [b"[teacher\n", b"\xff\xfe\x00", b"a = 1\na = 2\n"])
def test_what_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"bad\.toml"):
        load_config(str(tmp_path / "bad.toml"))


def test_roles_are_checked(load: Callable[..., Config]) -> None:
    with pytest.raises(InvalidInput, match="expected a node of stage teacher, found 'fixations'"):
        load("saliency.inputs.teacher='fixations'")
    with pytest.raises(InvalidInput, match="expected one node"):
        load("fixations.inputs.saliency=['saliency', 'saliency']")
    with pytest.raises(InvalidInput, match="expected one data set"):
        load("saliency.datasets.images=['scenes', 'scenes_val']")
    assert load("teacher.datasets.attention=['people', 'viewers']").nodes["teacher"].datasets["attention"] == [
        "people", "viewers",
    ]  # fmt: skip


def test_a_node_without_its_data_set_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"teacher.*datasets\.attention"):
        built(teacher={})


def test_dotted_nodes_inherit_and_override(load: Callable[..., Config]) -> None:
    config = load(
        "student.epochs=7", "student.baseline.seed1.attention.lam=9.0", "student.attention.beta=0.7",
        extra="\n[student.baseline.seed1]\nseed = 1\n",
    )  # fmt: skip
    student, baseline, seed1 = (
        config.nodes[n].params for n in ("student", "student.baseline", "student.baseline.seed1")
    )
    assert (student["epochs"], baseline["epochs"], seed1["epochs"]) == (7, 7, 7)
    assert baseline == student | {"attention": student["attention"] | {"gradient": "readout"}}
    assert seed1 == baseline | {"seed": 1, "attention": baseline["attention"] | {"lam": 9.0}}
    assert seed1["attention"]["beta"] == 0.7
    assert config.nodes["student.baseline.seed1"].datasets == config.nodes["student"].datasets


def test_option_beats_environment_beats_file_beats_default(
    load: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (load().settings.decoders, load().settings.workers) == (2, 2)
    assert load().settings.shards_per_task == 16
    assert load("settings.decoders=5").settings.decoders == 5
    monkeypatch.setenv("GAZEFLOW_DECODERS", "7")
    monkeypatch.setenv("GAZEFLOW_WORKERS", "9")
    assert (load().settings.decoders, load().settings.workers) == (7, 9)
    assert load("settings.decoders=5").settings.decoders == 5


def test_a_wrong_value_in_the_environment_is_named(
    load: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks._inspect import open_store

    monkeypatch.setenv("GAZEFLOW_WORKERS", "many")
    with pytest.raises(InvalidInput, match="workers"):
        load()
    with pytest.raises(InvalidInput, match="workers"):
        open_store(None)


def test_override_values_are_toml_or_plain_text(load: Callable[..., Config]) -> None:
    assert load("student.crop_area=[0.5, 1.0]").nodes["student"].params["crop_area"] == [0.5, 1.0]
    assert load("student.labels=permuted").nodes["student"].params["labels"] == "permuted"
    assert load("student.labels='permuted'").nodes["student"].params["labels"] == "permuted"


def test_every_default_is_filled_in_and_survives_json(load: Callable[..., Config]) -> None:
    config = load()
    assert config.nodes["fixations"].params.keys() == {"sigma", "threshold", "cap"}
    assert config.nodes["fixations"].inputs == {"saliency": ["saliency"]}
    assert Config.model_validate_json(config_bytes(config)) == config
    assert list(config.nodes).index("evaluation") == len(config.nodes) - 1


def test_up_and_downstream(load: Callable[..., Config]) -> None:
    config = load()
    assert config.upstream("student") == {"teacher", "saliency", "fixations"}
    assert config.downstream("fixations") == {"student", "student.baseline", "student.permuted", "evaluation"}
    with pytest.raises(InvalidInput, match="did you mean 'student'"):
        config.node("studnet")


@given(st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12))
def test_no_unknown_param_is_ever_swallowed(name: str) -> None:
    """Whatever is not a param, role or dotted table of a stage is an error."""
    from tasks.teacher import TeacherParams

    table = {"datasets": {"attention": "people"}, name: 1}
    if name in TeacherParams.model_fields or name in ("inputs", "datasets"):
        return
    with pytest.raises(InvalidInput, match=name):
        built(teacher=table)
