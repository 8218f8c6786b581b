"""The policies allow what the code asks a server for, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

import storage.manifest
from storage.attempt import open_attempt
from storage.backends import Backend, open_backend
from storage.canonical import now
from storage.doctor import examine
from storage.gc import collect, plan_collection
from storage.manifest import Key, Manifest, Producer, ShardRecord
from storage.pull import pull
from storage.runs import Run
from storage.store import Store
from storage.tags import history, rollback, set_tag
from storage.verify import contradictions, damaged
from tests.servers.base import S3Server

DOCKER = Path(__file__).parents[2] / "docker"
FORMAT = (Path(storage.manifest.__file__).parent / "FORMAT.md").read_text()
NAMES = ["reader-policy", "writer-policy", "bucket-policy"]

# S3's operations and the actions that allow them, as Amazon's service authorization reference has them.
ACTIONS = {
    "ListObjectsV2": "s3:ListBucket",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "DeleteObject": "s3:DeleteObject",
    "GetBucketVersioning": "s3:GetBucketVersioning",
}
OF_BUCKETS = {"s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:GetBucketVersioning"}
CONDITIONS = {
    "StringLike": {"s3:prefix"},
    "Bool": {"aws:SecureTransport", "s3:ObjectCreationOperation"},
    "Null": {"s3:if-none-match"},
}


def policy(name: str, bucket: str = "labels", prefix: str = "p/q") -> dict[str, Any]:
    text = (DOCKER / f"{name}.json").read_text().replace("BUCKET", bucket).replace("PREFIX", prefix)
    found: dict[str, Any] = json.loads(text)
    return found


def many(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def like(pattern: str, text: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text) is not None


def applies(statement: dict[str, Any], action: str, resource: str, context: dict[str, str]) -> bool:
    """Whether a statement is about a request, by the rules of IAM for the elements used here."""
    for operator, keys in statement.get("Condition", {}).items():
        for key, wanted in keys.items():
            found = context.get(key)
            holds = {
                "Null": lambda found, wanted: (found is None) == (wanted == "true"),
                "Bool": lambda found, wanted: found == wanted,
                "StringLike": lambda found, wanted: found is not None and any(like(w, found) for w in many(wanted)),
            }[operator]
            if not holds(found, wanted):
                return False
    return any(like(a, action) for a in many(statement["Action"])) and any(
        like(r, resource) for r in many(statement["Resource"])
    )


def decided(document: dict[str, Any], action: str, resource: str, context: dict[str, str]) -> str:
    """ "Allow", "Deny" or "" for neither; a denial wins."""
    effects = {s["Effect"] for s in document["Statement"] if applies(s, action, resource, context)}
    return "Deny" if "Deny" in effects else "Allow" if effects else ""


def at(key: str) -> str:
    return f"arn:aws:s3:::labels/{key}"


@pytest.mark.parametrize("name", NAMES)
def test_grammar(name: str) -> None:
    document = policy(name)
    assert document.keys() == {"Version", "Statement"}
    assert document["Version"] == "2012-10-17"
    sids = [s["Sid"] for s in document["Statement"]]
    assert len(set(sids)) == len(sids)
    assert all(re.fullmatch("[A-Za-z0-9]+", s) for s in sids)
    principal = {"Principal"} if name == "bucket-policy" else set()
    for statement in document["Statement"]:
        assert statement.keys() - {"Condition"} == {"Sid", "Effect", "Action", "Resource"} | principal
        assert statement["Effect"] == ("Deny" if principal else "Allow")
        for operator, keys in statement.get("Condition", {}).items():
            assert keys.keys() <= CONDITIONS[operator]
        for resource in many(statement["Resource"]):
            assert re.fullmatch(r"arn:aws:s3:::labels(/[A-Za-z0-9/._*-]+)?", resource)
            for action in many(statement["Action"]):
                assert action == "s3:*" or (action in OF_BUCKETS) == ("/" not in resource)


def test_actions_are_s3s() -> None:
    operations = set(botocore.session.get_session().get_service_model("s3").operation_names)
    assert set(ACTIONS) <= operations
    used = {a for n in NAMES for s in policy(n)["Statement"] for a in many(s["Action"])}
    assert used - {"s3:*"} == set(ACTIONS.values())


class Requests:
    """What a backend asks a server for, as IAM sees it: (action, resource, context)."""

    def __init__(self, backend: Backend) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        backend._client.meta.events.register("provide-client-params.s3", self.note)  # type: ignore[attr-defined]

    def note(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        key = params.get("Key")
        context = {"aws:SecureTransport": "true"}
        if model.name == "ListObjectsV2":
            context["s3:prefix"] = params.get("Prefix")
        if "IfNoneMatch" in params:
            context["s3:if-none-match"] = params["IfNoneMatch"]
        if ACTIONS[model.name] == "s3:PutObject":
            whole = model.name in ("PutObject", "CompleteMultipartUpload")
            context["s3:ObjectCreationOperation"] = str(whole).lower()
        self.seen.append((ACTIONS[model.name], "arn:aws:s3:::labels" + (f"/{key}" if key else ""), context))


@pytest.fixture
def place(moto: S3Server, s3_place: Any) -> Backend:
    """labels/p/q, which the policies are tried for."""
    s3_place(moto)
    client = moto.client()
    if "labels" not in [x["Name"] for x in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket="labels")
    for found in client.list_objects_v2(Bucket="labels").get("Contents", ()):
        client.delete_object(Bucket="labels", Key=found["Key"])
    return open_backend("s3://labels/p/q")


def write(store: Store, size: int) -> Manifest:
    """Everything that commands which write ask a store for, but doctor and gc."""
    key = Key(stage="saliency", stage_version=1, params={"size": size}, inputs={}, datasets={})
    run = Run(store, {"nodes": {}}, "test")
    attempt = open_attempt(store, key, "saliency", "asked for", run.id)
    attempt.start(0)
    attempt.save_checkpoint(1, b"tensors", {})
    members = [attempt.put_shard(0, ".tar", bytes(17 * 2**20), 1), attempt.put_shard(0, ".parquet", b"index", 1)]
    record = attempt.finish(ShardRecord(shard=0, shard_key="", members=members, done=1, failed=0))
    run.end("completed")
    return attempt.publish(
        Manifest(
            kind="saliency", version=attempt.version.name, node="saliency", key=key, members=members, views=[],
            shards=[record], done=1, failed=0, seconds=0, published=now(), run=run.id,
            producer=Producer(release="0", commit=None, python="3", torch=None, device="cpu"),
        )
    )  # fmt: skip


def written(store: Store) -> list[Manifest]:
    store.backend.create("gazeflow.json", b'{"format":1}')
    manifests = [write(store, size) for size in (1, 2)]
    for manifest in manifests:
        set_tag(store, manifest.ref, "prod")
    rollback(store, "saliency", "prod")
    closed = open_attempt(store, manifests[0].key, "saliency", "asked for", "r", manifests[0].version)
    closed.close("given up")
    return manifests


def read(store: Store, manifest: Manifest, folder: Path) -> None:
    """Everything that commands which read ask a store for."""
    assert store.resolve("saliency:prod").kind == "saliency"
    assert len(history(store.backend, "saliency", "prod")) == 3
    store.versions("saliency"), store.kinds()
    list(damaged(store.backend, manifest, deep=True)), list(contradictions(store.backend, manifest, deep=True))
    pull(store.backend, manifest, folder)


def test_policies_and_requests_agree(place: Backend, tmp_path: Path) -> None:
    asked = Requests(place)
    store = Store(place)
    first, _ = written(store)
    before = len(asked.seen)
    read(store, first, tmp_path)
    reading = asked.seen[before:]
    collect(store, plan_collection(store, days=0))
    place.create("gc-me/x", b"")
    examine(place)
    asked.seen = [r for r in asked.seen if "gc-me" not in r[1]]
    assert {a for a, _, _ in asked.seen} == set(ACTIONS.values()) - {"s3:AbortMultipartUpload"}

    reader, writer, bucket = (policy(n) for n in NAMES)
    assert [r for r in asked.seen if decided(writer, *r) != "Allow"] == []
    assert [r for r in asked.seen if decided(bucket, *r) == "Deny"] == []
    assert [r for r in reading if decided(reader, *r) != "Allow"] == []
    changes = [r for r in asked.seen if r[0] in ("s3:PutObject", "s3:DeleteObject")]
    assert len(changes) > 50
    assert [r for r in changes if decided(reader, *r)] == []
    plain = [(a, r, c | {"aws:SecureTransport": "false"}) for a, r, c in asked.seen]
    assert {decided(bucket, *r) for r in plain} == {"Deny"}


@pytest.mark.parametrize("name", ["reader-policy", "writer-policy"])
def test_nothing_beside_the_store_is_allowed(name: str) -> None:
    document = policy(name)
    for action in ACTIONS.values():
        for key in ("x", "p/x", "p/q2/x", "p/q", "other/p/q/x"):
            assert not decided(document, action, at(key), {}), (action, key)
            assert not decided(document, action, "arn:aws:s3:::other/p/q/x", {})
    for prefix in ("", "p", "p/", "p/q", "p/q2/"):
        assert not decided(document, "s3:ListBucket", "arn:aws:s3:::labels", {"s3:prefix": prefix})
    assert not decided(document, "s3:ListBucket", "arn:aws:s3:::labels", {}), "a listing of the whole bucket"


@pytest.mark.parametrize("key", ["gazeflow.json", "tags/k/t/000001.json", "runs/r.json", "datasets/f.parquet"])
def test_what_nobody_deletes_cannot_be_deleted(key: str) -> None:
    assert not decided(policy("writer-policy"), "s3:DeleteObject", at(f"p/q/{key}"), {})


def tree() -> Iterator[tuple[str, str]]:
    """FORMAT.md's objects with their fields filled in, and how they are written."""
    fields = {
        "kind": "saliency", "version": "3f9c0a1b2c3d-2", "shard": "000012", "n": "2", "step": "00000400",
        "stem": "gallery", "sha16": "0123456789abcdef", "ending": ".png", "run": "20260131T235959Z-0a1b2c",
        "fingerprint": "f" * 64, "16 hex": "0123456789abcdef", "tag": "prod", "number": "000007", "id": "0" * 32,
    }  # fmt: skip
    section = FORMAT.split("## The tree\n")[1].split("\n## ")[0]
    for key, how in re.findall(r"^\| `(.*?)` \| (once|replaced) \|", section, re.MULTILINE):
        yield key, re.sub("<(.*?)>", lambda match: fields[match[1]], key) + "|" + how


@pytest.mark.parametrize(("pattern", "filled"), list(tree()))
def test_records_that_are_written_once_cannot_be_overwritten(pattern: str, filled: str) -> None:
    """All that is written once but what is named by its content, which may be replaced by its equal."""
    key, _, how = filled.partition("|")
    once = how == "once" and not re.search("<sha16>|<fingerprint>", pattern)
    creation = {"aws:SecureTransport": "true", "s3:ObjectCreationOperation": "true"}
    part = creation | {"s3:ObjectCreationOperation": "false"}
    document = policy("bucket-policy")
    assert decided(document, "s3:PutObject", at(f"p/q/{key}"), creation) == ("Deny" if once else "")
    assert not decided(document, "s3:PutObject", at(f"p/q/{key}"), creation | {"s3:if-none-match": "*"})
    assert not decided(document, "s3:PutObject", at(f"p/q/{key}"), part), "parts of an upload carry no condition"


def test_the_tree_is_read() -> None:
    assert len(list(tree())) >= 15


@pytest.mark.system
@pytest.mark.parametrize("name", ["ceph20-https", "ceph20-http"])
def test_a_real_server_holds_a_reader_to_its_policy(name: str, s3_server: Any, s3_place: Any) -> None:
    """The reader's policy, given to strangers: they read the store, and nothing else."""
    server = s3_server(name)
    url = s3_place(server, prefix="/p/q")
    bucket = {"Bucket": url.split("/")[2]}
    open_backend(url).replace("runs/r.json", b"mine")
    server.client().put_object(**bucket, Key="p/other", Body=b"secret")
    document = policy("reader-policy", bucket["Bucket"])
    public = document | {"Statement": [s | {"Principal": "*"} for s in document["Statement"]]}
    server.client().put_bucket_policy(**bucket, Policy=json.dumps(public))
    stranger = boto3.client(
        "s3", endpoint_url=server.endpoint, region_name="us-east-1", verify=server.ca_bundle,
        config=Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}),
    )  # fmt: skip
    assert stranger.get_object(**bucket, Key="p/q/runs/r.json")["Body"].read() == b"mine"
    assert stranger.list_objects_v2(**bucket, Prefix="p/q/runs/")["KeyCount"] == 1
    with pytest.raises(ClientError, match="404"):
        stranger.head_object(**bucket, Key="p/q/nothing")
    for forbidden in (
        lambda: stranger.get_object(**bucket, Key="p/other"),
        lambda: stranger.list_objects_v2(**bucket, Prefix="p/"),
        lambda: stranger.list_objects_v2(**bucket),
        lambda: stranger.put_object(**bucket, Key="p/q/runs/x.json", Body=b""),
        lambda: stranger.delete_object(**bucket, Key="p/q/runs/r.json"),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            forbidden()
