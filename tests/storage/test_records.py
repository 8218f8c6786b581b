"""Records know their own bytes, and disagree with no other record of a version."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import Format
from storage.manifest import Attempt, Manifest, parse
from storage.store import Store
from storage.tags import set_tag
from storage.verify import contradictions, damaged
from tests.storage.faulty import Labels, damage


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_every_changed_byte_of_every_object_is_told_or_harmless(kit: Any, data: st.DataObject) -> None:
    """Harmless is a record that still says the same (white space, 1e2 for 100), and when a shard's try began."""
    labels = Labels(kit)
    set_tag(labels.store, labels.saliency.ref, "prod")
    backend = labels.store.backend
    mine = sorted(k for k in backend._objects if k.startswith(("artifacts/saliency/", "tags/")))  # type: ignore[attr-defined]
    key = data.draw(st.sampled_from(mine))
    whole = backend._objects[key]  # type: ignore[attr-defined]
    changed = data.draw(damage(whole))
    backend.replace(key, changed)
    if not told(labels.store, labels.saliency.ref):
        assert ".try-" in key or changed == whole or json.loads(changed) == json.loads(whole), key


def told(store: Store, ref: str) -> bool:
    try:
        manifest = store.resolve(ref)
    except Format:
        return True
    return any(damaged(store.backend, manifest, deep=True)) or any(contradictions(store.backend, manifest, deep=True))


@pytest.mark.parametrize("field", ["summary", "published", "node", "seconds"])
def test_a_record_knows_its_own_digest(kit: Any, field: str) -> None:
    store = kit.store()
    whole = json.loads(kit.complete(store).to_bytes())
    other = {"summary": {"cc": 0.5}, "published": "2026-01-01T00:00:00Z", "node": "other", "seconds": 7.0}[field]
    changed = json.dumps(whole | {field: other}).encode()
    with pytest.raises(Format, match="its bytes changed"):
        parse(Manifest, changed, "x")
    del whole["digest"]
    assert parse(Manifest, json.dumps(whole | {field: other}).encode(), "x").node, "older records state none"


def test_a_manifest_that_was_damaged_is_made_anew_from_its_shards(kit: Any) -> None:
    labels = Labels(kit)
    whole, key = labels.saliency, f"artifacts/saliency/{labels.saliency.version}/manifest.json"
    backend = labels.store.backend
    backend.replace(key, backend.get(key).replace(b'"done": 8', b'"done": 9'))
    with pytest.raises(Format, match=f"{key}: .*its bytes changed; .* delete a manifest .* makes anew"):
        labels.store.resolve(whole.ref)
    backend.delete(key)
    resumed = kit.open(labels.store)
    assert resumed.version.name == whole.version
    again = resumed.publish(kit.manifest(resumed, resumed.finished().values()))
    assert again.result_digest() == whole.result_digest()


def test_what_a_manifest_cannot_say(kit: Any) -> None:
    labels = Labels(kit)
    whole = labels.saliency
    zero, one = whole.shards
    lost = one.model_copy(update={"members": one.members[:1]})
    moved = whole.members[0].model_copy(update={"key": whole.members[2].key})
    wrong: dict[str, dict[str, Any]] = {
        "expected the shards 0 to 1 in order": {"shards": [zero, one.model_copy(update={"shard": 2})]},
        "in order, found others": {"shards": [one, zero]},
        "members of the same kinds": {"shards": [zero, lost]},
        "are not among the version's": {"members": whole.members[:3]},
        "done is 7, of its shards 8": {"done": 7},
        "failed is 3, of its shards 2": {"failed": 3},
        "its key is that of saliency@": {"key": whole.key.model_copy(update={"params": {"size": 1}})},
        "under the name of another content": {"members": [moved, *whole.members[1:]]},
    }
    for expected, fields in wrong.items():
        said = list(contradictions(labels.store.backend, whole.model_copy(update=fields)))
        assert any(expected in s for s in said), (expected, said)


def test_records_that_disagree(kit: Any) -> None:
    labels = Labels(kit)
    backend, whole = labels.store.backend, labels.saliency
    folder = f"artifacts/saliency/{whole.version}"
    set_tag(labels.store, whole.ref, "prod")
    attempt = parse(Attempt, backend.get(f"{folder}/attempt.json"), "")
    backend.replace(f"{folder}/attempt.json", attempt.model_copy(update={"version": "0" * 12}).to_bytes())
    backend.replace(f"{folder}/progress/000001.json", whole.shards[0].to_bytes())
    backend.delete(f"{folder}/progress/000000.json")
    backend.create("tags/saliency/prod/000003.json", backend.get("tags/saliency/prod/000001.json"))
    said = list(contradictions(backend, whole, deep=True))
    for expected in ("it opened another", "000001.json: not the shard", "without gaps", "an entry of that name"):
        assert sum(expected in s for s in said) == 1, (expected, said)
    assert len(said) == 4, "progress that is gone is no matter: the manifest has it"
    assert not list(contradictions(backend, whole)), "others are read with deep alone"
