"""A tiny data set and config: the whole DAG in seconds, on data written in the published formats."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["tests.servers.fixtures"]

# A shell's background job ignores Ctrl-C, and so would all that the tests start and then stop by it.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = """
[settings]
store = "file://{store}"
decoders = 2
retries = 0

[datasets.people]
format = "salicon"
path = "{data}/salicon"
generate = {{ images = 24, seed = 1, observers = 4, size = [64, 48] }}

[datasets.scenes]
format = "imagenet"
path = "{data}/imagenet"
generate = {{ train_per_class = 8, val_per_class = 2, seed = 2, size = [64, 48] }}

[datasets.scenes_val]
format = "imagenet"
split = "val"
path = "{data}/imagenet"
generate = {{ train_per_class = 8, val_per_class = 2, seed = 2, size = [64, 48] }}

[datasets.viewers]
format = "osie"
path = "{data}/osie"
generate = {{ images = 8, seed = 3, observers = 4, size = [64, 48] }}

[teacher]
datasets.attention = "people"
size = 32
width = 4
epochs = 2
batch_size = 8
threads = 1

[saliency]
datasets.images = "scenes"
size = 32

[fixations]

[student]
datasets.images = "scenes"
arch = "resnet18"
width = 4
stem = "small"
size = 32
epochs = 2
batch_size = 16
optimizer = "adamw"
learning_rate = 3e-3

[student.baseline]
attention.gradient = "readout"

[student.permuted]
labels = "permuted"

[evaluation]
datasets.images = "scenes_val"
datasets.attention = "viewers"
splits = 5
refit_images = 10
threads = 1
"""

WriteConfig = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see only the settings they make themselves."""
    import os

    for name in [n for n in os.environ if n.startswith(("GAZEFLOW_", "PREFECT_", "AWS_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data sets, generated once; tests that change them copy them first."""
    from storage.datasets.procedural import generate

    data = tmp_path_factory.mktemp("tiny")
    generate("salicon", data / "salicon", {"images": 24, "seed": 1, "observers": 4, "size": [64, 48]})
    generate("imagenet", data / "imagenet", {"train_per_class": 8, "val_per_class": 2, "seed": 2, "size": [64, 48]})
    generate("osie", data / "osie", {"images": 8, "seed": 3, "observers": 4, "size": [64, 48]})
    return data


@pytest.fixture(scope="session")
def write_tiny(tiny_data: Path) -> WriteConfig:
    """Write the tiny config to a folder, its store beside it; returns the file."""

    def write(folder: Path, store: str | None = None, extra: str = "") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "tiny.toml"
        file.write_text(TINY.format(store=store or folder / "store", data=tiny_data) + extra)
        return file

    return write
