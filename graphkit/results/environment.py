"""Record where a figure was made: versions, hardware, operating system, commit, command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import graphkit

_PACKAGES = {
    "torch": "torch",
    "pyg": "torch_geometric",
    "ogb": "ogb",
    "lightning-fabric": "lightning-fabric",
    "numpy": "numpy",
    "scikit-learn": "scikit-learn",
}


def package_version(name: str) -> str | None:
    """Return the installed version of a distribution, without importing it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """Return the processor's marketing name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def total_memory_bytes() -> int | None:
    """Return the size of main memory, or None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def usable_cores() -> int:
    """Return the number of cores this process may use, which a container can limit."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        return os.cpu_count() or 1


def git_commit() -> str | None:
    """Return the commit of the checkout graphkit is imported from, ``+dirty`` when changed."""
    root = Path(graphkit.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+dirty" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()


def command_line() -> str:
    """Return the command as a user would type it again, without where its run folder lay."""
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    if program in ("__main__.py", "cli.py"):
        program = "graphkit"
    arguments: list[str] = []
    for word in sys.argv[1:]:
        if arguments and arguments[-1] == "--runs":
            arguments.pop()
        elif not word.startswith("--runs="):
            arguments.append(word)
    return shlex.join([program, *arguments])


def hardware(accelerator: str = "auto") -> dict[str, Any]:
    """Describe the machine: processor, cores, threads, memory, and the GPUs in use."""
    import torch

    gpus = []
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": total_memory_bytes(),
        "gpus": gpus,
    }


def versions() -> dict[str, str | None]:
    """Return the versions of Python, graphkit and what a figure depends on."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "graphkit": graphkit.__version__,
    }
    return found | {label: package_version(name) for label, name in _PACKAGES.items()}


def environment(accelerator: str = "auto") -> dict[str, Any]:
    """Return everything about the place of a run that its figures may depend on."""
    import torch

    return {
        "versions": versions(),
        "hardware": hardware(accelerator),
        "os": platform.platform(),
        "git_commit": git_commit(),
        "ops_backend": _ops_backend(accelerator),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    }


def _ops_backend(accelerator: str) -> str:
    import torch

    from graphkit import ops

    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    return ops.current(torch.device("cuda" if on_gpu else "cpu"))
