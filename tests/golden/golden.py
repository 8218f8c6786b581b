"""Golden files, one per stage: which code makes its result, and which bytes that code made.

    python tests/golden/golden.py      (make golden)

A change to a stage's code changes its digest, and `test_golden.py` fails until this has been run. It makes every
stage on a fixed tiny input; where a result's bytes have changed, the stage's version must have been raised, or
nothing is written: an old version in a store would otherwise pass for the new result.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# What makes a result: numerics, the shards' and data sets' formats, and the code that joins them.
FORMATS = ("storage.datasets.", "storage.shards", "storage.images", "storage.keys")
MAKERS = ("models.", *FORMATS, "tasks._data", "tasks._evaluation", "tasks.teacher")


def code_digest(stage: str) -> str:
    """SHA-256 over the syntax trees of a stage's file and of all makers it imports, directly or not."""
    waiting, seen = [f"tasks.{stage}"], {}
    while waiting:
        module = waiting.pop()
        path = _file(module)
        if module in seen or path is None:
            continue
        tree = ast.parse(path.read_text())
        seen[module] = ast.dump(_bare(tree))
        waiting += [m for m in _imported(tree) if m.startswith(MAKERS)]
    return hashlib.sha256(json.dumps(sorted(seen.items())).encode()).hexdigest()


def _file(module: str) -> Path | None:
    path = ROOT / Path(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def _imported(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
    return found


def _bare(tree: ast.AST) -> ast.AST:
    """The tree without docstrings; comments are not in it anyway."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            node.body = body[1:] or [ast.Pass()]
    return tree


def golden_file(stage: str) -> Path:
    return HERE / f"{stage}.json"


def make() -> dict[str, dict[str, object]]:
    """Make every stage on the tiny input; returns version, code and result of each."""
    from storage.store import Store
    from tasks._config import load_config
    from tasks._datasets import refresh
    from tasks._make import finish_sharded, make_shards, make_whole, open_order, remaining_shards
    from tasks._plan import node_key
    from tasks._stage import load_stage

    config = load_config(str(HERE / "tiny.toml"))
    store = Store.open(config.settings.store)
    datasets = {n: refresh(store, n, d) for n, d in config.datasets.items()}
    refs: dict[str, str] = {}
    results: dict[str, list[str]] = {}
    for name, node in config.nodes.items():
        order, _ = open_order(config, name, node_key(config, name, refs, datasets), "golden", "golden", False, None)
        if load_stage(node.stage).sharded:
            make_shards(order, [s.number for s in remaining_shards(order)], lambda event: None)
            refs[name] = finish_sharded(order, lambda event: None)
        else:
            refs[name] = make_whole(order, lambda event: None)
        results.setdefault(node.stage, []).append(store.resolve(refs[name]).result_digest())
    return {
        s: {"version": load_stage(s).version, "code": code_digest(s), "result": results[s]} for s in sorted(results)
    }


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        made = make()
    refused = 0
    for stage, new in made.items():
        path = golden_file(stage)
        old = json.loads(path.read_text()) if path.exists() else None
        if old and old["result"] != new["result"] and old["version"] == new["version"]:
            print(f"{stage}: its bytes changed, its version is still {new['version']}: raise it in tasks/{stage}.py")
            refused += 1
        elif old != new:
            path.write_text(json.dumps(new, indent=1) + "\n")
            print(f"{stage}: written")
        else:
            print(f"{stage}: unchanged")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
