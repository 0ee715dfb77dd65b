"""SSumM on the graphs of its publication, where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from graphkit import data
from graphkit.models import SSumM, SummaryGraph
from graphkit.ops import CSR, aggregate

pytestmark = pytest.mark.usefixtures("one_thread")


def held(name: str) -> Path:
    root = os.environ.get("GRAPHKIT_DATA")
    if not root:
        pytest.skip("GRAPHKIT_DATA is not set: real graphs are not at hand")
    file = Path(root) / "summarisation" / name
    if not file.is_file():
        pytest.skip(f"{file}: not at hand")
    return file


@pytest.fixture(scope="module")
def facebook() -> CSR:
    csr = data.read_graph_file(held("ego_facebook.txt")).csr
    assert (csr.num_rows, csr.num_entries) == (4039, 2 * 88234)
    return csr


def pagerank(csr: CSR) -> np.ndarray:
    rank = torch.full((csr.num_rows, 1), 1 / csr.num_rows, dtype=torch.float64)
    degree = csr.degree[:, None].double()
    for _ in range(200):
        rank = 0.85 * aggregate(csr, rank / degree) + 0.15 / csr.num_rows
    return rank[:, 0].numpy()


def test_the_published_summary_has_its_published_figures(facebook, tmp_path):
    file = held("summary_ego_facebook.txt")
    s = SummaryGraph.load(file).check(facebook)  # all weights are the true counts
    loops = int((s.super_index[0] == s.super_index[1]).sum())
    assert (s.num_supernodes, s.num_superedges, loops) == (1804, 12401, 375)
    assert s.largest_weight == 445
    assert (int(s.sizes.max()), int((s.sizes == 1).sum())) == (23, 751)
    assert s.num_edges - int(s.weight.sum()) == 17647
    assert s.bits == pytest.approx(421072.43, abs=5e-3)
    assert s.graph_bits == pytest.approx(2114048.25, abs=5e-3)
    assert s.bits / s.graph_bits == pytest.approx(0.19918, abs=5e-6)
    assert s.absolute_error == pytest.approx(91298.198, abs=5e-4)
    assert s.squared_error == pytest.approx(63296.099, abs=5e-4)
    assert s.re1 == pytest.approx(5.5979e-3, abs=5e-8)
    assert s.re2 == pytest.approx(1.54258e-5, abs=5e-11)
    degree = facebook.degree.double().numpy()
    expected = s.expected_degree().numpy()
    assert np.abs(degree - expected).mean() == pytest.approx(9.99, abs=6e-3)  # it is 9.985
    assert spearmanr(degree, expected).statistic == pytest.approx(0.961, abs=5e-4)
    true, found = pagerank(facebook), s.pagerank().numpy()
    assert np.abs(true - found).sum() == pytest.approx(0.173, abs=5e-4)
    assert spearmanr(true, found).statistic == pytest.approx(0.929, abs=5e-4)
    s.save(tmp_path / "s.txt")
    again = SummaryGraph.load(tmp_path / "s.txt")
    for name in ("owner", "super_index", "weight"):
        assert torch.equal(getattr(again, name), getattr(s, name))


# Runs of the published code: size in percent, RE1 for p = 1 and RE2 for p = 2.
PUBLISHED = {
    1: [(9.880, 6.810e-3), (19.932, 5.469e-3), (29.269, 4.682e-3), (39.941, 3.835e-3),
        (49.831, 3.190e-3), (58.110, 2.787e-3)],
    2: [(9.927, 1.663e-5), (19.840, 1.522e-5), (29.617, 1.440e-5), (39.715, 1.309e-5),
        (49.842, 1.257e-5), (59.258, 1.197e-5)],
}  # fmt: skip


@pytest.mark.parametrize("p", [1, 2])
def test_errors_are_not_above_those_of_the_published_code(facebook, p):
    size, error = np.array(PUBLISHED[p]).T
    for row, fraction in enumerate((0.1, 0.2, 0.3, 0.4, 0.5, 0.6)):
        s = SSumM(fraction=fraction, p=p).fit(facebook).summary_
        share = s.bits / s.graph_bits
        assert 0.98 * fraction < share <= fraction
        # A run of the published code misses its budget by up to two points: brought to equal size.
        slope = np.gradient(error, size)[row]
        wanted = error[row] + slope * (100 * share - size[row])
        assert (s.re1 if p == 1 else s.re2) <= wanted, (fraction, share)


def test_products_with_a_summary_are_cheap_and_exact(facebook):
    s = SSumM(fraction=0.2).fit(facebook).summary_
    assert s.re1 <= 5.6e-3
    assert 3 * s.multiplications() <= facebook.num_entries
    edge_index, weight = s.reconstruct()
    dense = torch.zeros(s.num_nodes, s.num_nodes, dtype=torch.float64)
    dense[edge_index[0], edge_index[1]] = weight
    x = torch.randn(s.num_nodes, 4, dtype=torch.float64)
    torch.testing.assert_close(s.matvec(x), dense @ x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(s.matvec(x.float()).double(), dense @ x, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "nodes", "edges"),
    [("as-caida20071105", 26475, 53381), ("email-Enron", 36692, 183831)],
)
def test_budgets_that_merging_does_not_reach_are_kept(name, nodes, edges):
    csr = data.read_graph_file(held(f"snap/{name}.txt.gz")).csr
    assert (csr.num_rows, csr.num_entries) == (nodes, 2 * edges)
    model = SSumM(fraction=0.2, p=1).fit(csr)
    s = model.summary_.check(csr)
    assert len(model.log_) == 20
    assert model.log_[-1].bits > 0.2 * s.graph_bits  # superedges had to be dropped
    assert 0.199 * s.graph_bits < s.bits <= 0.2 * s.graph_bits
    assert s.re1 <= {"as-caida20071105": 1.0701e-4, "email-Enron": 2.1127e-4}[name]
