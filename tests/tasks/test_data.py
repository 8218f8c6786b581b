"""Images joined with their labels: by shard and key, never by position alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.errors import Integrity, InvalidInput, NotFound
from tasks._data.labels import Label, LabelReader, density_at, points_at
from tasks._data.student import StudentData, batch_places, student_batch


@pytest.fixture
def joined(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[dict[str, bytes]], tmp_path: Path
) -> Callable[..., StudentData]:
    made = of_tars(write_tars(tmp_path / "tars", four_shards))
    manifests = [made.make(n) for n in ("saliency", "fixations")]

    def join(permuted: bool = False, seed: int = 0, keep_bytes: int = 0) -> StudentData:
        return StudentData(made.datasets["tars"], LabelReader(made.store, *manifests), permuted, seed, keep_bytes)

    return join


def own_labels(data: StudentData) -> dict[tuple[int, int], int]:
    """The identity of every image's own label."""
    index = data._images.index
    return {
        (s, r): id(label)
        for s in range(index.shards())
        for r, label in enumerate(data._labels.shard(s, index.shard(s)))
    }


def test_no_map_is_read_before_a_sample_is_asked_for(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[dict[str, bytes]], tmp_path: Path
) -> None:
    """A million maps would take minutes to decode: which rows have a label stands in the tables."""
    shards = [*four_shards[:3], four_shards[3] | {"broken.jpg": b"no image"}]
    made = of_tars(write_tars(tmp_path / "tars", shards), "settings.max_failed_share=0.1")
    saliency, fixations = made.make("saliency"), made.make("fixations")
    for record in saliency.shards:
        made.store.backend.delete(record.members[0].key)
    data = StudentData(made.datasets["tars"], LabelReader(made.store, saliency, fixations), False, 0)
    assert data.rows == [list(range(6))] * 4, "all but the broken image, which is the last"
    with pytest.raises(NotFound):
        data.sample(0, 0)


def test_a_sample_is_an_image_with_its_own_label(joined: Callable[..., StudentData]) -> None:
    data = joined()
    own = own_labels(data)
    assert len(data) == 24
    assert all(id(data.sample(*place).attention) == own[place] for place in own)


@pytest.mark.parametrize("seed", [0, 1])
def test_permuted_labels_are_all_used_and_nobodys_own(joined: Callable[..., StudentData], seed: int) -> None:
    data = joined(permuted=True, seed=seed)
    own = own_labels(data)
    given = {place: id(data.sample(*place).attention) for place in own}
    assert all(given[place] != own[place] for place in own)
    for shard in range(4):
        assert {g for (s, _), g in given.items() if s == shard} == {o for (s, _), o in own.items() if s == shard}


def test_permutation_follows_the_seed(joined: Callable[..., StudentData]) -> None:
    one, same, other = joined(True, 0), joined(True, 0), joined(True, 1)
    assert [one._partner(s) for s in range(4)] == [same._partner(s) for s in range(4)]
    assert [one._partner(s) for s in range(4)] != [other._partner(s) for s in range(4)]


def test_an_epoch_visits_every_sample_once_in_an_order_of_its_own(joined: Callable[..., StudentData]) -> None:
    data = joined()
    orders = [data.order(epoch) for epoch in range(3)]
    places = {(s, r) for s in range(4) for r in range(6)}
    assert all(len(o) == 24 and set(o) == places for o in orders)
    assert orders[0] != orders[1]
    assert orders[0] == joined().order(0)
    assert {s for s, _ in orders[0][:12]} == {0, 1, 2, 3}, "shards are mixed"


@pytest.mark.parametrize("keep_bytes", [0, 60_000, 2**30])
def test_a_batch_does_not_depend_on_what_is_kept_in_memory(
    joined: Callable[..., StudentData], keep_bytes: int
) -> None:
    places = [(0, 1), (3, 2), (0, 1)]
    for _ in range(2):
        one = student_batch(joined(keep_bytes=keep_bytes), places, 32, (0.2, 1.0), 0, 1)
        two = student_batch(joined(), places, 32, (0.2, 1.0), 0, 1)
        for name in ("views", "whole", "labels", "density", "points", "points_mask", "labelled"):
            assert (getattr(one, name) == getattr(two, name)).all(), name


def test_a_batch_has_densities_and_points_of_the_students_size(joined: Callable[..., StudentData]) -> None:
    batch = student_batch(joined(), [(0, 0), (1, 1)], 16, (0.2, 1.0), 0, 0)
    assert tuple(batch.views.shape) == (2, 2, 3, 16, 16)
    assert tuple(batch.whole.shape) == (2, 3, 16, 16)
    assert batch.density.sum((1, 2)).numpy() == pytest.approx([1, 1], abs=1e-5)
    assert batch.points_mask.any(1).all()
    assert batch.points[batch.points_mask].max() < 16


def test_labels_of_other_images_are_refused_by_shard_and_key(
    bare: Callable[..., Any], labelled: Path, write_tars: Callable[..., Path], four_shards: list[dict[str, bytes]],
    tmp_path: Path,
) -> None:  # fmt: skip
    tars = write_tars(tmp_path / "tars", four_shards[:1])
    extra = f'\n[datasets.tars]\nformat = "webdataset_tar"\npath = "{tars}"\n'
    made = bare("student.datasets.images=tars", store=labelled, extra=extra)
    first = next(iter(four_shards[0])).removesuffix(".jpg")
    with pytest.raises(Integrity, match=rf"saliency@\w+ shard 0 row 0: expected the label of '{first}'"):
        made.make("student")


def test_fewer_labels_than_images_are_refused(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[dict[str, bytes]], tmp_path: Path
) -> None:
    made = of_tars(write_tars(tmp_path / "tars", four_shards))
    saliency, fixations = made.make("saliency"), made.make("fixations")
    reader = LabelReader(made.store, saliency, fixations)
    images = made.datasets["tars"].index.shard(1)
    swapped = [images[1], images[0], *images[2:]]
    for read in (reader.shard, reader.usable):
        with pytest.raises(Integrity, match="shard 1: expected 5 labels, found 6"):
            read(1, images[:-1])
        with pytest.raises(Integrity, match="shard 1 row 0"):
            read(1, swapped)
        with pytest.raises(Integrity, match="image shard 7, found 4 shards"):
            read(7, images)


def test_too_few_images_for_a_batch_are_named(
    of_tars: Callable[..., Any], write_tars: Callable[..., Path], four_shards: list[dict[str, bytes]], tmp_path: Path
) -> None:
    made = of_tars(write_tars(tmp_path / "tars", four_shards[:2]))
    for node in ("saliency", "fixations"):
        made.make(node)
    with pytest.raises(InvalidInput, match="one batch of 16 labelled images, found 12"):
        made.make("student")


def test_an_all_zero_map_becomes_uniform() -> None:
    assert np.all(density_at(np.zeros((8, 8), np.uint8), 4) == np.float32(1 / 16))


def test_points_move_with_the_frame() -> None:
    label = Label(np.zeros((64, 64), np.uint8), np.array([0, 63, 32], np.uint16), np.array([63, 0, 31], np.uint16))
    assert points_at(label, 32).tolist() == [[0, 31], [31, 0], [16, 15]]
    assert points_at(label, 128).tolist() == [[1, 127], [127, 1], [65, 63]]


def test_an_epoch_cut_into_batches_drops_the_rest_and_resumes_in_the_middle() -> None:
    order = [(0, n) for n in range(10)]
    assert batch_places(order, 4, 0) == [order[0:4], order[4:8]]
    assert batch_places(order, 4, 1) == [order[4:8]]
    assert batch_places(order, 4, 2) == []
