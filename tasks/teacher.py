"""Stage `teacher`: train a saliency network, from a random start, on where people looked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from storage.canonical import pretty_json
from storage.errors import InvalidInput
from tasks._stage import Context, Params, Result, Stage

if TYPE_CHECKING:
    from models.teacher import Teacher
    from models.teacher_training import TeacherTrainer
    from storage.manifest import Manifest
    from storage.store import Store
    from tasks._data.gaze import Viewed

METRICS = ("cc", "nss", "kld", "sim", "auc_judd")


class TeacherParams(Params):
    """How the teacher is built and trained."""

    seed: int = 0
    size: int = Field(256, description="side of its square input and output, pixels")
    width: int = Field(64, description="channels of its first tap; 64 is ResNet-18's")
    sigma: float = Field(0.03, gt=0, description="blur of the human maps, over the image's longer side")
    epochs: int = Field(40, ge=1)
    patience: int = Field(12, ge=1, description="epochs without a better held-out CC before it stops")
    batch_size: int = Field(32, ge=2)
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps")
    average: float = Field(0.99, ge=0, lt=1, description="decay of the average of the weights; 0: none")
    held_out: float = Field(0.1, gt=0, lt=1, description="share of the images held out, by hash of the key")
    dtype: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(2, ge=1, description="training is bit-equal at the same number of threads")
    decoder: Literal["simplejpeg"] = "simplejpeg"


def run(context: Context) -> Result:
    """Train, keep the weights of the best held-out correlation, score them beside the centre prior."""
    import torch

    from models.alignment import centre_prior
    from tasks import _checkpoint
    from tasks._data.gaze import gaze_of, viewed_images
    from tasks._report.pictures import curves, map_rows

    p: TeacherParams = context.params
    torch.set_num_threads(p.threads)
    rows = viewed_images(context.datasets["attention"])
    held, training = split_held_out(rows, p.held_out)
    context.log(f"{len(training)} images to train on, {len(held)} held out")
    trainer, history = _trained(context, training, held)
    weights = trainer.result()
    trainer.averaged.load_state_dict(weights)
    prior = centre_prior([gaze_of(r.attention) for r in training], p.size, p.sigma)
    metrics, examples = _scored(trainer.averaged, held, prior, p)
    context.report_table("held-out images", metrics["table"])
    pictures = [
        context.picture("learning-curves.png", curves(history, ["loss", "cc"], "Teacher")),
        context.picture("examples.png", map_rows(examples, ["image", "people", "teacher"])),
    ]
    summary = {"cc": metrics["teacher"]["cc"], "centre_prior_cc": metrics["centre_prior"]["cc"]}
    return Result(
        members=[
            context.attempt.put("checkpoint.safetensors", _checkpoint.pack(weights, p.model_dump(mode="json"))),
            context.attempt.put("centre.safetensors", _checkpoint.pack({"density": torch.from_numpy(prior)})),
            context.attempt.put("metrics.json", pretty_json(metrics | {"history": history})),
        ],
        views=pictures,
        summary=summary,
        done=len(rows),
    )


def split_held_out(rows: list[Viewed], share: float) -> tuple[list[Viewed], list[Viewed]]:
    """(held out, training) by the hash of the key, at least two images on either side.

    Raises InvalidInput when there are fewer than four.
    """
    from tasks._data.images import key_hash

    ranked = sorted(rows, key=lambda r: (key_hash(r.image.key), r.dataset.name))
    if len(rows) < 4:
        raise InvalidInput(
            f"teacher: expected at least 4 images with fixations, found {len(rows)}; nothing was trained"
        )
    count = min(max(2, round(share * len(rows))), len(rows) - 2)
    chosen = {id(r) for r in ranked[:count]}
    return [r for r in rows if id(r) in chosen], [r for r in rows if id(r) not in chosen]


def _trained(
    context: Context, training: list[Viewed], held: list[Viewed]
) -> tuple[TeacherTrainer, list[dict[str, Any]]]:
    from models.teacher import TeacherConfig
    from models.teacher_training import TeacherRecipe, TeacherTrainer
    from storage.parallel import ordered_map
    from tasks import _checkpoint
    from tasks._data.gaze import teacher_batch
    from tasks._training import Clock

    p: TeacherParams = context.params
    steps = max(1, len(training) // p.batch_size)
    recipe = TeacherRecipe(
        steps=p.epochs * steps, learning_rate=p.learning_rate, weight_decay=p.weight_decay, warmup=p.warmup,
        average=p.average, dtype=p.dtype, channels_last=p.channels_last, seed=p.seed,
    )  # fmt: skip
    trainer = TeacherTrainer(TeacherConfig(p.size, p.width), recipe, p.device)
    history: list[dict[str, Any]] = []
    saved = context.attempt.last_checkpoint()
    if saved:
        trainer.restore(_checkpoint.unpack(saved[1], "teacher checkpoint"), saved[2]["trainer"])
        history = list(saved[2]["history"])
        context.log(f"going on after epoch {len(history)}")
    held_batches = [
        teacher_batch(held[i : i + p.batch_size], p.size, p.sigma) for i in range(0, len(held), p.batch_size)
    ]
    clock = Clock(context.settings.checkpoint_seconds)
    for epoch in range(len(history), p.epochs):
        if _stale(history, p.patience):
            break
        order = np.random.default_rng((p.seed, epoch)).permutation(len(training))
        batches = [[training[i] for i in order[s * p.batch_size : (s + 1) * p.batch_size]] for s in range(steps)]

        def load(rows: list[Viewed], epoch: int = epoch) -> Any:
            return teacher_batch(rows, p.size, p.sigma, [epoch] * len(rows), p.seed)

        losses = [trainer.step(b) for b in ordered_map(load, batches, context.settings.decoders, 4)]
        score = trainer.evaluate(held_batches)
        trainer.keep_if_best(score)
        history.append({"epoch": epoch + 1, "loss": float(np.mean(losses)), "cc": score})
        context.progress(epoch + 1, p.epochs, "epochs", f"loss {np.mean(losses):.3f}, held-out CC {score:.3f}")
        if clock.due():
            tensors, meta = trainer.state()
            context.attempt.save_checkpoint(epoch + 1, _checkpoint.pack(tensors), {"trainer": meta, "history": history})
    return trainer, history


def _stale(history: list[dict[str, Any]], patience: int) -> bool:
    """Whether the last `patience` epochs brought no better score."""
    scores = [h["cc"] for h in history]
    return len(scores) > patience and max(scores[:-patience]) >= max(scores[-patience:])


def _scored(
    teacher: Teacher, held: list[Viewed], prior: NDArray[np.float32], p: TeacherParams
) -> tuple[dict[str, Any], list[Any]]:
    """Mean metrics of teacher and centre prior on the held-out images, and a few examples to look at."""
    from models.alignment import references, score, to_frame
    from tasks._data.gaze import gaze_of

    rows: dict[str, list[dict[str, float]]] = {"teacher": [], "centre_prior": []}
    examples: list[Any] = []
    for row, reference in zip(held, references([gaze_of(r.attention) for r in held], p.sigma), strict=True):
        pixels = row.pixels()
        density = predicted(teacher, pixels, p)
        rows["teacher"].append(score(density, reference))
        rows["centre_prior"].append(score(prior, reference))
        if len(examples) < 6:
            gaze = reference.gaze
            examples.append((pixels, reference.human, to_frame(density, gaze.width, gaze.height)))
    means = {
        who: {m: float(np.nanmean([r[m] for r in found])) for m in METRICS} for who, found in rows.items()
    }
    table = [{"predictor": who} | {m: round(v, 4) for m, v in mean.items()} for who, mean in means.items()]
    return means | {"table": table, "images": len(held)}, examples


def predicted(teacher: Teacher, pixels: NDArray[np.uint8], p: TeacherParams) -> NDArray[np.float32]:
    """The teacher's density for one decoded image, float32 [size, size]."""
    import torch

    from models.augment import squash
    from models.teacher_training import DTYPES

    image = torch.from_numpy(squash(pixels, p.size)).permute(2, 0, 1)[None].contiguous().to(p.device)
    density: NDArray[np.float32] = teacher.density(image, DTYPES[p.dtype])[0].cpu().numpy()
    return density


def load_teacher(store: Store, manifest: Manifest) -> Teacher:
    """The teacher of a version, on its device, ready for inference."""
    from models.teacher import Teacher, TeacherConfig
    from tasks._checkpoint import load_weights

    p = TeacherParams.model_validate(manifest.key.params)
    teacher = Teacher(TeacherConfig(p.size, p.width))
    load_weights(store, manifest, teacher)
    return teacher.eval()


STAGE = Stage(
    name="teacher",
    version=1,
    title="Train the saliency teacher on human attention data",
    params=TeacherParams,
    run=run,
    datasets={"attention": "attention"},
)
