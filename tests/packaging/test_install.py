"""The package builds, ships its data, and installs without a C++ compiler."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD_TOOLS = ("scikit_build_core", "nanobind")


def run(*command: str | Path, **settings: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=280, **settings
    )  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def wheel_without_compiler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = [name for name in BUILD_TOOLS if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the build tools {missing} are not installed; `make test` brings them")
    if not (ROOT / "CMakeLists.txt").is_file():
        pytest.skip("no source checkout around the tests")
    folder = tmp_path_factory.mktemp("wheel")
    tools = Path(sys.executable).parent
    # Neither a compiler of that name nor one on the path: cmake and ninja come with the venv.
    chosen = ("CC", "CXX", "CMAKE", "GRAPHKIT_ISAS")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(chosen)},
        "CC": "/nonexistent/cc",
        "CXX": "/nonexistent/c++",
        "PATH": str(tools),
    }
    run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index",
        "--no-build-isolation", "--wheel-dir", folder, "--config-settings",
        f"build-dir={folder / 'build'}", ROOT, env=environment,
    )  # fmt: skip
    (wheel,) = folder.glob("graphkit-*.whl")
    return wheel


@pytest.mark.slow
def test_without_a_compiler_it_installs_and_runs_on_plain_torch(
    wheel_without_compiler: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel_without_compiler) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
    site = tmp_path / "site"
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
        "--target", site, wheel_without_compiler,
    )  # fmt: skip
    # -S would lose the environment's packages; the finder of an editable install goes instead.
    script = (
        "import sys\n"
        f"sys.path.insert(0, {str(site)!r})\n"
        "sys.meta_path = [f for f in sys.meta_path if 'Redirecting' not in type(f).__name__]\n"
        "import graphkit\n"
        f"assert graphkit.__file__.startswith({str(site)!r}), graphkit.__file__\n"
        "from graphkit.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    environment = {**os.environ, "GRAPHKIT_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    doctor = run(sys.executable, "-c", script, "doctor", cwd=tmp_path, env=environment).stdout
    assert re.search(
        r"native +the compiled module is not there.*install a C\+\+17 compiler", doctor
    )
    assert "ready" in doctor
    run(
        sys.executable, "-c", script, "run", "demo/gcn", "trainer.max_epochs=1", "--seeds", "1",
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert (tmp_path / "runs" / "demo" / "gcn" / "result.json").is_file()


@pytest.mark.slow
def test_the_wheel_ships_every_card_recipe_and_embedded_set(wheel_without_compiler: Path) -> None:
    with zipfile.ZipFile(wheel_without_compiler) as archive:
        names = set(archive.namelist())
    wanted = {f"graphkit/_datasets/{p.name}" for p in (ROOT / "datasets").glob("*.yaml")}
    wanted |= {f"graphkit/_datasets/{p.name}" for p in (ROOT / "datasets").glob("*.npz")}
    for pattern in ("*.py", "*.yaml", "*.j2", "py.typed"):
        wanted |= {p.relative_to(ROOT).as_posix() for p in (ROOT / "graphkit").rglob(pattern)}
    assert wanted - names == set()
    assert not [n for n in names if n.startswith(("tests/", "docs/")) or n.endswith((".cpp", ".h"))]


@pytest.mark.slow
def test_a_package_serves_every_machine_whatever_the_checkout_was_built_for(
    wheel_without_compiler: Path,
) -> None:
    cache = (wheel_without_compiler.parent / "build" / "CMakeCache.txt").read_text("utf-8")
    # Said by the build itself: a default would give way to what the cache already holds.
    assert re.search(r"^GRAPHKIT_ISAS:\w+=all$", cache, re.MULTILINE)


def test_the_native_module_brings_no_openmp_runtime() -> None:
    """A second runtime beside torch's would be a second pool of threads on the same cores."""
    from graphkit.ops import cpu

    if cpu.kernels is None:
        pytest.skip(f"native CPU kernels: {cpu.why_missing}")
    content = Path(str(cpu.kernels.__file__)).read_bytes()
    assert not re.search(rb"lib(gomp|iomp5|omp)[.\-\w]*\.so", content)


def test_syntax_is_that_of_the_oldest_python_allowed() -> None:
    for path in (ROOT / "graphkit").rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 10))


def test_constraints_pin_every_direct_dependency_inside_its_range() -> None:
    from packaging.requirements import Requirement

    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pins: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            assert len(pin.specifier) == 1, line
            assert next(iter(pin.specifier)).operator == "==", line
            pins.setdefault(pin.name.lower().replace("_", "-"), []).append(pin)
    text = re.findall(r'"([a-zA-Z][\w-]*(?:[><=!][^";]*)?)(?:;[^"]*)?"', pyproject)
    direct = [Requirement(t) for t in text if re.search(r"[><=!]", t) or t == "types-PyYAML"]
    assert len(direct) > 20
    for requirement in direct:
        name = requirement.name.lower()
        assert name in pins, f"{name} is not in constraints.txt"
        for pin in pins[name]:
            version = next(iter(pin.specifier)).version
            assert requirement.specifier.contains(version), f"{pin}: outside {requirement}"
