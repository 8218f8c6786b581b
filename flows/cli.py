"""The command line: each command says what it did and what to type next. No logic here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from flows import _render
from storage.errors import GazeflowError

app = App(
    name="gazeflow",
    help="Teach vision models where people look: teacher, saliency, fixations, students, evaluation as one DAG.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # `main` says what became of the run
)

Set = Annotated[list[str] | None, Parameter(name="--set", help="override a config key, TABLE.KEY=VALUE", negative="")]
Json = Annotated[bool, Parameter(name="--json", help="print JSON and nothing else", negative="")]
ConfigPath = Annotated[str | None, Parameter(name="--config", help="a TOML file or preset; default: the last run's")]


@app.command
def run(
    config: str,
    *,
    only: Annotated[str | None, Parameter(help="this node alone")] = None,
    from_: Annotated[str | None, Parameter(name="--from", help="this node and what depends on it")] = None,
    until: Annotated[str | None, Parameter(help="this node and what it needs")] = None,
    force: Annotated[list[str] | None, Parameter(help="make this node again though complete", negative="")] = None,
    rehash: Annotated[bool, Parameter(help="read every file of every data set again", negative="")] = False,
    set_: Set = None,
) -> None:
    """Run the nodes of a config (a TOML file, or a preset: demo.toml, trial.toml, imagenet.toml)."""
    from tasks._run import PipelineOptions

    options = PipelineOptions(
        config=config, set=set_ or [], only=only, from_=from_, until=until, force=force or [], rehash=rehash,
        command=_typed(),
    )  # fmt: skip
    _run(_pipeline, options)


@app.command
def rerun(
    node: str,
    *,
    shards: Annotated[str | None, Parameter(help="only these shards, such as 3,17-20")] = None,
    failed: Annotated[bool, Parameter(help="only shards with broken images", negative="")] = False,
    damaged: Annotated[bool, Parameter(help="only shards whose bytes are damaged", negative="")] = False,
    only: Annotated[bool, Parameter(help="leave what depends on the node alone", negative="")] = False,
    config: ConfigPath = None,
    set_: Set = None,
) -> None:
    """Make a node again, whole or some shards, then what depends on it."""
    from tasks._run import NodeOptions

    options = NodeOptions(
        node=node, config=config, set=set_ or [], shards=shards, failed=failed, damaged=damaged, only=only,
        command=_typed(),
    )  # fmt: skip
    _run(_node, options)


@app.command
def plan(
    config: str | None = None,
    *,
    force: Annotated[list[str] | None, Parameter(help="as if it were made again", negative="")] = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Show what a run would do with each node, and why; nothing is run."""
    from tasks._inspect import planned

    _show(planned(config, set_ or [], force or []), _render.plan, json)


@app.command
def status(*, config: ConfigPath = None, json: Json = False) -> None:
    """Show where the last run stands, node by node."""
    from tasks._inspect import run_status

    _show(run_status(config), _render.status, json)


@app.command
def versions(kind: str, *, config: ConfigPath = None, json: Json = False) -> None:
    """List the versions of a kind: teacher, saliency, fixations, student or evaluation."""
    from tasks._inspect import version_list

    _show(version_list(kind, config), _render.versions, json)


@app.command
def show(ref: str, *, config: ConfigPath = None, json: Json = False) -> None:
    """Show a version (KIND@VERSION): its key, inputs, members and figures."""
    from tasks._inspect import shown

    _show(shown(ref, config), _render.manifest, json)


@app.command
def pull(
    ref: str,
    dest: Path,
    *,
    shards: Annotated[str | None, Parameter(help="only these shards, such as 0-9")] = None,
    config: ConfigPath = None,
) -> None:
    """Copy a version to DEST/KIND@VERSION, every byte verified."""
    from tasks._inspect import pulled

    print(_render.pull(pulled(ref, dest, shards, config)))


@app.command
def verify(
    ref: str,
    *,
    deep: Annotated[bool, Parameter(help="read and hash every byte", negative="")] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Check that a version still holds what its manifest promises; exit code 4 when it does not."""
    from tasks._inspect import verified

    found = verified(ref, deep, config)
    _show(found, _render.verify, json)
    if found["damaged"]:
        sys.exit(4)


@app.command
def preview(ref: str, *, config: ConfigPath = None, dest: Path = Path("preview")) -> None:
    """Write a version's pictures and report, or a gallery of its labels, to a folder to look at."""
    from tasks._inspect import previewed

    print(_render.preview(previewed(ref, dest, config)))


def main() -> None:
    """Run the command line; errors become one message on standard error and an exit code."""
    try:
        app(result_action="return_value")
    except GazeflowError as error:
        print(f"gazeflow: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("gazeflow: stopped; what was finished is in the store. The same command goes on", file=sys.stderr)
        sys.exit(130)


def _pipeline() -> Any:
    from flows.pipeline import pipeline

    return pipeline


def _node() -> Any:
    from flows.node import node

    return node


def _run(load: Callable[[], Any], options: Any) -> None:
    from tasks._session import run_flow

    print(_render.run(run_flow(load, options)))


def _show(found: Any, render: Any, as_json: bool) -> None:
    print(json.dumps(found, indent=1, ensure_ascii=False) if as_json else render(found))


def _typed() -> str:
    return " ".join(["gazeflow", *sys.argv[1:]])
