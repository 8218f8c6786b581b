"""Stage `evaluation`: hold teacher and students against people, test what differs, and tell it in a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from storage.canonical import pretty_json
from tasks._stage import Context, Input, Params, Result, Stage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.teacher import Teacher
    from storage.manifest import Member
    from tasks._data.gaze import Viewed
    from tasks._evaluation.networks import Arithmetic, Arm, Predictor
    from tasks._evaluation.readouts import HeldOut, Readouts
    from tasks._evaluation.scoring import Table
    from tasks._report.montage import Row


class EvaluationParams(Params):
    """How predictions are scored."""

    seed: int = Field(0, description="of shuffled partners, random splits, bootstrap and the choice of images")
    sigma: float = Field(0.03, gt=0, description="blur of the human maps, over the image's longer side")
    splits: int = Field(100, ge=1, description="random halves of the people, for the ceiling")
    refit_images: int = Field(1000, ge=1, description="images that readouts are refitted on, chosen by hash")
    batch_size: int = Field(50, ge=1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(1, ge=1, description="of torch; small fits crawl when several threads share busy cores")
    decoder: Literal["simplejpeg"] = "simplejpeg"


def run(context: Context) -> Result:
    """Refit readouts, score everything on the attention set, measure accuracy, test, and write the report."""
    import torch

    from tasks._data.gaze import viewed_images
    from tasks._evaluation import results
    from tasks._evaluation.accuracy import probe_accuracy
    from tasks._evaluation.networks import Arithmetic, load_arms
    from tasks.teacher import load_teacher

    p: EvaluationParams = context.params
    torch.set_num_threads(p.threads)
    how, threads = Arithmetic(p.device, p.dtype), context.settings.decoders
    viewed = viewed_images(context.datasets["attention"])
    teacher = load_teacher(context.store, context.inputs["teacher"][0]).to(p.device)
    arms = load_arms(context.store, context.inputs, p.device)
    held = _held_out(context, teacher, arms, how)
    fitted = _fitted(context, arms, held, how)
    predictors = _predictors(teacher, fitted, how)
    table = _scored(context, viewed, predictors)
    context.log(f"{len(table.images)} images scored, {len(table.errors)} could not be read")

    def told(done: int, total: int) -> None:
        context.progress(done, total, "labelled images", "accuracy")

    accuracy = probe_accuracy(context.datasets["images"][0], arms, how, p.batch_size, threads, told)
    if accuracy.reason:
        context.log(f"no accuracy: {accuracy.reason}")
    metrics = results.metrics_of(table, fitted, accuracy, len(held), p.seed)
    summary = results.summary_of(metrics)
    errors = [*table.errors, *held.errors, *(e for e in accuracy.errors if e not in held.errors)]
    members = [
        context.attempt.put("per-image.parquet", table.to_parquet(), len(table.images)),
        context.attempt.put("metrics.json", pretty_json(metrics)),
    ]
    views = _report(context, metrics, table, viewed, predictors)
    done = len(table.images) + max(len(held), accuracy.images)
    return Result(members, views, summary, done=done, failed=len(errors), errors=errors)


def _held_out(context: Context, teacher: Teacher, arms: Sequence[Arm], how: Arithmetic) -> HeldOut:
    from tasks._evaluation.readouts import chosen_images, held_out

    p: EvaluationParams = context.params
    images = context.datasets["images"][0]
    chosen = chosen_images(images, p.refit_images, p.seed)
    return held_out(images, chosen, teacher, [a.size for a in arms], how, p.batch_size, context.settings.decoders)


def _fitted(context: Context, arms: Sequence[Arm], held: HeldOut, how: Arithmetic) -> list[tuple[Arm, Readouts]]:
    """Every student, then the networks the guided ones began as, each with its refitted readouts."""
    from tasks._evaluation.readouts import fit_readouts, untrained

    p: EvaluationParams = context.params
    floors = [untrained(a, held, how, p.batch_size) for a in arms if a.name == "guided"]
    fitted = []
    for number, arm in enumerate([*arms, *floors]):
        fitted.append((arm, fit_readouts(arm, held, _mean_label(context, arm), how, p.batch_size)))
        told = f"readouts refitted: {arm.name}, seed {arm.seed}"
        context.progress(number + 1, len(arms) + len(floors), "students", told)
    return fitted


def _mean_label(context: Context, arm: Arm) -> NDArray[Any]:
    """The mean label of a student's training images, at its size."""
    from tasks._checkpoint import unpack

    name = "mean-label.safetensors"
    data = context.store.read(arm.manifest.member(name))
    density: NDArray[Any] = unpack(data, f"student@{arm.manifest.version} {name}")["density"].numpy()
    return density


def _predictors(teacher: Teacher, fitted: Sequence[tuple[Arm, Readouts]], how: Arithmetic) -> list[Predictor]:
    from tasks._evaluation.networks import student_predictor, teacher_predictor, teacher_through

    students = [student_predictor(a, how, r.refitted, r.common, own=a.name != "untrained") for a, r in fitted]
    return [teacher_predictor(teacher, how), teacher_through(teacher, fitted[0][0].size, how), *students]


def _scored(context: Context, viewed: Sequence[Viewed], predictors: Sequence[Predictor]) -> Table:
    from tasks._checkpoint import unpack
    from tasks._evaluation.scoring import Rules, score_images

    p: EvaluationParams = context.params
    manifest = context.inputs["teacher"][0]
    data = context.store.read(manifest.member("centre.safetensors"))
    prior = unpack(data, f"teacher@{manifest.version} centre.safetensors")["density"].numpy()
    fixed = {"centre_prior": lambda reference: prior, "centre_bias": lambda reference: reference.centre_bias}

    def told(done: int) -> None:
        if done % 10 == 0 or done == len(viewed):
            context.progress(done, len(viewed), "images", "scored against people")

    rules = Rules(p.sigma, p.splits, p.seed, p.batch_size)
    return score_images(viewed, predictors, fixed, rules, context.settings.decoders, told)


def _report(
    context: Context, metrics: dict[str, Any], table: Table, viewed: Sequence[Viewed], predictors: Sequence[Predictor]
) -> list[Member]:
    """Pictures, a table for the run page, and the report that joins them."""
    from tasks._evaluation.provenance import overlaps, tables_of
    from tasks._report import montage, page, plots, sections

    shown = montage.choose(table.values("guided", "cc").mean(0))
    pictures = {
        "montage.png": montage.montage([_shown(context.params, table, n, viewed, predictors) for n in shown]),
        "distributions.png": plots.distributions(table.values),
        "differences.png": plots.differences(metrics["tests"]),
    }
    warnings = overlaps(context)
    if table.errors:
        warnings.append(f"{len(table.errors)} images that people looked at could not be read and are left out.")
    facts = {
        "version": context.attempt.version.ref,
        "warnings": warnings,
        "shown": [table.images[n][1] for n in shown],
        "tables": tables_of(context),
    }
    html = page.page(metrics, pictures, facts)
    context.report_table("alignment with people", sections.alignment_rows(metrics))
    views = [context.picture(name, png) for name, png in pictures.items()]
    return [*views, context.attempt.put("report.html", html.encode())]


def _shown(
    p: EvaluationParams, table: Table, number: int, viewed: Sequence[Viewed], predictors: Sequence[Predictor]
) -> Row:
    """One image of the montage: each predictor's map, of the first seed where there are several."""
    from tasks._data.gaze import gaze_of
    from tasks._evaluation.scoring import densities_of
    from tasks._report.montage import Row

    (one,) = (v for v in viewed if (v.dataset.name, v.image.key) == table.images[number])
    (found,) = densities_of([one], predictors, 1)
    assert not isinstance(found, str), "it was scored before"
    first = dict(reversed([(name, density) for (name, _), density in found.items()]))
    cc = {name: float(table.values(name, "cc")[0, number]) for name in first}
    return Row(one.pixels(), gaze_of(one.attention).map(p.sigma), first, cc)


STAGE = Stage(
    name="evaluation",
    version=1,
    title="Hold teacher and students against people, with controls and tests, and write the report",
    params=EvaluationParams,
    run=run,
    inputs={
        "teacher": Input("teacher", "teacher"),
        "student": Input("student", "student", many=True),
        "baseline": Input("student", "student.baseline", many=True),
        "permuted": Input("student", "student.permuted", many=True),
    },
    datasets={"images": "images", "attention": "attention"},
)
