import sys

import pytest


@pytest.fixture(autouse=True)
def _no_stand_in_stays():
    """Where torch_scatter is missing, the examples of graphkit.compat install one; not for good."""
    yield
    found = sys.modules.get("torch_scatter")
    if found is not None and found.__name__ != "torch_scatter":
        for name in [m for m in sys.modules if m.split(".")[0] == "torch_scatter"]:
            del sys.modules[name]
