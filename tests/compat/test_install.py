"""install() in processes of their own, with and without the real package."""

import subprocess
import sys
import textwrap

import pytest

BLOCK = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch_scatter":
            raise {error}
        return None

sys.meta_path.insert(0, Blocked())
"""


def run(code, error="ImportError('blocked')"):
    before = BLOCK.format(error=error) if error else ""
    script = before + "import torch\ntorch.set_num_threads(1)\n" + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("error", ["ImportError('blocked')", "OSError('undefined symbol')"])
def test_a_missing_or_broken_package_is_replaced(error):
    run(
        """
        from graphkit import compat
        assert compat.install() is compat.torch_scatter is compat.install()
        assert "torch_geometric" not in sys.modules  # PyG can still be imported after it
        import torch_scatter
        import torch_scatter.composite
        import torch_scatter.utils
        from torch_scatter import scatter, segment_csr
        from torch_scatter.composite import scatter_softmax
        from torch_scatter.segment_csr import gather_csr
        from torch_scatter.scatter import scatter_max
        from torch_scatter.utils import broadcast
        assert torch_scatter is compat.torch_scatter and torch_scatter.scatter is scatter
        assert torch_scatter.composite.scatter_softmax is scatter_softmax
        x, index = torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])
        torch.testing.assert_close(scatter(x, index, dim=0)[0], x[0] + x[2])
        torch.testing.assert_close(segment_csr(x, torch.tensor([0, 2, 5]))[0], x[0] + x[1])

        from graphkit import ops
        assert "stands in" in ops.available()["torch_scatter"]
        try:
            with ops.backend("torch_scatter"):
                pass
        except ValueError:
            pass
        else:
            raise AssertionError("a backend made of itself")
        """,
        error,
    )


CODE_OF_A_USER = """
import torch_geometric.typing
from torch_geometric.nn import GATConv, MessagePassing, global_max_pool
from torch_geometric.utils import scatter as pyg_scatter, segment as pyg_segment, softmax
from torch_scatter import scatter

assert torch_geometric.typing.WITH_TORCH_SCATTER is True

class Layer(MessagePassing):
    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=x)
    def message(self, x_j):
        return x_j
    def aggregate(self, inputs, index, dim_size=None):
        return scatter(inputs, index, dim=self.node_dim, dim_size=dim_size, reduce="max")

torch.manual_seed(0)
x = torch.randn(8, 4, requires_grad=True)
edges = torch.randint(0, 8, (2, 30))
out = GATConv(4, 4)(Layer()(x, edges), edges)
batch = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
out = global_max_pool(out, batch)
ranges = torch.tensor([0, 2, 3])
least = pyg_scatter(out, torch.tensor([0, 1, 1]), reduce="min")
out = pyg_segment(out, ranges, reduce="max") + least
out.sum().backward()
for number in (*out.flatten().tolist(), *x.grad.flatten().tolist()):
    print(f"{number:.4f}")
"""


def test_code_of_pyg_users_gives_the_numbers_of_the_package():
    install = "from graphkit import compat\ncompat.install()\n"
    first = run(install + CODE_OF_A_USER)
    assert len(first.splitlines()) == 40
    pytest.importorskip("torch_scatter")
    assert run(CODE_OF_A_USER, error=None) == first


def test_a_package_that_works_stays_unless_forced():
    pytest.importorskip("torch_scatter")
    run(
        """
        from graphkit import compat, ops
        real = compat.install()
        import torch_scatter, torch_scatter.composite
        assert torch_scatter is real is not compat.torch_scatter
        assert ops.available()["torch_scatter"] is None
        assert compat.install(force=True) is compat.torch_scatter
        import torch_scatter
        from torch_scatter.composite import scatter_std
        assert torch_scatter is compat.torch_scatter
        assert scatter_std is compat.torch_scatter.scatter_std
        assert compat.install() is compat.torch_scatter
        assert "stands in" in ops.available()["torch_scatter"]
        """,
        error=None,
    )
