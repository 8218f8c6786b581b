import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from models.human_maps import fixation_density
from models.metrics import correlation, kl_divergence
from models.teacher import TeacherConfig, spatial_softmax
from models.teacher_training import TeacherBatch, TeacherRecipe, TeacherTrainer, divergence

CONFIG = TeacherConfig(size=64, width=8)
RECIPE = TeacherRecipe(steps=8, learning_rate=3e-3, seed=1)


def batch(seed, count=4, size=64):
    """Dark pictures with one bright square, where people look."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (count, 3, size, size), dtype=np.uint8)
    maps = []
    for picture in image:
        x, y = rng.integers(8, size - 8, 2)
        picture[:, y - 5 : y + 6, x - 5 : x + 6] = 250
        maps.append(fixation_density([x], [y], size, size, size, 0.08))
    return TeacherBatch(torch.from_numpy(image), torch.from_numpy(np.stack(maps)))


def weights(trainer):
    return trainer.state()[0]


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(dtype):
    recipe = replace(RECIPE, dtype=dtype)
    whole = TeacherTrainer(CONFIG, recipe)
    losses = [whole.step(batch(seed)) for seed in range(3)]
    whole.keep_if_best(0.25)
    tensors, meta = whole.state()
    losses += [whole.step(batch(seed)) for seed in range(3, 6)]

    resumed = TeacherTrainer(CONFIG, replace(recipe, seed=99))
    resumed.restore(tensors, json.loads(json.dumps(meta)))
    assert [resumed.step(batch(seed)) for seed in range(3, 6)] == losses[3:]
    assert_equal(weights(whole), weights(resumed))
    assert whole.state()[1] == resumed.state()[1]
    assert_equal(whole.result(), resumed.result())


def test_a_fresh_state_can_be_restored():
    fresh = TeacherTrainer(CONFIG, RECIPE)
    resumed = TeacherTrainer(CONFIG, RECIPE)
    resumed.restore(*fresh.state())
    assert resumed.step(batch(0)) == fresh.step(batch(0))
    assert_equal(weights(fresh), weights(resumed))


def test_a_state_does_not_change_when_training_goes_on():
    trainer = TeacherTrainer(CONFIG, RECIPE)
    trainer.step(batch(0))
    tensors, _ = trainer.state()
    kept = {name: value.clone() for name, value in tensors.items()}
    trainer.step(batch(1))
    assert_equal(tensors, kept)
    assert all(value.is_contiguous() for value in tensors.values())


def test_a_state_of_another_teacher_is_refused():
    tensors, meta = TeacherTrainer(TeacherConfig(size=64, width=16), RECIPE).state()
    with pytest.raises(RuntimeError, match="size mismatch"):
        TeacherTrainer(CONFIG, RECIPE).restore(tensors, meta)


def test_training_learns_where_people_look():
    trainer = TeacherTrainer(CONFIG, replace(RECIPE, steps=60, average=0.9))
    held_out = [batch(1000, 8), batch(1001, 3)]
    before = trainer.evaluate(held_out)
    losses = [trainer.step(batch(seed, 8)) for seed in range(60)]
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    assert before < 0.05
    assert trainer.evaluate(held_out) > 0.5


def test_evaluate_is_the_mean_correlation_over_images():
    trainer = TeacherTrainer(CONFIG, RECIPE)
    for seed in range(5):
        trainer.step(batch(seed))
    batches = [batch(10, 3), batch(11, 2)]
    expected = [
        correlation(trainer.averaged.density(b.image, torch.bfloat16).numpy(), b.density.numpy()) for b in batches
    ]
    assert trainer.evaluate(iter(batches)) == pytest.approx(np.concatenate(expected).mean(), abs=1e-3)


def test_images_nobody_looked_at_do_not_count():
    trainer = TeacherTrainer(CONFIG, RECIPE)
    trainer.step(batch(0))
    seen = batch(10, 3)
    unseen = TeacherBatch(seen.image, torch.full_like(seen.density, 1 / 64**2))
    assert trainer.evaluate([seen, unseen]) == trainer.evaluate([seen])
    for nothing in ([], [unseen]):
        with pytest.raises(ValueError, match="at least one image with fixations"):
            trainer.evaluate(nothing)


def test_the_best_weights_are_kept():
    trainer = TeacherTrainer(CONFIG, RECIPE)
    trainer.step(batch(0))
    assert trainer.keep_if_best(0.5)
    best = {name: value.clone() for name, value in trainer.averaged.state_dict().items()}
    trainer.step(batch(1))
    assert not trainer.keep_if_best(0.5)
    assert not trainer.keep_if_best(float("nan"))
    assert_equal(trainer.result(), best)
    assert trainer.keep_if_best(0.6)
    assert_equal(trainer.result(), trainer.averaged.state_dict())


def test_without_averaging_the_result_is_the_last_step():
    trainer = TeacherTrainer(CONFIG, replace(RECIPE, average=0.0))
    for seed in range(2):
        trainer.step(batch(seed))
    assert_equal(trainer.result(), trainer.teacher.state_dict())


def test_the_rate_rises_then_falls_to_zero():
    recipe = TeacherRecipe(steps=20, learning_rate=1.0, warmup=0.25)
    rates = [recipe.rate(step) for step in range(21)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1.0
    assert all(a >= b for a, b in pairwise(rates[5:]))
    assert rates[20] == pytest.approx(0)
    assert TeacherRecipe(steps=1, warmup=0).rate(0) > 0


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    trainer = TeacherTrainer(CONFIG, RECIPE)
    before = {name: p.clone() for name, p in trainer.teacher.named_parameters()}
    good = batch(0)
    with pytest.raises(FloatingPointError, match="step 0"):
        trainer.step(TeacherBatch(good.image, torch.full_like(good.density, float("nan"))))
    assert_equal(before, dict(trainer.teacher.named_parameters()))


def test_divergence_is_the_metric_of_the_softmax():
    logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    target = spatial_softmax(3 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1)))
    target[0, :8] = 0
    target[0] /= target[0].sum()
    expected = kl_divergence(target.numpy(), spatial_softmax(logits).numpy()).mean()
    assert float(divergence(target, logits)) == pytest.approx(expected, rel=1e-5)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="teacher dtype: expected one of"):
        TeacherRecipe(steps=1, dtype="float16")
