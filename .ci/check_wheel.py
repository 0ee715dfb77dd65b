"""Check that a built wheel holds everything graphkit reads at run time, and nothing it must not."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path

WANTED = (
    r"graphkit/ops/cpu/_cpu\.\S+\.so",
    r"graphkit/py\.typed",
    r"graphkit/results/leaderboard\.html\.j2",
    r"graphkit/_datasets/demo\.yaml",
    r"graphkit/_datasets/demo\.npz",
    r"graphkit/recipes/demo/mpnn_vn\.yaml",
    r"graphkit/ops/triton/\w+\.py",
    r"graphkit-[^/]+\.dist-info/licenses/LICENSE",
    r"graphkit-[^/]+\.dist-info/entry_points\.txt",
)
UNWANTED = (r".*\.(cpp|h|o|pyc)", r"(tests|docs|benchmarks|datasets)/.*", r".*libgomp.*")


def faults(names: list[str], checkout: Path) -> list[str]:
    """Return one line for each thing that is missing or too much."""
    found = [f"missing: {p}" for p in WANTED if not any(re.fullmatch(p, n) for n in names)]
    found += [f"not wanted: {n}" for n in names for p in UNWANTED if re.fullmatch(p, n)]
    travelling = {
        f"graphkit/_datasets/{path.name}"
        for pattern in ("*.yaml", "*.npz")
        for path in (checkout / "datasets").glob(pattern)
    }
    travelling |= {
        path.relative_to(checkout).as_posix()
        for pattern in ("*.py", "*.yaml", "*.j2", "*.json", "*.safetensors")
        for path in (checkout / "graphkit").rglob(pattern)
    }
    return found + [f"missing: {name}" for name in sorted(travelling - set(names))]


def main(wheel: Path, sdist: Path) -> None:
    checkout = Path(__file__).resolve().parent.parent
    with zipfile.ZipFile(wheel) as archive:
        problems = faults(archive.namelist(), checkout)
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    problems += [
        f"missing in {sdist.name}: {name}"
        for name in ("CMakeLists.txt", "datasets/demo.npz", "graphkit/ops/cpu/module.cpp")
        if name not in names
    ]
    if problems:
        sys.exit("\n".join(problems))
    print(f"{wheel.name}: complete ({wheel.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
