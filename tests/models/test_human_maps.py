import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.human_maps import fixation_density, gaussian_sum, human_map, normalised


def slow(x, y, width, height, sigma_x, sigma_y):
    """One pixel at a time: the sum of cut Gaussians, of sum 1."""
    density = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            for px, py in zip(np.floor(x), np.floor(y), strict=True):
                dx, dy = abs(column - px), abs(row - py)
                if dx <= 4 * sigma_x and dy <= 4 * sigma_y:
                    density[row, column] += np.exp(-(dx**2) / (2 * sigma_x**2) - dy**2 / (2 * sigma_y**2))
    return density / density.sum()


@settings(max_examples=25, deadline=None)
@given(
    points=st.lists(st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)), min_size=1, max_size=5),
    width=st.integers(1, 30),
    height=st.integers(1, 30),
    fraction=st.floats(0.02, 0.3),
)
def test_human_map_is_the_sum_of_cut_gaussians(points, width, height, fraction):
    x, y = np.array(points).T * [[width], [height]]
    sigma = fraction * max(width, height)
    expected = slow(x, y, width, height, sigma, sigma)
    np.testing.assert_allclose(human_map(x, y, width, height, fraction), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("width", "height"), [(320, 240), (120, 300), (300, 300)])
def test_the_square_is_the_stimulus_frame_squashed(width, height):
    """Away from the edges, squashing the isotropic map and building the anisotropic one are the same."""
    x, y = np.array([0.4, 0.5, 0.7]) * width, np.array([0.4, 0.6, 0.5]) * height
    squashed = cv2.resize(human_map(x, y, width, height, 0.03), (512, 512), interpolation=cv2.INTER_LINEAR)
    square = fixation_density(x, y, width, height, 512, 0.03)
    assert np.corrcoef(squashed.ravel(), square.ravel())[0, 1] > 0.995


def test_sigma_is_a_fraction_of_the_longer_side_along_both_axes():
    square = fixation_density([100], [50], 200, 100, 400, 0.04).astype(np.float64)
    grid = np.arange(400)
    mean = [(square.sum(axis) * grid).sum() for axis in (0, 1)]
    spread = [np.sqrt((square.sum(axis) * (grid - m) ** 2).sum()) for axis, m in zip((0, 1), mean, strict=True)]
    np.testing.assert_allclose(spread, [8 * 2, 8 * 4], rtol=0.01)
    np.testing.assert_allclose(mean, [200, 200], atol=0.1)


def test_densities_sum_to_one_and_repeats_count():
    density = human_map([0, 0, 0, 39.9], [0, 0, 0, 29.9], 40, 30)
    assert density.dtype == np.float32
    assert density.sum() == pytest.approx(1, abs=1e-5)
    assert density[0, 0] == pytest.approx(3 * density[29, 39], rel=1e-4)


def test_nobody_looking_is_uniform():
    np.testing.assert_array_equal(fixation_density([], [], 40, 30, 16), np.full((16, 16), 1 / 256, np.float32))
    np.testing.assert_allclose(human_map([], [], 40, 30), 1 / 1200, rtol=1e-6)


@pytest.mark.parametrize(("x", "y"), [([40], [3]), ([-0.1], [3]), ([3], [30]), ([np.nan], [3])])
def test_fixations_outside_are_refused(x, y):
    with pytest.raises(ValueError, match="fixations: expected 0 <="):
        human_map(x, y, 40, 30)
    with pytest.raises(ValueError, match="fixations: expected 0 <="):
        fixation_density(x, y, 40, 30, 16)


def test_sums_add_up_over_people():
    x, y = np.random.default_rng(0).uniform(0, 20, (2, 6))
    parts = gaussian_sum(x[:2], y[:2], 20, 20, 2, 2) + gaussian_sum(x[2:], y[2:], 20, 20, 2, 2)
    np.testing.assert_allclose(parts, gaussian_sum(x, y, 20, 20, 2, 2), rtol=1e-5, atol=1e-6)


def test_normalising_zeros_is_uniform():
    np.testing.assert_allclose(normalised(np.zeros((2, 3), np.float32)), 1 / 6, rtol=1e-6)
