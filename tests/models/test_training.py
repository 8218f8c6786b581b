import copy
import json
from dataclasses import replace

import pytest
import torch

from models.augment import ColourAugment
from models.students.simclr import SimclrConfig, Student
from models.training import Recipe, StudentBatch, StudentTrainer

TINY = SimclrConfig("resnet18", width=4, stem="small", size=32, classes=5, projection_dim=8)
RECIPE = Recipe(
    epochs=2, steps_per_epoch=15, optimizer="adamw", learning_rate=3e-3, weight_decay=0.05, temperature=0.2,
    lam=3.0, beta=0.3, attention="readout", seed=3,
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Nets this small only wait for one another's threads when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _batch(seed, size=8, side=32, points=6):
    g = torch.Generator().manual_seed(seed)

    def pixels(*shape):
        return torch.randint(0, 256, (*shape, side, side, 3), generator=g, dtype=torch.uint8).movedim(-1, -3)

    density = torch.rand(size, side, side, generator=g)
    return StudentBatch(
        views=pixels(2, size),
        whole=pixels(size),
        labels=torch.randint(-1, 5, (size,), generator=g),
        density=density / density.sum((1, 2), keepdim=True),
        points=torch.randint(0, side, (size, points, 2), generator=g),
        points_mask=torch.rand(size, points, generator=g) < 0.8,
        labelled=torch.rand(size, generator=g) < 0.8,
    )


def _train(recipe, steps, start=0, trainer=None):
    trainer = trainer or StudentTrainer(Student(TINY, seed=1), recipe)
    for number in range(start, steps):
        trainer.step(_batch(number))
    return trainer


def _differences(first, second):
    return {name for name, value in first.items() if not torch.equal(value, second[name])}


def test_stop_gradient_leaves_plain_simclr_bit_equal():
    guided = _train(RECIPE, 20).student.state_dict()
    plain = _train(replace(RECIPE, attention="none"), 20).student.state_dict()
    different = _differences(guided, plain)
    assert {"readout.weight"} <= different
    # the readout, and the statistics over all three views: nothing else may know of the third forward
    assert {n for n in different if not n.startswith("readout.") and not n.endswith("_all")} == set()
    assert any(name.endswith("running_mean_all") for name in different)


def test_attention_that_reaches_the_backbone_changes_it():
    guided = _train(replace(RECIPE, attention="backbone"), 3).student.state_dict()
    plain = _train(replace(RECIPE, attention="none"), 3).student.state_dict()
    assert {"backbone.conv1.weight", "backbone.layer4.1.conv2.weight"} <= _differences(guided, plain)


@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_resumed_run_ends_as_an_uninterrupted_one(optimizer, dtype, channels_last):
    recipe = replace(
        RECIPE, optimizer=optimizer, dtype=dtype, attention="backbone", channels_last=channels_last
    )
    whole = _train(recipe, 6)
    tensors, record = _train(recipe, 3).state()
    resumed = StudentTrainer(Student(TINY, seed=77), recipe)
    resumed.restore(copy.deepcopy(tensors), json.loads(json.dumps(record)))
    assert resumed.step_number == 3
    _train(recipe, 6, start=3, trainer=resumed)
    expected, found = whole.state(), resumed.state()
    assert expected[0].keys() == found[0].keys()
    assert _differences(*(state[0] for state in (expected, found))) == set()
    assert expected[1] == found[1]


def test_a_saved_state_is_a_copy_that_any_format_can_hold():
    trainer = _train(RECIPE, 2)
    tensors, _ = trainer.state()
    before = {name: value.clone() for name, value in tensors.items()}
    _train(RECIPE, 4, start=2, trainer=trainer)
    assert _differences(before, tensors) == set()
    assert all(value.is_contiguous() and value.device.type == "cpu" for value in tensors.values())
    assert "optimizer/backbone.conv1.weight/exp_avg" in tensors
    assert "optimizer/readout.bias/step" in tensors


def test_what_does_not_fit_is_refused_with_nothing_changed():
    tensors, record = _train(RECIPE, 1).state()
    trainer = StudentTrainer(Student(TINY, seed=5), RECIPE)
    before = trainer.state()
    wrong = {
        "missing": {name: v for name, v in tensors.items() if name != "student/probe.bias"},
        "shape": tensors | {"student/probe.bias": torch.zeros(6)},
        "unknown": tensors | {"student/extra": torch.zeros(6)},
        "moment": tensors | {"optimizer/probe.bias/exp_avg": torch.zeros(6)},
        "stranger": tensors | {"optimizer/extra/step": torch.zeros(())},
    }
    for case in wrong.values():
        with pytest.raises(ValueError, match="nothing was restored"):
            trainer.restore(case, record)
    with pytest.raises(ValueError, match="found seed 4"):
        trainer.restore(tensors, record | {"seed": 4})
    assert _differences(before[0], trainer.state()[0]) == set()
    assert trainer.step_number == 0


def test_training_learns_where_the_labels_lie_and_which_view_belongs_to_which():
    trainer = StudentTrainer(Student(TINY, seed=1), replace(RECIPE, attention="backbone", epochs=3))
    batch = _batch(0)
    corner = torch.zeros_like(batch.density)
    corner[:, 4:12, 4:12] = 1 / 64
    whole = torch.zeros_like(batch.whole)
    whole[:, :, 4:12, 4:12] = 255
    batch = replace(
        batch, views=batch.views[:1].expand(2, -1, -1, -1, -1), whole=whole, density=corner,
        points=4 + batch.points % 8,
    )
    losses = [trainer.step(batch) for _ in range(45)]
    assert losses[-1]["kld"] < 0.6 * losses[0]["kld"]
    assert losses[-1]["nss"] > losses[0]["nss"]
    assert losses[-1]["contrastive"] < losses[0]["contrastive"]
    assert losses[-1]["probe"] < losses[0]["probe"]


def test_a_step_returns_detached_scalars_and_follows_the_schedule():
    trainer = StudentTrainer(Student(TINY), replace(RECIPE, warmup=0.1))
    rates = []
    for number in range(4):
        losses = trainer.step(_batch(number))
        rates.append({g["role"]: g["lr"] for g in trainer.optimizer.param_groups})
    assert set(losses) == {"contrastive", "probe", "probe_top1", "kld", "nss"}
    assert all(value.ndim == 0 and not value.requires_grad for value in losses.values())
    assert [r["decay"] for r in rates] == pytest.approx([3e-3 * f for f in (0.25, 0.5, 0.75, 1.0)])
    assert [r["readout"] for r in rates] == pytest.approx([0.1 * f for f in (0.25, 0.5, 0.75, 1.0)])


def test_every_view_has_a_random_stream_of_its_own():
    recipe = replace(RECIPE, attention="none", colour=ColourAugment(jitter_p=1.0))
    trainer, same = StudentTrainer(Student(TINY), recipe), _batch(0).views[0]
    first, second = trainer._colour(same, 0), trainer._colour(same, 1)
    assert not torch.equal(first, second)
    assert torch.equal(first, trainer._colour(same, 0))
    trainer.step_number = 1
    assert not torch.equal(first, trainer._colour(same, 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer: expected one of adamw, lars, found 'sgd'"),
        ({"attention": "all"}, "attention: expected one of backbone, readout, none"),
        ({"dtype": "float16"}, "dtype: expected one of float32, bfloat16"),
        ({"epochs": 0}, "at least one step"),
        ({"warmup": 1.0}, "warmup in"),
    ],
)
def test_a_wrong_recipe_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **change)
