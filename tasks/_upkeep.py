"""What the commands answer that look after a store's versions: tags, copies, garbage, the place itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.errors import InvalidInput
from storage.store import TAG_REF, Store
from storage.tags import TagEntry, all_tags, current, history, rollback, set_tag
from tasks._inspect import open_store, store_url
from tasks._run import parse_shards


def tagged(ref: str, tag: str, path: str | None) -> dict[str, Any]:
    """Point a tag at a version."""
    return _tag_row(set_tag(_open_to_write(path), ref, tag))


def rolled_back(ref: str, path: str | None) -> dict[str, Any]:
    """Point a tag at what it meant before."""
    kind, tag = _parse_tag(ref)
    return _tag_row(rollback(_open_to_write(path), kind, tag))


def tag_list(ref: str | None, path: str | None) -> list[dict[str, Any]]:
    """All tags with what they mean now; of one tag its whole history, the newest last."""
    store = open_store(path)
    if ref is not None:
        return [_tag_row(entry) for entry in history(store.backend, *_parse_tag(ref))]
    return [_tag_row(current(store.backend, kind, tag)) for kind, tag in all_tags(store.backend)]


def _parse_tag(ref: str) -> tuple[str, str]:
    match = TAG_REF.fullmatch(ref)
    if not match:
        raise InvalidInput(f"tag {ref!r}: expected KIND:TAG, such as saliency:prod; see `gazeflow tags`")
    return match[1], match[2]


def _tag_row(entry: TagEntry) -> dict[str, Any]:
    restores = None if entry.restores is None else f"entry {entry.restores}"
    return {
        "tag": f"{entry.kind}:{entry.tag}", "entry": entry.number, "ref": entry.ref, "restores": restores,
        "who": entry.who, "when": entry.when,
    }  # fmt: skip


def pulled(
    ref: str, dest: Path, shards: str | None, classes: str | None, dry_run: bool, path: str | None
) -> dict[str, Any]:
    """Copy a version out of the store, with progress."""
    from storage.pull import pull
    from tasks._stage import Event
    from tasks._terminal import terminal

    store = open_store(path)
    manifest = store.resolve(ref)
    chosen = None if shards is None else parse_shards(shards)
    samples = None if classes is None else parse_classes(classes)
    per, unit = (10**6, "MB") if sum(m.bytes for m in manifest.members) >= 10**8 else (10**3, "kB")
    with terminal() as show:

        def told(done: int, total: int) -> None:
            show(manifest.ref, Event(kind="progress", done=done / per, total=total / per, unit=unit))

        done = pull(store.backend, manifest, dest, chosen, samples, None if dry_run else told, dry_run)
    return {"ref": manifest.ref, "kind": manifest.kind, "dry_run": dry_run} | done


def parse_classes(text: str) -> list[str]:
    """Names of classes from text such as "n01440764,n01443537". Raises InvalidInput."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InvalidInput(f"classes {text!r}: expected names with commas between them, such as n01440764,n01443537")
    return names


def difference(one: str, two: str, path: str | None) -> dict[str, Any]:
    """What two versions of a kind have in common and what not."""
    from tasks._diff import diff

    return diff(open_store(path), one, two)


def collected(days: float, apply: bool, path: str | None) -> dict[str, Any]:
    """What garbage there is; with `apply`, it is collected."""
    from dataclasses import asdict

    from storage.gc import collect, plan_collection

    if not days >= 0:
        raise InvalidInput(f"--days {days:g}: expected 0 or more; nothing was looked at, nothing was deleted")
    store = _open_to_write(path) if apply else open_store(path)
    plan = plan_collection(store, days)
    return {
        "store": store.backend.url,
        "days": days,
        "versions": [asdict(v) for v in plan.versions],
        "objects": len(plan.objects),
        "bytes": plan.bytes,
        "kept": plan.kept,
        "waiting": plan.waiting,
        "missing": plan.missing,
        "marked": list(plan.marked),
        "done": asdict(collect(store, plan)) if apply else None,
    }


def examined(url: str | None, accept: bool, path: str | None) -> dict[str, Any]:
    """Try out whether a place keeps what a store relies on; with `accept`, put up with one that overwrites."""
    from dataclasses import asdict

    from storage.backends import open_backend
    from storage.doctor import accept_unsafe, accepted, examine, unsafe

    backend = open_backend(url or store_url(path))
    findings = examine(backend)
    took = accept and unsafe(findings)
    if took:
        accept_unsafe(backend)
        findings = accepted(backend, findings)
    asked = {"asked to accept": accept, "accepted": took}
    return {"store": backend.url, "findings": [asdict(f) for f in findings]} | asked


def _open_to_write(path: str | None) -> Store:
    """The store, which must exist, checked as for a run."""
    return Store.open(open_store(path).backend.url)
