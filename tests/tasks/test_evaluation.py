"""Evaluation end to end: tiny untrained networks, a few procedural images, every number and view."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from models.alignment import centre_prior, references, score
from models.teacher import Teacher, TeacherConfig
from storage.attempt import open_attempt
from storage.canonical import now, pretty_json
from storage.datasets.procedural import generate
from storage.errors import InvalidInput
from storage.manifest import Key, Manifest, Producer
from storage.store import Store
from tasks import _checkpoint
from tasks._data.gaze import gaze_of, viewed_images
from tasks._datasets import DatasetConfig, OpenDataset, refresh
from tasks._evaluation.networks import load_arms
from tasks._evaluation.scoring import METRICS, Rules, score_images
from tasks._settings import Settings
from tasks._stage import Context, Event
from tasks.evaluation import STAGE, EvaluationParams, run
from tasks.student import StudentParams, build_student
from tasks.teacher import TeacherParams

CLASSES = 10
IMAGES = 6
TEACHER = TeacherParams(size=32, width=4)
STUDENT = StudentParams(arch="resnet18", width=4, stem="small", size=32)


def publish(store: Store, kind: str, node: str, params: Any, members: dict[str, bytes]) -> Manifest:
    """An artifact with these members, as the stage `kind` would have left it."""
    dumped = params.model_dump(mode="json")
    key = Key(stage=kind, stage_version=1, params=dumped, inputs={"made": [node]}, datasets={})
    attempt = open_attempt(store, key, node, "test", "run")
    made = [attempt.put(name, data) for name, data in members.items()]
    producer = Producer(release="0", commit=None, python="3", torch=None, device="cpu")
    return attempt.publish(
        Manifest(kind=kind, version=attempt.version.name, node=node, key=key, members=made, views=[], done=1,
                 failed=0, seconds=0, published=now(), producer=producer, run="run")
    )  # fmt: skip


def teacher_of(store: Store) -> Manifest:
    torch.manual_seed(0)
    teacher = Teacher(TeacherConfig(TEACHER.size, TEACHER.width))
    torch.nn.init.normal_(teacher.decoder.out.weight, std=0.3)
    prior = torch.from_numpy(centre_prior([], 32))
    return publish(store, "teacher", "teacher", TEACHER, {
        "checkpoint.safetensors": _checkpoint.pack(teacher.state_dict()),
        "centre.safetensors": _checkpoint.pack({"density": prior}),
    })  # fmt: skip


def student_of(store: Store, node: str, seed: int) -> Manifest:
    params = STUDENT.model_copy(update={"seed": seed})
    start = int(hashlib.sha256(node.encode()).hexdigest()[:6], 16)  # every node has weights of its own
    student = build_student(params.model_copy(update={"seed": start}), CLASSES)
    mean = torch.full((32, 32), 1 / 1024)
    return publish(store, "student", node, params, {
        "checkpoint.safetensors": _checkpoint.pack(student.state_dict()),
        "mean-label.safetensors": _checkpoint.pack({"density": mean}),
        "metrics.json": pretty_json({"classes": CLASSES}),
    })  # fmt: skip


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A store with a teacher and two seeds of every arm, and both data sets."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("evaluation")
    store = Store.open(f"file://{folder}/store")
    generate("osie", folder / "osie", {"images": IMAGES, "observers": 4, "size": [64, 48]})
    generate("imagenet", folder / "imagenet", {"train_per_class": 1, "val_per_class": 2, "size": [48, 48]})
    people = refresh(store, "people", DatasetConfig(format="osie", path=str(folder / "osie")))
    images = DatasetConfig(format="imagenet", path=str(folder / "imagenet"), options={"split": "val"})
    roles = {"student": "student", "baseline": "student.baseline", "permuted": "student.permuted"}
    return {
        "store": store,
        "inputs": {"teacher": [teacher_of(store)]}
        | {role: [student_of(store, f"{node}.s{seed}", seed) for seed in (0, 1)] for role, node in roles.items()},
        "datasets": {"attention": [people], "images": [refresh(store, "images", images)]},
    }


def context_of(
    parts: dict[str, Any], name: str = "first", report: Callable[[Event], None] = lambda event: None
) -> Context:
    p = EvaluationParams(splits=5, refit_images=10, batch_size=4, threads=1)
    identity = {role: [d.identity({}) for d in found] for role, found in parts["datasets"].items()}
    dumped = p.model_dump(mode="json")
    key = Key(stage="evaluation", stage_version=1, params=dumped, inputs={"made": [name]}, datasets=identity)
    attempt = open_attempt(parts["store"], key, "evaluation", "test", "run")
    settings = Settings(store=parts["store"].backend.url, decoders=2)
    return Context(p, parts["inputs"], parts["datasets"], parts["store"], attempt, settings, report)


@pytest.fixture(scope="module")
def done(parts: dict[str, Any]) -> tuple[Any, dict[str, bytes], list[Event]]:
    events: list[Event] = []
    result = run(context_of(parts, report=events.append))
    read = {m.name: parts["store"].read(m) for m in (*result.members, *result.views)}
    return result, read, events


def test_every_member_and_view_is_there(done: Any) -> None:
    result, read, events = done
    assert [m.name for m in result.members] == ["per-image.parquet", "metrics.json"]
    assert {m.name for m in result.views} == {"montage.png", "distributions.png", "differences.png", "report.html"}
    assert all(data.startswith(b"\x89PNG") for name, data in read.items() if name.endswith(".png"))
    assert result.failed == 0
    assert {e.kind for e in events} >= {"progress", "table", "picture", "log"}


def rows_of(read: dict[str, bytes]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(read["per-image.parquet"])).to_pylist()
    return rows


def test_table_has_a_row_per_image_predictor_and_seed(done: Any) -> None:
    rows = rows_of(done[1])
    counts = Counter(r["predictor"] for r in rows)
    for name in ("guided", "guided.refit", "guided.common", "baseline", "permuted.common", "untrained.common"):
        assert counts[name] == 2 * IMAGES
    for name in ("teacher", "teacher_small", "centre_prior", "centre_bias", "people"):
        assert counts[name] == IMAGES
    assert all(r[m] is not None for r in rows if r["predictor"] == "guided" for m in METRICS)
    assert all(r["nss"] is None for r in rows if r["predictor"] == "guided.common")


def test_scores_are_those_of_the_one_path(parts: dict[str, Any], done: Any) -> None:
    """A centre prior that is uniform scores as `models.alignment.score` says, whatever else is in the table."""
    found = {r["key"]: r for r in rows_of(done[1]) if r["predictor"] == "centre_prior"}
    viewed = viewed_images(parts["datasets"]["attention"])
    for one, reference in zip(viewed, references([gaze_of(v.attention) for v in viewed], 0.03, 0), strict=True):
        expected = score(np.full((32, 32), 1 / 1024, np.float32), reference)
        assert {m: found[one.image.key][m] for m in METRICS} == pytest.approx(expected, abs=1e-12)


def test_metrics_agree_with_the_table(done: Any) -> None:
    result, read, _ = done
    metrics = json.loads(read["metrics.json"])
    rows = rows_of(read)
    guided, permuted = (np.mean([r["cc"] for r in rows if r["predictor"] == a]) for a in ("guided", "permuted"))
    primary = metrics["tests"]["primary"]
    assert metrics["means"]["guided"]["cc"]["mean"] == pytest.approx(guided)
    assert primary["difference"] == pytest.approx(guided - permuted)
    assert result.summary["guided_cc"] == metrics["means"]["guided"]["cc"]["mean"]
    assert result.summary["guided_minus_permuted"][0] == primary["difference"]
    assert metrics["accuracy"]["images"] == 2 * CLASSES
    assert metrics["seeds"] == [0, 1]
    assert len(metrics["tests"]["secondary"]["contrastive"]["by_seed"]) == 2


def test_refitting_does_not_lose_to_the_own_readout_on_the_labels(done: Any) -> None:
    """The common readout holds the three taps' channels, so on the labels it fits at least as well."""
    readouts = json.loads(done[1]["metrics.json"])["readouts"]
    assert set(readouts) == {"guided", "baseline", "permuted", "untrained"}
    for arm in readouts.values():
        assert all(common <= own + 1e-3 for common, own in zip(arm["common_kld"], arm["refit_kld"], strict=True))


def test_the_report_has_the_headline_numbers(done: Any) -> None:
    result, read, _ = done
    html = read["report.html"].decode()
    assert f"{result.summary['guided_cc']:.2f}".replace("-", "−") in html
    assert html.count("data:image/png;base64,") == 3
    assert "<script" not in html
    assert "http" not in html.split("</style>")[1].replace("http-equiv", "")


def test_the_result_repeats(parts: dict[str, Any], done: Any) -> None:
    again = run(context_of(parts, "again"))
    assert [m.sha256 for m in again.members] == [m.sha256 for m in done[0].members]


def test_a_broken_image_is_left_out_and_named(parts: dict[str, Any]) -> None:
    class Broken:
        def __init__(self, inner: Any, key: str) -> None:
            self._inner, self._key = inner, key

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def read(self, image: Any) -> bytes:
            return b"no image" if image.key == self._key else self._inner.read(image)

    people: OpenDataset = parts["datasets"]["attention"][0]
    key = people.index.shard(0)[2].key
    viewed = viewed_images([people])
    bad = OpenDataset(people.name, Broken(people.reader, key), people.index)
    digest = hashlib.sha256(b"no image").hexdigest()
    broken = [
        replace(v, dataset=bad, image=replace(v.image, sha256=digest)) if v.image.key == key else v for v in viewed
    ]
    flat = {"flat": lambda reference: np.ones((4, 4), np.float32)}
    table = score_images(broken, [], flat, Rules(0.03, 3, 0, 4), 1, lambda done: None)
    assert len(table.images) == IMAGES - 1
    assert len(table.errors) == 1
    assert table.errors[0].startswith(key)


def test_arms_must_have_the_same_seeds(parts: dict[str, Any]) -> None:
    inputs = dict(parts["inputs"])
    inputs["baseline"] = inputs["baseline"][::-1]
    with pytest.raises(InvalidInput, match="same seeds in the same order"):
        load_arms(parts["store"], inputs, "cpu")


def test_unlabelled_images_give_no_accuracy_and_say_so(parts: dict[str, Any]) -> None:
    people = parts["datasets"]["attention"]
    context = context_of({**parts, "datasets": {"attention": people, "images": people}}, "unlabelled")
    result = run(context)
    html = parts["store"].read(result.views[-1]).decode()
    assert result.summary["top1_guided"] is None
    assert "carry no class labels" in html


def test_declaring_is_light() -> None:
    assert STAGE.name == "evaluation"
    assert STAGE.inputs["student"].many
    assert STAGE.datasets == {"images": "images", "attention": "attention"}
