"""Parsed sets go to a folder of this test session, never to the user's cache."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(session_cache, monkeypatch):
    monkeypatch.setenv("GRAPHKIT_CACHE", str(session_cache))


@pytest.fixture
def data_root() -> Path:
    root = os.environ.get("GRAPHKIT_DATA")
    if not root:
        pytest.skip("GRAPHKIT_DATA is not set: real data sets are not at hand")
    return Path(root)
