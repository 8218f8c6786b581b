"""A process that makes nodes and shards for its parent: orders in as JSON lines, events out as JSON lines.

It lives exactly as long as its parent keeps its standard input open, so that a parent killed with -9 leaves
nothing running. What libraries print to standard output goes to standard error.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from typing import IO, Any

from pydantic import BaseModel, ConfigDict

from storage.errors import GazeflowError
from tasks._make import Order, finish_sharded, make_shards, make_whole
from tasks._stage import Event


class Call(BaseModel):
    """One thing asked of the child."""

    model_config = ConfigDict(frozen=True)

    order: Order
    what: str  # "whole", "shards" or "finish"
    shards: list[int] = []


def main() -> None:
    """Serve calls until the parent goes."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    calls: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(calls,), daemon=True).start()
    while True:
        _serve(Call.model_validate_json(calls.get()), out)


def _listen(calls: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        calls.put(line)
    os._exit(1)  # the parent is gone: whatever is under way is in the store or can be made again


def _serve(call: Call, out: IO[str]) -> None:
    def tell(kind: str, value: Any) -> None:
        out.write(json.dumps({kind: value}) + "\n")
        out.flush()

    def report(event: Event) -> None:
        tell("event", event.model_dump(mode="json", exclude_defaults=True) | {"kind": event.kind})

    try:
        tell("result", _do(call, report))
    except GazeflowError as error:
        tell("error", {"kind": error.kind, "message": str(error)})
    except Exception as error:  # any other is a fault of ours: told with its trace
        trace = "".join(traceback.format_exception(error))
        tell("error", {"kind": "failed", "message": f"{type(error).__name__}: {error}\n{trace}"})


def _do(call: Call, report: Any) -> Any:
    if call.what == "whole":
        return make_whole(call.order, report)
    if call.what == "shards":
        return make_shards(call.order, call.shards, report)
    return finish_sharded(call.order, report)


if __name__ == "__main__":
    main()
