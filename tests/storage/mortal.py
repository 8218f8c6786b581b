"""A store in memory with a clock of its own, whose users die at any write, or take turns at every call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from storage.backends.base import Entry
from storage.backends.memory import MemoryBackend
from storage.manifest import Manifest
from storage.store import Store

START = datetime(2030, 1, 1, tzinfo=UTC).timestamp()  # later than any real clock that a record was written by
DAY = 86400.0


def read_whole(store: Store, manifest: Manifest) -> None:
    """Read every byte of a version. Raises Integrity or NotFound for what its manifest does not promise."""
    for member in (*manifest.members, *manifest.views):
        store.read(member)


class Died(BaseException):
    """The process ends here, as by kill -9: nothing catches this."""


class Mortal(MemoryBackend):
    """Dies at a write, before or after it took place; a dead one does nothing more until it is revived."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.left: int | None = None  # writes before the one at which it dies
        self.after = False  # it dies when that one has taken place
        self.dead = False
        self.before_call: Callable[[], object] = lambda: None

    def clock(self) -> float:
        return self.now

    def doom(self, writes: int, after: bool) -> None:
        self.left, self.after = writes, after

    def revive(self) -> None:
        self.left, self.dead = None, False

    def _writing(self, write: Callable[[], bool | None]) -> bool | None:
        self._call()
        if self.dead:
            raise Died
        self.dead = self.left == 0
        done = write() if self.after or not self.dead else None
        if self.dead:
            raise Died
        self.left = None if self.left is None else self.left - 1
        return done

    def _call(self) -> None:
        self.before_call()

    def _write(self, key: str, data: bytes | memoryview) -> None:
        super()._write(key, data)
        self._modified[key] = self.now

    def create(self, key: str, data: bytes | memoryview) -> bool:
        return bool(self._writing(lambda: super(Mortal, self).create(key, data)))

    def replace(self, key: str, data: bytes | memoryview) -> None:
        self._writing(lambda: super(Mortal, self).replace(key, data))

    def delete(self, key: str) -> None:
        self._writing(lambda: super(Mortal, self).delete(key))

    def get(self, key: str, limit: int | None = None) -> bytes:
        self._call()
        return super().get(key, limit)

    def size(self, key: str) -> int | None:
        self._call()
        return super().size(key)

    def entries(self, prefix: str) -> Iterator[Entry]:
        self._call()
        yield from super().entries(prefix)

    def names(self, prefix: str = "") -> list[str]:
        return sorted(k for k in self._objects if k.startswith(prefix))


class Turns:
    """Lets actors take turns at every call of a store, in an order that can be played again."""

    def __init__(self, backend: Mortal) -> None:
        backend.before_call = self._wait
        self._changed = threading.Condition()
        self._waiting: set[int] = set()
        self._running: set[int] = set()
        self._actors: dict[int, int] = {}  # thread -> number

    def play(self, actors: Sequence[Callable[[], object]], order: Sequence[int]) -> list[object]:
        """Run all to their ends: at each turn order[n] says whose, of those who wait. Returns results or errors."""
        results: list[object] = [None] * len(actors)

        def run(number: int) -> None:
            self._actors[threading.get_ident()] = number
            try:
                self._wait()
                results[number] = actors[number]()
            except Exception as error:
                results[number] = error
            finally:
                with self._changed:
                    self._running.discard(number)
                    self._changed.notify_all()

        self._running = set(range(len(actors)))
        threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(len(actors))]
        for thread in threads:
            thread.start()
        for turn in self._order(order):
            with self._changed:
                self._changed.wait_for(lambda: self._waiting == self._running, timeout=20)
                if not self._running:
                    break
                waiting = sorted(self._waiting)
                self._waiting.discard(waiting[turn % len(waiting)])
                self._changed.notify_all()
        for thread in threads:
            thread.join(timeout=20)
        return results

    def _order(self, order: Sequence[int]) -> Iterator[int]:
        yield from order
        while True:
            yield 0  # when the order has ended: one after the other

    def _wait(self) -> None:
        number = self._actors.get(threading.get_ident())
        if number is None:
            return
        with self._changed:
            self._waiting.add(number)
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: number not in self._waiting, timeout=20):
                raise TimeoutError("nobody gave this actor its turn")
