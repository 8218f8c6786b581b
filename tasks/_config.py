"""A config file: settings, datasets and nodes, checked whole before anything runs."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from storage.canonical import canonical_json
from storage.errors import InvalidInput, NotFound
from storage.keys import check_name
from tasks._datasets import DatasetConfig
from tasks._mistakes import explained, fields_at, nearest
from tasks._settings import Settings
from tasks._stage import Params, Stage, load_stage, stage_names

RESERVED = ("inputs", "datasets")


class Node(BaseModel):
    """A named use of a stage."""

    model_config = ConfigDict(frozen=True)

    name: str
    stage: str
    params: dict[str, Any]  # fully expanded
    inputs: dict[str, list[str]]  # role -> nodes, or refs of versions made before
    datasets: dict[str, list[str]]  # role -> names of datasets


class Config(BaseModel):
    """Everything a run needs to know, with every default filled in."""

    model_config = ConfigDict(frozen=True)

    source: str
    settings: Settings
    datasets: dict[str, DatasetConfig]
    nodes: dict[str, Node]  # in an order in which inputs come first

    def node(self, name: str) -> Node:
        if name not in self.nodes:
            raise InvalidInput(f"{self.source}: no node {name!r}; {nearest(name, self.nodes)}")
        return self.nodes[name]

    def parents(self, name: str) -> list[str]:
        return sorted({n for names in self.nodes[name].inputs.values() for n in names if not is_ref(n)})

    def upstream(self, name: str) -> set[str]:
        """The nodes a node needs, directly or not."""
        found = set(self.parents(name))
        return found.union(*(self.upstream(p) for p in found)) if found else found

    def downstream(self, name: str) -> set[str]:
        """The nodes that need a node, directly or not."""
        return {n for n in self.nodes if name in self.upstream(n)}

    def sources(self, names: Iterable[str]) -> set[str]:
        """The data sets that nodes read themselves."""
        return {d for n in names for datasets in self.nodes[n].datasets.values() for d in datasets}

    def narrowed(self, names: Iterable[str]) -> Config:
        """The config of some nodes and all they need, inputs first, with no other data set."""
        needed = set(names).union(*(self.upstream(n) for n in names))
        nodes = _in_order({n: node for n, node in self.nodes.items() if n in needed}, self.source)
        used = self.sources(nodes)
        datasets = {n: d for n, d in self.datasets.items() if n in used}
        return self.model_copy(update={"nodes": nodes, "datasets": datasets})

    def params(self, name: str) -> Params:
        node = self.nodes[name]
        return load_stage(node.stage).params.model_validate(node.params)


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Read and check a config file; `overrides` are `table.key=value` with TOML values, for tables that it has.

    `path` is a file, or the name of a preset in flows/configs/. Raises NotFound or InvalidInput; an unknown
    key is named with its file and the nearest known one.
    """
    file = find_config(path)
    try:
        tables = tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file}: not valid TOML: {error}") from None
    given = [_parse_override(o) for o in overrides]
    known = _addressable(tables, path) if given else []
    for keys, value in given:
        _assign(tables, keys, value)
        made = [t for t in _addressable(tables, path) if t not in known]
        if made:
            told = f"it changes tables that {path} has, and [{made[0]}] is none of them"
            raise InvalidInput(f"--set {'.'.join(keys)}: {told}; {nearest(made[0], known)}")
    in_settings = {k[1]: v for k, v in given if k[0] == "settings" and len(k) == 2}
    return build_config(tables, str(path), in_settings)


def find_config(path: str) -> Path:
    """The file a config argument means: a path, or a preset's name."""
    presets = Path(__file__).parent.parent / "flows" / "configs"
    for candidate in (Path(path), presets / path, presets / f"{path}.toml"):
        if candidate.is_file():
            return candidate
    names = sorted(p.name for p in presets.glob("*.toml"))
    raise NotFound(f"config {path!r}: no such file, and no preset of that name; presets: {', '.join(names)}")


def build_config(tables: Mapping[str, Any], source: str, in_settings: Mapping[str, Any]) -> Config:
    """Check the tables of a config and fill in every default."""
    rest = dict(tables)
    settings = _settings(_table(rest.pop("settings", {}), f"{source} [settings]"), in_settings, source)
    sources = _table(rest.pop("datasets", {}), f"{source} [datasets]")
    datasets = {n: _dataset(n, t, source) for n, t in sources.items()}
    nodes = {name: _node(name, table, source) for name, table in _node_tables(rest, source).items()}
    nodes = {name: _with_inputs(node, nodes, datasets, source) for name, node in nodes.items()}
    return Config(source=source, settings=settings, datasets=datasets, nodes=_in_order(nodes, source))


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{where}: expected a table, found {value!r}")
    return value


def environment_settings() -> Settings:
    """The settings where no config is given: GAZEFLOW_* and defaults. Raises InvalidInput."""
    return _settings({}, {}, "GAZEFLOW_*")


def _settings(table: Mapping[str, Any], in_settings: Mapping[str, Any], source: str) -> Settings:
    try:
        # an option beats the environment, the environment beats the file
        from_file = {k: v for k, v in table.items() if f"GAZEFLOW_{k.upper()}" not in os.environ}
        return Settings(**from_file | dict(in_settings))
    except ValidationError as error:
        raise explained(error, Settings, f"{source} [settings]") from None


def _dataset(name: str, given: Any, source: str) -> DatasetConfig:
    where = f"{source} [datasets.{name}]"
    table = _table(given, where)
    missing = {"format", "path"} - table.keys()
    if missing:
        raise InvalidInput(f"{where}: expected format and path, {sorted(missing)} not there")
    options = {k: v for k, v in table.items() if k not in ("format", "path", "generate")}
    try:
        return DatasetConfig(
            format=table["format"], path=str(table["path"]), generate=table.get("generate"), options=options
        )
    except ValidationError as error:
        raise explained(error, DatasetConfig, where) from None


def _node_tables(tables: Mapping[str, Any], source: str) -> dict[str, dict[str, Any]]:
    """The table of every node, by its name."""
    stages = {k: t for k, t in tables.items() if k not in ("settings", "datasets")}
    return dict(pair for stage, table in stages.items() for pair in _nodes_of(stage, table, source))


def _nodes_of(name: str, table: Any, source: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """A table and its dotted nodes, each with its parent's keys filled in."""
    stage = name.split(".")[0]
    if stage not in stage_names():
        known = [*stage_names(), "datasets", "settings"]
        raise InvalidInput(f"{source}: unknown key {name!r}; {nearest(stage, known)}")
    table = _table(table, f"{source} [{name}]")
    fields = load_stage(stage).params.model_fields
    below = {k: v for k, v in table.items() if isinstance(v, dict) and k not in fields and k not in RESERVED}
    own = {k: v for k, v in table.items() if k not in below}
    yield name, own
    for key, override in below.items():
        if "." in key:  # it would be taken for two
            raise InvalidInput(f"{source} [{name}]: node {key!r}: expected a name without a dot in quotes; rename it")
        check_name(key, f"{source} [{name}]: node")
        yield from _nodes_of(check_name(f"{name}.{key}", f"{source}: node"), _merged(own, override), source)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in over.items():
        both[key] = _merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


def _node(name: str, table: dict[str, Any], source: str) -> Node:
    stage = load_stage(name.split(".")[0])
    given = {k: v for k, v in table.items() if k not in RESERVED}
    try:
        params = stage.params.model_validate(given).model_dump(mode="json")
    except ValidationError as error:
        raise explained(error, stage.params, f"{source} [{name}]") from None
    listed = {key: _roles(table.get(key, {}), f"{source} [{name}] {key}") for key in RESERVED}
    for key, roles in (("inputs", stage.inputs), ("datasets", stage.datasets)):
        for role in listed[key]:
            if role not in roles:
                raise InvalidInput(f"{source} [{name}] {key}: unknown role {role!r}; {nearest(role, roles)}")
    return Node(name=name, stage=stage.name, params=params, **listed)


def _roles(given: Any, where: str) -> dict[str, list[str]]:
    """Names by role; a single name is a list of one."""
    roles = {role: [names] if isinstance(names, str) else names for role, names in _table(given, where).items()}
    for role, names in roles.items():
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise InvalidInput(f"{where}.{role}: expected a name or a list of names, found {names!r}")
    return roles


def _with_inputs(node: Node, nodes: Mapping[str, Node], datasets: Mapping[str, Any], source: str) -> Node:
    """The node with its default inputs, all names checked."""
    stage: Stage = load_stage(node.stage)
    inputs = {role: node.inputs.get(role, [i.node]) for role, i in stage.inputs.items()}
    for role, names in inputs.items():
        for name in names:
            if is_ref(name):
                _check_kind(name, stage.inputs[role].kind, f"{source} [{node.name}] input {role}")
                continue
            if name not in nodes:
                raise InvalidInput(f"{source} [{node.name}] input {role}: no node {name!r}; {nearest(name, nodes)}")
            if nodes[name].stage != stage.inputs[role].kind:
                raise InvalidInput(
                    f"{source} [{node.name}] input {role}: expected a node of stage {stage.inputs[role].kind}, "
                    f"found {name!r} of stage {nodes[name].stage}"
                )
        if len(names) != 1 and not stage.inputs[role].many:
            raise InvalidInput(f"{source} [{node.name}] input {role}: expected one node, found {names}")
    for role in stage.datasets:
        if not node.datasets.get(role):
            raise InvalidInput(f"{source} [{node.name}]: expected `datasets.{role} = \"...\"`, found none")
        if stage.datasets[role] == "images" and len(node.datasets[role]) != 1:
            raise InvalidInput(
                f"{source} [{node.name}] dataset {role}: expected one data set, found {node.datasets[role]}"
            )
        for name in node.datasets[role]:
            if name not in datasets:
                near = nearest(name, datasets)
                raise InvalidInput(f"{source} [{node.name}] dataset {role}: no [datasets.{name}]; {near}")
    return node.model_copy(update={"inputs": inputs})


def is_ref(name: str) -> bool:
    """Whether an input is a version (saliency@3f9c0a1b2c3d) or a tag (saliency:prod), not a node."""
    return "@" in name or ":" in name


def _check_kind(ref: str, kind: str, where: str) -> None:
    if ref.partition("@")[0].partition(":")[0] != kind:
        raise InvalidInput(f"{where}: expected a version or tag of {kind}, found {ref!r}")


def _in_order(nodes: dict[str, Node], source: str) -> dict[str, Node]:
    """Nodes with inputs first. Stages cannot form a ring, since each input has another kind."""
    ordered: dict[str, Node] = {}
    while len(ordered) < len(nodes):
        left = [n for n in nodes.values() if n.name not in ordered]
        ready = [n for n in left if all(p in ordered for names in n.inputs.values() for p in names if not is_ref(p))]
        if not ready:
            raise InvalidInput(f"{source}: the nodes {sorted(nodes.keys() - ordered)} need each other in a ring")
        ordered |= {n.name: n for n in ready}
    return ordered


def _parse_override(text: str) -> tuple[list[str], Any]:
    path, equals, value = text.partition("=")
    keys = [k.strip() for k in path.split(".")]
    if not equals or len(keys) < 2 or not all(keys):
        raise InvalidInput(f"--set {text!r}: expected TABLE.KEY=VALUE, such as student.epochs=3")
    try:
        return keys, tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return keys, value.strip()


def _assign(tables: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        tables = tables.setdefault(key, {})
        if not isinstance(tables, dict):
            raise InvalidInput(f"--set {'.'.join(keys)}: {key!r} is a value, not a table")
    tables[keys[-1]] = value


def _addressable(tables: Mapping[str, Any], source: str) -> list[str]:
    """The tables that --set may name: settings, data sets, nodes and the tables in them."""
    found = ["settings", *(f"datasets.{n}" for n in _table(tables.get("datasets", {}), f"{source} [datasets]"))]
    for name in _node_tables(tables, source):
        params = load_stage(name.split(".")[0]).params
        inner = [f for f in params.model_fields if fields_at(params, [f])]
        found += [name, *(f"{name}.{key}" for key in (*inner, *RESERVED))]
    return found


def config_bytes(config: Config) -> bytes:
    """The whole config as canonical JSON, to hand to another process or keep in a run's record."""
    return canonical_json(config.model_dump(mode="json"))
