"""The examples in docstrings run and give what they show."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil
from pathlib import Path

import pytest
import torch

import graphkit

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(graphkit.__path__, "graphkit.")
    if not module.name.endswith("._cpu")
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.startswith("graphkit.ops.triton") and importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GRAPHKIT_DATA", raising=False)
    torch.manual_seed(0)
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples failed, see above"
