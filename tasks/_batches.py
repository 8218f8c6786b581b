"""A node's shards in batches, each a Prefect task run: a shard whose process dies costs a try and not the node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE

from storage.attempt import OpenAttempt
from storage.errors import GazeflowError
from tasks._child import Call
from tasks._make import Order, remaining_shards
from tasks._page import Page
from tasks._process import Child, ChildDied
from tasks._stage import Shard

_DEATHS_PER_SHARD = 3
_LOST_SHARDS = 3  # so many in one node mean that the fault is not in the shards


def make_all_shards(
    order: Order, attempt: OpenAttempt, child: Child, page: Page, batch_size: int, seconds: float
) -> None:
    """Make what remains in batches; a shard whose process died three times is left out and named at the end."""
    deaths: dict[int, int] = {}
    lost: list[int] = []
    todo = remaining_shards(order)
    page.expect(todo)
    while todo and len(lost) < _LOST_SHARDS:
        batch, rest = todo[:batch_size], todo[batch_size:]
        died = ""
        try:
            _shards_task(order, child, page, batch, seconds)()
        except ChildDied as error:
            died = str(error)
        left = [s for s in batch if not attempt.is_finished(s.number)]  # the store knows of another run's, too
        if died and left:
            first = left[0].number  # shards are made in order: this one was under way, or next
            deaths[first] = deaths.get(first, 0) + 1
            page.log(f"WARNING shard {first}: try {deaths[first]}: {died}")
        lost = sorted(n for n, tries in deaths.items() if tries >= _DEATHS_PER_SHARD)
        todo = [s for s in left if s.number not in lost] + rest
    if lost:
        raise GazeflowError(
            f"{order.node}: the shards {lost} killed their process {_DEATHS_PER_SHARD} times each; what others were "
            "finished is in the store. Look at the images of these and at the memory there is, then run again"
        )


def _shards_task(order: Order, child: Child, page: Page, batch: list[Shard], seconds: float) -> Callable[[], Any]:
    numbers = [s.number for s in batch]

    def shards() -> Any:
        return child.call(Call(order=order, what="shards", shards=numbers), page.report, seconds)

    return Task(
        fn=shards,
        name=f"{order.key.stage}-shards",
        task_run_name=f"{order.node} shards {numbers[0]}-{numbers[-1]}",
        cache_policy=NO_CACHE,
        persist_result=False,
    )
