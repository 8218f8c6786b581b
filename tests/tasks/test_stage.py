"""What every stage declares, and that a stage is one file."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

import tasks
from storage.errors import InvalidInput
from tasks._config import build_config
from tasks._stage import Sharded, load_stage, stage_names

SIXTH = '''
from tasks._stage import Context, Input, Params, Result, Stage


class CountParams(Params):
    step: int = 1


def run(context: Context) -> Result:
    return Result(members=[context.attempt.put("count.json", b"1")], done=1)


STAGE = Stage("count", 1, "Count", CountParams, run, inputs={"teacher": Input("teacher", "teacher")})
'''


def test_the_public_files_are_the_stages() -> None:
    public = {p.stem for p in Path(tasks.__file__).parent.glob("*.py") if not p.stem.startswith("_")}
    assert set(stage_names()) == public == {"teacher", "saliency", "fixations", "student", "evaluation"}


@pytest.mark.parametrize("name", stage_names())
def test_a_stage_declares_itself_whole(name: str) -> None:
    stage = load_stage(name)
    assert stage.name == name
    assert stage.version >= 1
    assert stage.title
    assert stage.title[0].isupper()
    assert stage.params.model_config["frozen"]
    assert stage.params.model_config["extra"] == "forbid"
    assert stage.params() == stage.params.model_validate(stage.params().model_dump(mode="json"))
    assert (stage.sharded is not None) == isinstance(stage.run, Sharded)
    for role, given in stage.inputs.items():
        assert given.kind in stage_names(), role
        assert given.node.split(".")[0] == given.kind, role


@pytest.mark.parametrize("name", stage_names())
def test_what_changes_a_result_is_a_param(name: str) -> None:
    """A stage that decodes, computes or trains has decoder, device class and dtype in its key."""
    fields = load_stage(name).params.model_fields
    if name != "fixations":
        assert {"decoder", "device", "dtype"} <= fields.keys()
        assert get_args(fields["device"].annotation) == ("cpu", "cuda")
    assert not {"workers", "decoders", "store", "batch"} & fields.keys()


@pytest.mark.parametrize("name", stage_names())
def test_params_are_plain_values_or_tables_of_them(name: str) -> None:
    def check(model: type[BaseModel]) -> None:
        for field in model.model_fields.values():
            inner = field.annotation
            if inspect.isclass(inner) and issubclass(inner, BaseModel):
                assert inner.model_config["extra"] == "forbid"
                check(inner)

    check(load_stage(name).params)


def test_an_unknown_stage_names_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'saliency'"):
        load_stage("salience")


def test_a_sixth_stage_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropped into a folder of the package, it has a config table and stands in the DAG."""
    (tmp_path / "count.py").write_text(SIXTH)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    tables = {
        "datasets": {"people": {"format": "osie", "path": "x"}},
        "teacher": {"datasets": {"attention": "people"}},
        "count": {"step": 3, "twice": {"step": 6}},
    }
    config = build_config(tables, "six.toml", {})
    assert "count" in stage_names()
    assert config.nodes["count"].params == {"step": 3}
    assert config.nodes["count.twice"].params == {"step": 6}
    assert config.parents("count") == ["teacher"]
    with pytest.raises(InvalidInput, match="unknown key 'stepp'; did you mean 'step'"):
        build_config(tables | {"count": {"stepp": 3}}, "six.toml", {})
