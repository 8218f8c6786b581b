"""Ordered, bounded, and honest about the first error."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.parallel import Forsaken, ordered_map


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(), max_size=20), st.integers(0, 4), st.integers(1, 5))
def test_results_come_in_the_order_of_the_items(items: list[int], threads: int, ahead: int) -> None:
    def work(item: int) -> int:
        time.sleep((item % 3) / 2000)
        return -item

    assert list(ordered_map(work, items, threads, ahead)) == [-i for i in items]
    assert list(ordered_map(work, items, threads, ahead, Forsaken)) == [-i for i in items]


def test_no_more_is_begun_than_what_is_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(100):
            taken.append(n)
            yield n

    results = ordered_map(lambda n: n, items(), 2, 3)
    assert next(results) == 0
    assert len(taken) <= 5
    results.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_is_raised_in_its_place(threads: int) -> None:
    def work(n: int) -> int:
        if n == 3:
            raise ValueError("three")
        return n

    results = ordered_map(work, range(10), threads, 4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_leaving_early_leaves_no_thread() -> None:
    before = threading.active_count()
    for _ in ordered_map(lambda n: n, range(1000), 3, 4):
        break
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_the_forsaken_are_not_waited_for() -> None:
    """What was begun goes on by itself, what was not is dropped, and then no thread is left."""
    before, stall, begun = threading.active_count(), threading.Event(), list[int]()

    def work(n: int) -> int:
        begun.append(n)
        return n if n == 0 else stall.wait(60)

    results = ordered_map(work, range(10), 2, 4, Forsaken)
    assert next(results) == 0
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 1
    stall.set()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    assert len(begun) <= 3
