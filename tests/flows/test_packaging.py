"""The wheel, installed elsewhere, runs from a folder whose files are named like ours."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHERE = "import flows, tasks, models, storage; print(*{m.__file__ for m in (flows, tasks, models, storage)}, sep='\\n')"


def run(*words: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, outside: dict[str, str]) -> Path:
    """The scripts folder of an environment with the wheel, and with this one's packages beside it."""
    folder = tmp_path_factory.mktemp("wheel")
    built = run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
        "--wheel-dir", str(folder), str(_copy_of_sources(folder)), cwd=folder, env=outside,
    )  # fmt: skip
    if built.returncode and "No module named 'setuptools" in built.stderr + built.stdout:
        pytest.skip("building a wheel needs setuptools in this environment")
    if built.returncode and "Cannot import 'setuptools.build_meta'" in built.stderr + built.stdout:
        pytest.skip("building a wheel needs setuptools in this environment")
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("gazeflow-*.whl")
    venv.create(folder / "env", with_pip=False)
    scripts = folder / "env" / "bin"
    target = Path(run(str(scripts / "python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))",
                      cwd=folder, env=outside).stdout.strip())  # fmt: skip
    put = run(
        sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "--quiet", "--no-deps",
        "--no-index", str(wheel), cwd=folder, env=outside,
    )  # fmt: skip
    assert put.returncode == 0, put.stderr
    # a plain path: this environment's packages come after the wheel, its own .pth files are not read
    (target / "zz_test_environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


def _copy_of_sources(folder: Path) -> Path:
    """What a clean clone has of the packages: building leaves nothing in the working tree."""
    import shutil

    source = folder / "source"
    for name in ("flows", "tasks", "models", "storage"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    return source


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with files that would be imported in the place of ours, were the folder on the path."""
    for name in ("flows", "tasks", "storage"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('hostile package')")
    for name in ("models.py", "json.py", "torch.py"):
        (tmp_path / name).write_text("raise SystemExit('hostile module')")
    return tmp_path


def test_our_modules_are_the_wheels(installed: Path, hostile: Path, outside: dict[str, str]) -> None:
    found = run(str(installed / "python"), "-P", "-c", WHERE, cwd=hostile, env=outside)
    assert found.returncode == 0, found.stderr
    files = [Path(line) for line in found.stdout.split()]
    assert len(files) == 4
    assert all(installed.parent in f.parents for f in files), files


def test_help_and_plan_run_from_a_hostile_folder(
    installed: Path, hostile: Path, outside: dict[str, str], tiny_data: Path
) -> None:
    told = run(str(installed / "gazeflow"), "--help", cwd=hostile, env=outside)
    assert told.returncode == 0, told.stderr
    assert "teacher" in told.stdout
    paths = {"people": "salicon", "scenes": "imagenet", "scenes_val": "imagenet", "viewers": "osie"}
    small = "images = 4, seed = 1, observers = 2, size = [64, 48]"
    imagenet = "train_per_class = 1, val_per_class = 1, seed = 1, size = [64, 48]"
    sets = [f"datasets.{n}.generate={{{imagenet if p == 'imagenet' else small}}}" for n, p in paths.items()]
    plan = run(
        str(installed / "gazeflow"), "plan", "demo.toml", *(w for s in sets for w in ("--set", s)), cwd=hostile,
        env=outside,
    )  # fmt: skip
    assert plan.returncode == 0, plan.stderr
    assert "student.permuted" in plan.stdout
    assert "hostile" not in plan.stdout + plan.stderr


def test_a_child_of_the_wheel_starts_in_a_hostile_folder(
    installed: Path, hostile: Path, outside: dict[str, str]
) -> None:
    """As `tasks._process` starts it: with our path, never the current folder's."""
    code = (
        "import threading\n"
        "from tasks._process import Child\n"
        "with Child(threading.Event()) as child:\n"
        "    child._start(); child._process.stdin.close(); print(child._process.wait(60))"
    )
    found = run(str(installed / "python"), "-P", "-c", code, cwd=hostile, env=outside)
    assert found.stdout.strip() == "1", found.stderr
    assert "hostile" not in found.stderr


def test_the_wheel_holds_presets_and_templates_and_no_tests(installed: Path) -> None:
    import zipfile

    (wheel,) = installed.parent.parent.glob("gazeflow-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"flows/configs/demo.toml", "flows/configs/trial.toml", "tasks/_report/report.html"} <= names
    assert not [n for n in names if n.startswith(("tests/", "docker/"))]
    missing = [
        str(p.relative_to(ROOT)) for layer in ("flows", "tasks", "models", "storage")
        for p in (ROOT / layer).rglob("*.py") if str(p.relative_to(ROOT)) not in names
    ]  # fmt: skip
    assert not missing
