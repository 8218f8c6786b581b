"""The fast kernel against the definition, written out slowly: equal point for point, peaks bit for bit."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.fixations import extract, gaussian_table


def slow(image, sigma, threshold, cap):
    """Subtract the peak's Gaussian over a square of floor(4 sigma), in float32, until the maximum is too low."""
    v = image.astype(np.float32) / np.float32(255)
    radius = math.floor(4 * sigma)
    first = v.max()
    points = []
    while True:
        y, x = divmod(int(v.argmax()), v.shape[1])
        peak = v[y, x]
        if peak <= 0 or peak < np.float32(threshold) * first:
            return points, False
        if len(points) == cap:
            return points, True
        points.append((x, y, peak))
        for r in range(max(0, y - radius), min(v.shape[0], y + radius + 1)):
            for c in range(max(0, x - radius), min(v.shape[1], x + radius + 1)):
                gaussian = np.float32(math.exp(-((c - x) ** 2 + (r - y) ** 2) / (2 * sigma**2)))
                v[r, c] = v[r, c] - peak * gaussian


def assert_same(image, sigma, threshold, cap):
    expected, capped = slow(image, sigma, threshold, cap)
    (found,) = extract(image[None], sigma, threshold, cap)
    assert found.capped == capped
    assert (found.x.dtype, found.y.dtype, found.peak.dtype) == (np.uint16, np.uint16, np.float32)
    assert [(int(x), int(y)) for x, y in zip(found.x, found.y, strict=True)] == [p[:2] for p in expected]
    assert found.peak.tobytes() == np.array([p[2] for p in expected], np.float32).tobytes()


sides = st.integers(1, 40)
greys = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 254, 255]))


@settings(max_examples=120, deadline=None)
@given(
    image=st.tuples(sides, sides).flatmap(lambda shape: hnp.arrays(np.uint8, shape, elements=greys)),
    sigma=st.floats(0.1, 6),
    threshold=st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]),
    cap=st.integers(1, 20),
)
def test_any_map_gives_the_points_of_the_definition(image, sigma, threshold, cap):
    assert_same(image, sigma, threshold, cap)


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (33, 31), (32, 64), (65, 97)])
@pytest.mark.parametrize("grey", [1, 255])
def test_constant_maps_are_all_ties(shape, grey):
    assert_same(np.full(shape, grey, np.uint8), 2.5, 0.2, 30)


def test_plateaus_start_at_their_first_pixel_in_row_major_order():
    image = np.zeros((20, 80), np.uint8)
    image[5:9, 40:44] = image[4:6, 70:73] = image[12, :] = 200
    (found,) = extract(image[None], 1.0, 0.5)
    assert (found.x[0], found.y[0]) == (70, 4)
    assert_same(image, 1.0, 0.5, 50)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (99, 0), (0, 49), (99, 49), (31, 20), (32, 20), (50, 25)])
def test_a_single_gaussian_gives_one_point_wherever_it_lies(x, y):
    rows, columns = np.mgrid[:50, :100]
    image = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 6.0**2)) * 255
    (found,) = extract(image.round().astype(np.uint8)[None], 6.0, 0.2)
    assert list(zip(found.x.tolist(), found.y.tolist(), found.peak.tolist(), strict=True)) == [(x, y, 1.0)]


def test_an_all_zero_map_has_no_points():
    (found,) = extract(np.zeros((1, 8, 8), np.uint8), 2.0)
    assert len(found.x) == 0
    assert not found.capped


def test_the_cap_is_reported_only_when_it_ended_the_extraction():
    image = np.zeros((1, 1, 200), np.uint8)
    image[0, 0, [10, 100, 190]] = 255
    assert not extract(image, 2.0, 0.2, cap=3)[0].capped
    assert extract(image, 2.0, 0.2, cap=2)[0].capped
    assert extract(image, 2.0, 0.2, cap=2)[0].x.tolist() == [10, 100]


def test_threads_and_neighbours_change_nothing():
    maps = np.random.default_rng(0).integers(0, 256, (150, 40, 50), dtype=np.uint8)
    together = extract(maps, 3.0, 0.3, threads=3)
    for one, many in zip(maps, together, strict=True):
        (alone,) = extract(one[None], 3.0, 0.3)
        assert alone.x.tobytes() + alone.y.tobytes() + alone.peak.tobytes() == b"".join(a.tobytes() for a in many[:3])


def test_peaks_never_rise_and_stay_above_the_threshold():
    maps = np.random.default_rng(1).integers(0, 256, (20, 60, 60), dtype=np.uint8)
    for found in extract(maps, 4.0, 0.2):
        assert (np.diff(found.peak) <= 0).all()
        assert (found.peak >= np.float32(0.2) * found.peak[0]).all()
        assert len(set(zip(found.x.tolist(), found.y.tolist(), strict=True))) == len(found.x)


def test_no_maps_give_no_points():
    assert extract(np.zeros((0, 8, 8), np.uint8), 2.0) == []


def test_the_table_is_cut_at_four_sigma():
    table = gaussian_table(1.6)
    assert table.shape == (13, 13)
    assert table.dtype == np.float32
    assert table[6, 6] == 1
    np.testing.assert_array_equal(table, table.T)


@pytest.mark.parametrize(
    "wrong",
    [
        {"maps": np.zeros((2, 4, 4), np.float32)},
        {"maps": np.zeros((4, 4), np.uint8)},
        {"maps": np.zeros((1, 0, 4), np.uint8)},
        {"sigma": 0.0},
        {"sigma": math.inf},
        {"threshold": -0.1},
        {"threshold": math.nan},
        {"cap": 0},
    ],
)
def test_arguments_out_of_range_are_refused(wrong):
    arguments = {"maps": np.zeros((1, 4, 4), np.uint8), "sigma": 1.0, "threshold": 0.2, "cap": 5} | wrong
    with pytest.raises(ValueError, match=r"expected .* found"):
        extract(**arguments)
