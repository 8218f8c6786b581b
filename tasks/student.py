"""Stage `student`: contrastive training, guided by the teacher's labels."""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from storage.canonical import pretty_json
from storage.errors import GazeflowError, InvalidInput
from tasks._stage import Context, Input, Params, Result, Stage

if TYPE_CHECKING:
    from models.training import StudentTrainer
    from storage.manifest import Manifest
    from storage.store import Store
    from tasks._data.student import StudentData


class Colour(Params):
    """Strengths and chances of the colour augmentation; SimCLR's for ImageNet."""

    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    jitter_p: float = 0.8
    gray_p: float = 0.2
    blur_p: float = 0.5


class Attention(Params):
    """The attention branch: where its gradient goes and how much its terms weigh."""

    gradient: Literal["backbone", "readout", "none"] = "backbone"
    lam: float = Field(1.0, description="weight of the divergence from the teacher's map")
    beta: float = Field(0.1, description="weight of the NSS at the pseudo-fixations")
    reverse_kld: bool = False


class StudentParams(Params):
    """How a student is built and trained."""

    model: str = Field("simclr", description="a file of models/students/")
    seed: int = 0
    arch: Literal["resnet18", "resnet50"] = "resnet50"
    width: int = Field(64, description="channels of the first stage; 64 is the standard")
    stem: Literal["imagenet", "small"] = Field("imagenet", description="small: 3x3 stride 2, below 96 px")
    size: int = Field(224, description="side of its input, pixels")
    projection_layers: Literal[2, 3] = 2
    projection_dim: int = 128
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(256, ge=2)
    optimizer: Literal["lars", "adamw"] = "lars"
    learning_rate: float = 4.8
    readout_learning_rate: float = 0.1
    probe_learning_rate: float = 0.1
    weight_decay: float = 1e-6
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps")
    temperature: float = 0.1
    crop_area: tuple[float, float] = (0.08, 1.0)
    colour: Colour = Colour()
    attention: Attention = Attention()
    labels: Literal["own", "permuted"] = Field("own", description="permuted: the control")
    dtype: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(1, ge=1, description="training is bit-equal at the same number of threads")
    decoder: Literal["simplejpeg"] = "simplejpeg"


def run(context: Context) -> Result:
    """Train to the last epoch, from the last checkpoint if there is one."""
    import torch

    from tasks import _checkpoint
    from tasks._data.labels import LabelReader
    from tasks._data.student import StudentData
    from tasks._report.pictures import curves

    p: StudentParams = context.params
    torch.set_num_threads(p.threads)
    images = context.datasets["images"][0]
    labels = LabelReader(context.store, context.inputs["saliency"][0], context.inputs["fixations"][0])
    data = StudentData(images, labels, p.labels == "permuted", p.seed)
    trainer, history = _trained(context, data, len(images.index.classes))
    context.report_table("last epoch", history[-1:])
    weights = trainer.student.state_dict()
    mean = torch.from_numpy(data.mean_density(p.size))
    last = {k: v for k, v in history[-1].items() if k != "epoch"}
    metrics = {"history": history, "images": len(data), "classes": len(images.index.classes)}
    return Result(
        members=[
            context.attempt.put("checkpoint.safetensors", _checkpoint.pack(weights, p.model_dump(mode="json"))),
            context.attempt.put("mean-label.safetensors", _checkpoint.pack({"density": mean})),
            context.attempt.put("metrics.json", pretty_json(metrics)),
        ],
        views=[context.picture("learning-curves.png", curves(history, sorted(last), "Student"))],
        summary=last,
        done=len(data),
    )


def _trained(context: Context, data: StudentData, classes: int) -> tuple[StudentTrainer, list[dict[str, float]]]:
    import torch

    from models.training import StudentTrainer
    from storage.parallel import ordered_map
    from tasks import _checkpoint
    from tasks._data.student import batch_places, student_batch
    from tasks._training import Clock

    p: StudentParams = context.params
    steps = len(data) // p.batch_size
    if steps < 1:
        raise InvalidInput(
            f"student: expected at least one batch of {p.batch_size} labelled images, found {len(data)}; nothing was "
            "trained. Lower batch_size or label more images"
        )
    trainer = StudentTrainer(build_student(p, classes), _recipe(p, steps), p.device)
    history, sums = [], _Sums()
    saved = context.attempt.last_checkpoint()
    if saved:
        step, tensors, state = saved
        held = _checkpoint.unpack(tensors, "student checkpoint")
        trainer.restore({k: v for k, v in held.items() if not k.startswith("sums/")}, state["trainer"])
        history, sums = list(state["history"]), _Sums.restored(state["sums"])
        context.log(f"going on after step {step}")
    clock = Clock(context.settings.checkpoint_seconds)
    for epoch in range(trainer.step_number // steps, p.epochs):
        places = batch_places(data.order(epoch), p.batch_size, trainer.step_number % steps)

        def load(batch: list[tuple[int, int]], epoch: int = epoch) -> Any:
            return student_batch(data, batch, p.size, p.crop_area, p.seed, epoch)

        for batch in ordered_map(load, places, min(p.threads, context.settings.decoders), 3):
            sums.add(trainer.step(batch))
            done = trainer.step_number
            if done % steps == 0:
                history.append({"epoch": epoch + 1.0} | sums.means())
                _check_finite(history[-1])
                sums = _Sums()
            if clock.due() and done < p.epochs * steps:
                tensors_now, meta = trainer.state()
                state = {"trainer": meta, "history": history, "sums": sums.kept()}
                context.attempt.save_checkpoint(done, _checkpoint.pack(tensors_now), state)
            if done % max(1, steps // 10) == 0:
                context.progress(done, p.epochs * steps, "steps", _told(history))
    if p.device == "cuda":
        torch.cuda.synchronize()
    return trainer, history


def _check_finite(means: dict[str, float]) -> None:
    """Raises GazeflowError naming the losses that are no numbers any more."""
    wrong = [name for name, value in means.items() if not math.isfinite(value)]
    if wrong:
        raise GazeflowError(
            f"student: expected finite losses in epoch {means['epoch']:.0f}, found others in {', '.join(wrong)}; "
            "training was stopped and nothing published. Lower learning_rate or the weights of the attention loss"
        )


class _Sums:
    """Running sums of an epoch's losses, on the device until the epoch ends."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._count = 0

    @classmethod
    def restored(cls, kept: Any) -> _Sums:
        import torch

        sums = cls()
        sums._values = {k: torch.tensor(v, dtype=torch.float64) for k, v in kept["values"].items()}
        sums._count = kept["count"]
        return sums

    def add(self, losses: dict[str, Any]) -> None:
        for name, value in losses.items():
            self._values[name] = self._values.get(name, 0) + value.detach().double().cpu()
        self._count += 1

    def kept(self) -> dict[str, Any]:
        return {"values": {k: float(v) for k, v in self._values.items()}, "count": self._count}

    def means(self) -> dict[str, float]:
        return {k: float(v) / self._count for k, v in sorted(self._values.items())}


def _told(history: list[dict[str, float]]) -> str:
    if not history:
        return ""
    return "epoch {:.0f}: ".format(history[-1]["epoch"]) + ", ".join(
        f"{k} {v:.3f}" for k, v in history[-1].items() if k != "epoch"
    )


def _recipe(p: StudentParams, steps: int) -> Any:
    from models.augment import ColourAugment
    from models.training import Recipe

    return Recipe(
        epochs=p.epochs, steps_per_epoch=steps, optimizer=p.optimizer, learning_rate=p.learning_rate,
        readout_learning_rate=p.readout_learning_rate, probe_learning_rate=p.probe_learning_rate,
        weight_decay=p.weight_decay, warmup=p.warmup, temperature=p.temperature, attention=p.attention.gradient,
        lam=p.attention.lam, beta=p.attention.beta, reverse_kld=p.attention.reverse_kld, dtype=p.dtype,
        channels_last=p.channels_last, colour=ColourAugment(**p.colour.model_dump()), seed=p.seed,
    )  # fmt: skip


def build_student(p: StudentParams, classes: int) -> Any:
    """A student of these params, freshly initialised from the seed."""
    student = importlib.import_module(f"models.students.{p.model}").Student
    config = student.Config(
        arch=p.arch, width=p.width, stem=p.stem, size=p.size, classes=max(1, classes),
        projection_layers=p.projection_layers, projection_dim=p.projection_dim,
    )  # fmt: skip
    return student(config, p.seed)


def load_student(store: Store, manifest: Manifest) -> Any:
    """The student of a version, ready for evaluation."""
    import json

    from tasks._checkpoint import load_weights

    p = StudentParams.model_validate(manifest.key.params)
    classes = json.loads(store.read(manifest.member("metrics.json")))["classes"]
    student = build_student(p, classes)
    load_weights(store, manifest, student)
    return student.eval()


STAGE = Stage(
    name="student",
    version=1,
    title="Train the student, contrastively and guided by the labels",
    params=StudentParams,
    run=run,
    inputs={"saliency": Input("saliency", "saliency"), "fixations": Input("fixations", "fixations")},
    datasets={"images": "images"},
)
