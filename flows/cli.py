"""The command line: each command says what it did and what to type next. No logic here."""

from __future__ import annotations

import json
import os
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
Only = Annotated[str | None, Parameter(help="this node alone")]
From = Annotated[str | None, Parameter(name="--from", help="this node and what depends on it")]
Until = Annotated[str | None, Parameter(help="this node and what it needs")]
Json = Annotated[bool, Parameter(name="--json", help="print JSON and nothing else", negative="")]
Ref = Annotated[str, Parameter(help="KIND@VERSION or KIND:TAG")]
Tag = Annotated[str, Parameter(help="KIND:TAG, such as saliency:prod")]
ConfigPath = Annotated[str | None, Parameter(name="--config", help="a TOML file or preset; default: the last run's")]


@app.command
def run(
    config: str,
    *,
    only: Only = None,
    from_: From = None,
    until: Until = None,
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
    only: Only = None,
    from_: From = None,
    until: Until = None,
    force: Annotated[list[str] | None, Parameter(help="as if it were made again", negative="")] = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Show what a run would do with each node, and why; nothing is run."""
    from tasks._inspect import planned

    _show(planned(config, set_ or [], force or [], only, from_, until), _render.plan, json)


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
def show(ref: Ref, *, config: ConfigPath = None, json: Json = False) -> None:
    """Show a version (KIND@VERSION or KIND:TAG): its key, the tree of its inputs, members and figures."""
    from tasks._inspect import shown

    _show(shown(ref, config), _render.manifest, json)


@app.command
def pull(
    ref: Ref,
    dest: Path,
    *,
    shards: Annotated[str | None, Parameter(help="only these shards, such as 0-9")] = None,
    classes: Annotated[str | None, Parameter(help="only samples of these classes: n01440764,n01443537")] = None,
    dry_run: Annotated[bool, Parameter(help="say what would be copied, copy nothing", negative="")] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Copy a version to DEST/KIND@VERSION, every byte verified; given again, it goes on."""
    from tasks._upkeep import pulled

    _show(pulled(ref, dest, shards, classes, dry_run, config), _render.pull, json)


@app.command
def verify(
    ref: Ref,
    *,
    deep: Annotated[bool, Parameter(help="read and hash every byte", negative="")] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Check that a version still holds what its manifest promises; exit code 4 when it does not."""
    from tasks._inspect import verified

    found = verified(ref, deep, config)
    _show(found, _render.verify, json)
    if found["damaged"] or found["records"]:
        sys.exit(4)


@app.command
def diff(one: Ref, two: Ref, *, config: ConfigPath = None, json: Json = False) -> None:
    """Compare two versions of a kind: key, shards, samples, and how far the labels moved."""
    from tasks._upkeep import difference

    _show(difference(one, two, config), _render.diff, json)


@app.command
def tag(ref: Ref, name: Annotated[str, Parameter(help="such as prod")], *, config: ConfigPath = None) -> None:
    """Point the tag KIND:NAME at a version; every command and config takes KIND:NAME in place of KIND@VERSION."""
    from tasks._upkeep import tagged

    _tell(_render.tag(tagged(ref, name, config)))


@app.command
def rollback(tag: Tag, *, config: ConfigPath = None) -> None:
    """Point a tag (KIND:NAME) at what it meant before; again, at what it meant before that."""
    from tasks._upkeep import rolled_back

    _tell(_render.tag(rolled_back(tag, config)))


@app.command
def tags(tag: Tag | None = None, *, config: ConfigPath = None, json: Json = False) -> None:
    """List all tags, or the history of one (KIND:NAME): what it meant, since when, who moved it."""
    from tasks._upkeep import tag_list

    _show(tag_list(tag, config), _render.tags, json)


@app.command
def gc(
    *,
    apply: Annotated[bool, Parameter(help="delete; without it only say what would go", negative="")] = False,
    days: Annotated[float, Parameter(help="nothing younger is touched")] = 7,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Collect versions that no tag and no recent run names; their bytes go in a later run, DAYS after."""
    from tasks._upkeep import collected

    _show(collected(days, apply, config), _render.gc, json)


@app.command
def doctor(
    store: Annotated[str | None, Parameter(help="file:// or s3:// URL; default: the store in use")] = None,
    *,
    accept_unsafe: Annotated[bool, Parameter(help="use it although it overwrites", negative="")] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Try out whether a place keeps what gazeflow relies on; exit code 1 when it does not, 75 for no answer."""
    from tasks._upkeep import examined

    found = examined(store, accept_unsafe, config)
    _show(found, _render.doctor, json)
    verdicts = {f["verdict"] for f in found["findings"]}
    if verdicts & {"bad", "unknown"}:
        sys.exit(1 if "bad" in verdicts else 75)


@app.command
def preview(ref: Ref, *, config: ConfigPath = None, dest: Path = Path("preview")) -> None:
    """Write a version's pictures and report, or a gallery of its labels, to a folder to look at."""
    from tasks._inspect import previewed

    _tell(_render.preview(previewed(ref, dest, config)))


def main() -> None:
    """Run the command line; errors become one message on standard error and an exit code."""
    try:
        app(sys.argv[1:], result_action="return_value")
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
    from tasks._inspect import check_options
    from tasks._session import run_flow

    check_options(options)
    _tell(_render.run(run_flow(load, options)))


def _show(found: Any, render: Any, as_json: bool) -> None:
    _tell(json.dumps(found, indent=1, ensure_ascii=False) if as_json else render(found))


def _tell(text: str) -> None:
    """Print an answer. A reader that has seen enough, such as `head`, ends the command quietly."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python flushes at exit goes there
        sys.exit(141)  # as a shell tells of SIGPIPE


def _typed() -> str:
    return " ".join(["gazeflow", *sys.argv[1:]])
