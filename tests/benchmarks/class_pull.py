"""How many bytes of the store does `pull --classes` of one class read?

    python -m tests.benchmarks.class_pull

Makes 20 full shards (1,000 maps of about 12 kB each, 50 classes dealt over all shards) in a local store, pulls one
class through a backend that counts what is read, and compares the sum with the bytes that no reader could do without:
the maps of the class, the indexes, the manifest. Exit status 1 when the ratio is above 1.1 or the share of the version
above 3 %, or when the maps pulled are not those of the class.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from storage.backends.local import LocalBackend
from storage.manifest import Manifest
from storage.pull import pull
from storage.shards import SALIENCY_SCHEMA, read_table
from storage.store import Store
from tests.storage.labels import Counting, Labels, make_labels

RATIO, SHARE = 1.1, 0.03


def main() -> int:
    """Measure; returns the exit status."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--shards", type=int, default=20)
    options.add_argument("--classes", type=int, default=50)
    args = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="gazeflow-class-pull-") as folder:
        backend = Counting(LocalBackend(Path(folder) / "store"))
        labels = make_labels(Store(backend), args.shards, 1000, args.classes, side=109, broken=lambda n: n % 997 == 5)
        good = [_measured(labels, backend, kind, Path(folder)) for kind in ("saliency", "fixations")]
    return 0 if all(good) else 1


def _measured(labels: Labels, backend: Counting, kind: str, folder: Path) -> bool:
    """Pull one class of a version and print what it cost."""
    name = labels.classes[len(labels.classes) // 2]
    before, start = backend.read, time.perf_counter()
    store = Store(backend)
    manifest = store.resolve(f"{kind}@{getattr(labels, kind).version}")
    done = pull(backend, manifest, folder / "dest", classes=[name])
    seconds, read = time.perf_counter() - start, backend.read - before

    label = labels.classes.index(name)
    needed = _needed(labels, manifest, label)
    version = sum(m.bytes for m in manifest.members)
    whole = _is_right(labels, Path(done["folder"]), kind, label)
    print(f"{kind}: {len(manifest.shards)} shards of {len(labels.rows[0])} samples, {version / 1e6:.1f} MB")
    parts = ", ".join(f"{k} {v / 1e6:.3f}" for k, v in needed.items())
    print(f"  needed {sum(needed.values()) / 1e6:.3f} MB: {parts}")
    print(f"  read   {read / 1e6:.3f} MB for {done['samples']} samples of {name} in {seconds:.2f} s")
    ratio, share = read / sum(needed.values()), read / version
    print(f"  ratio {ratio:.4f} (at most {RATIO})")
    if kind == "fixations":  # small beside the saliency indexes, which know the classes
        return whole and ratio <= RATIO
    print(f"  share of the version {share:.2%} (at most {SHARE:.0%})")
    return whole and ratio <= RATIO and share <= SHARE


def _needed(labels: Labels, manifest: Manifest, label: int) -> dict[str, int]:
    """Bytes that cannot be left out, in parts."""
    chosen = [r for rows in labels.rows for r in rows if r.label == label and r.png is not None]
    indexes = sum(m.bytes for m in labels.saliency.members if m.name.endswith(".parquet"))
    found: dict[str, int] = {"manifests": len(manifest.to_bytes()), "indexes": indexes}
    if manifest.kind == "saliency":
        return found | {"maps": sum(len(r.png or b"") for r in chosen)}
    found["manifests"] += len(labels.saliency.to_bytes())
    return found | {"points": sum(m.bytes for m in manifest.members)}


def _is_right(labels: Labels, folder: Path, kind: str, label: int) -> bool:
    """Whether just the samples of the class are there, in their order."""
    wanted = [r.key for rows in labels.rows for r in rows if r.label == label]
    files: list[Any] = sorted(folder.glob("*.parquet"))
    if kind == "fixations":
        import pyarrow.parquet as pq

        return [k for f in files for k in pq.read_table(f)["key"].to_pylist()] == wanted
    found = [r for f in files for r in _maps(f)]
    return [k for k, _ in found] == wanted and all(png == labels.pngs.get(k, b"") for k, png in found)


def _maps(index: Path) -> list[tuple[str, bytes]]:
    tar = index.with_suffix(".tar").read_bytes()
    rows = read_table(index.read_bytes(), SALIENCY_SCHEMA, str(index)).to_pylist()
    return [(r["key"], tar[r["offset"] : r["offset"] + r["size"]] if r["status"] == "ok" else b"") for r in rows]


if __name__ == "__main__":
    sys.exit(main())
