"""Procedural scenes and simulated observers: seeded, varied, learnable, and looked at where objects are."""

import time

import cv2
import numpy as np
import pytest

from storage.datasets import _observers, _scenes, _shapes

SIZE = (160, 120)


def scene(index: int, size: tuple[int, int] = SIZE, seed: int = 1) -> _scenes.Scene:
    return _scenes.draw(_scenes.random(seed, 0, index), size, index % _scenes.CLASSES)


@pytest.fixture(scope="module")
def scenes() -> list[_scenes.Scene]:
    return [scene(index) for index in range(400)]


def watched(drawn: list[_scenes.Scene], observers: int = 8) -> list[tuple[_observers.Scanpath, ...]]:
    return [_observers.watch(_scenes.random(2, 0, index), each, observers) for index, each in enumerate(drawn)]


def test_a_scene_depends_on_its_seed_stream_and_index_alone() -> None:
    first, again = scene(3), scene(3)
    assert np.array_equal(first.pixels, again.pixels)
    assert first.things == again.things
    others = [scene(13).pixels, scene(3, seed=2).pixels, _scenes.draw(_scenes.random(1, 1, 3), SIZE, 3).pixels]
    assert not any(np.array_equal(first.pixels, other) for other in others)


@pytest.mark.parametrize("size", [(160, 120), (64, 64), (100, 200), (33, 32), (320, 240)])
def test_any_size_and_objects_inside(size: tuple[int, int]) -> None:
    for index in range(20):
        drawn = scene(index, size)
        assert drawn.pixels.shape == (size[1], size[0], 3)
        assert drawn.pixels.dtype == np.uint8
        for thing in drawn.things:
            assert 0.8 * thing.radius <= thing.x <= size[0] - 0.8 * thing.radius
            assert 0.8 * thing.radius <= thing.y <= size[1] - 0.8 * thing.radius


def test_the_label_is_the_largest_and_heaviest_object(scenes: list[_scenes.Scene]) -> None:
    assert {len(each.things) for each in scenes} == {1, 2, 3, 4}
    for index, each in enumerate(scenes):
        assert each.label == index % _scenes.CLASSES
        assert each.things[0].radius == max(thing.radius for thing in each.things)
        assert each.things[0].weight == max(thing.weight for thing in each.things)
        assert sum(thing.weight for thing in each.things) == pytest.approx(1)


def test_objects_are_spread_over_the_frame_and_seldom_overlap(scenes: list[_scenes.Scene]) -> None:
    main = np.array([(each.things[0].x / SIZE[0], each.things[0].y / SIZE[1]) for each in scenes])
    assert main.std(0).min() > 0.18  # uniform over the whole frame would be 0.29
    assert np.abs(main.mean(0) - 0.5).max() < 0.05
    assert (np.hypot(*(main - 0.5).T) < 0.1).mean() < 0.02
    pairs = [(a, b) for each in scenes for a in each.things for b in each.things if a is not b]
    overlap = [np.hypot(a.x - b.x, a.y - b.y) < 0.8 * (a.radius + b.radius) for a, b in pairs]
    assert np.mean(overlap) < 0.03


def test_outlines_are_ten_different_shapes() -> None:
    masks = [_shapes.mask(label, 20, 0, (48, 48), 24, 24) for label in range(_scenes.CLASSES)]
    for number, one in enumerate(masks):
        assert 0.15 < one.mean() < 0.7
        for other in masks[:number]:
            assert np.minimum(one, other).sum() / np.maximum(one, other).sum() < 0.9


def accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Of a quadratic least-squares classifier, fitted to the first three quarters, on the last."""
    pairs = np.triu_indices(features.shape[1])
    full = np.c_[np.ones(len(features)), features, (features[:, :, None] * features[:, None, :])[:, *pairs]]
    split = len(full) * 3 // 4
    weights = np.linalg.lstsq(full[:split], np.eye(10)[labels[:split]], rcond=1e-6)[0]
    return float(((full[split:] @ weights).argmax(1) == labels[split:]).mean())


def test_mean_colour_says_little_but_the_object_says_much(scenes: list[_scenes.Scene]) -> None:
    labels = np.array([each.label for each in scenes])
    colour = np.array([each.pixels.reshape(-1, 3).mean(0) for each in scenes]) / 255
    assert accuracy(colour, labels) < 0.35
    crops = []
    for each in scenes:
        main = each.things[0]
        patch = cv2.getRectSubPix(each.pixels, (int(2 * main.radius),) * 2, (main.x, main.y))
        crops.append(cv2.resize(patch, (12, 12), interpolation=cv2.INTER_AREA).ravel() / 255)
    found = np.array(crops) - np.mean(crops, 0)
    axes = np.linalg.svd(found[:300], full_matrices=False)[2][:12]
    assert accuracy(found @ axes.T, labels) > 0.5


def test_people_look_at_objects_and_not_all_alike(scenes: list[_scenes.Scene]) -> None:
    inside, area, count = 0.0, 0.0, 0
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    for each, people in zip(scenes[:100], watched(scenes[:100]), strict=True):
        body = np.zeros(SIZE[::-1], bool)
        for thing in each.things:
            body |= np.hypot(columns + 0.5 - thing.x, rows + 0.5 - thing.y) < thing.radius
        x, y = (np.concatenate([getattr(p, axis) for p in people]).astype(int) for axis in "xy")
        inside, area, count = inside + body[y, x].sum(), area + body.mean(), count + len(x)
        assert len({p.x.tobytes() for p in people}) == len(people)
    assert inside / count > 0.55
    assert inside / count > 3 * area / 100


def test_the_dominant_object_gets_most_and_weights_order_the_rest(scenes: list[_scenes.Scene]) -> None:
    several = [each for each in scenes if len(each.things) > 1][:100]
    hits = np.zeros(2)
    for each, people in zip(several, watched(several), strict=True):
        x, y = (np.concatenate([getattr(p, axis)[1:] for p in people]) for axis in "xy")
        hits += [(np.hypot(x - t.x, y - t.y) < t.radius).sum() for t in each.things[:2]]
    assert hits[0] > 2 * hits[1] > 0


def test_scanpaths_begin_in_the_middle_and_stay_inside(scenes: list[_scenes.Scene]) -> None:
    people = [person for paths in watched(scenes[:100]) for person in paths]
    lengths = np.array([len(person.x) for person in people])
    assert 8 <= np.quantile(lengths, 0.1) <= np.quantile(lengths, 0.9) <= 12
    for person in people:
        assert person.x.dtype == person.y.dtype == np.float32
        assert person.x.min() >= 0
        assert person.y.min() >= 0
        assert person.x.max() < SIZE[0]
        assert person.y.max() < SIZE[1]
        assert len(person.x) == len(person.y) == len(person.duration)
    starts = np.array([(person.x[0] / SIZE[0], person.y[0] / SIZE[1]) for person in people]) - 0.5
    later = np.array([(person.x[5] / SIZE[0], person.y[5] / SIZE[1]) for person in people]) - 0.5
    assert 3 * np.hypot(*starts.T).mean() < np.hypot(*later.T).mean()


def test_backgrounds_differ(scenes: list[_scenes.Scene]) -> None:
    small = np.array([cv2.resize(each.pixels, (8, 6), interpolation=cv2.INTER_AREA) for each in scenes[:50]])
    flat = small.reshape(50, -1).astype(float)
    distance = np.abs(flat[:, None] - flat[None]).mean(2)[np.triu_indices(50, 1)]
    assert distance.min() > 3
    assert flat.mean(1).std() > 10


def test_drawing_is_fast_enough() -> None:
    start = time.process_time()
    for index in range(60):
        cv2.imencode(".jpg", scene(index).pixels)
    assert 60 / (time.process_time() - start) > 60  # about 400 on a quiet core; a tenth would be a fault
