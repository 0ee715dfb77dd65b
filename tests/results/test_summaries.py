"""Summaries from the command line: a file or a data set in, summaries and a picture out."""

from __future__ import annotations

import math
from pathlib import Path

import networkx
import pytest

from graphkit import cli, data
from graphkit.models import SSumM, SummaryGraph


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    return int(caught.value.code or 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    graph = networkx.relaxed_caveman_graph(12, 8, 0.1, seed=1)
    path = tmp_path / "g.txt"
    path.write_text("".join(f"{3 * u + 5} {3 * v + 5}\n" for u, v in graph.edges), "ascii")
    return path


def test_one_summary_is_told_and_written(file, tmp_path, capsys):
    out = tmp_path / "s.txt"
    assert call("summarize", str(file), "--fraction", "0.4", "--seed", "2", "--out", str(out)) == 0
    head, row, written = capsys.readouterr().out.splitlines()
    assert head.split() == ["budget", "|S|", "|P|", "bits", "size", "RE1", "RE2", "seconds"]
    read = data.read_graph_file(file)
    wanted = SSumM(fraction=0.4, seed=2).fit(read.csr).summary_
    found = SummaryGraph.load(out, own_ids=True).check(read.csr)
    assert found.ids.tolist() == read.ids.tolist()
    assert found.owner.tolist() == wanted.owner.tolist()
    cells = row.split()
    assert (int(cells[1]), int(cells[2])) == (found.num_supernodes, found.num_superedges)
    assert float(cells[4].rstrip("%")) == pytest.approx(100 * found.bits / found.graph_bits, abs=1)
    assert float(cells[5]) == pytest.approx(found.re1, rel=1e-4)
    assert written == str(out)


def test_several_sizes_are_drawn(file, tmp_path, capsys):
    out, picture = tmp_path / "s.npz", tmp_path / "sizes.png"
    command = ["summarize", str(file), "--fractions", "0.2,0.5,0.8", "--out", str(out), "--p", "2"]
    assert call(*command, "--picture", str(picture)) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
    errors = [SummaryGraph.load(tmp_path / f"s_{share}.npz").re2 for share in (0.2, 0.5, 0.8)]
    assert errors[0] > errors[1] > errors[2]
    assert picture.stat().st_size > 5000


def test_a_data_set_and_a_number_of_bits(tmp_path):
    out = tmp_path / "s.safetensors"
    assert call("summarize", "demo-node", "--bits", "900", "--out", str(out)) == 0
    summary = SummaryGraph.load(out)
    assert summary.bits <= 900
    assert summary.graph_bits == pytest.approx(2 * summary.num_edges * math.log2(summary.num_nodes))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo-nod", "--fraction", "0.2"], "did you mean 'demo-node'"),
        (["demo", "--fraction", "0.2"], "not one graph"),
        (["demo-node"], "exactly one"),
        (["demo-node", "--fraction", "0.2", "--bits", "5"], "exactly one"),
        (["nowhere", "--fraction", "0"], "fraction: 0"),
        (["nowhere", "--fraction", "nan"], "fraction: nan"),
        (["nowhere", "--fraction", "0.2", "--p", "3"], "p: 3"),
        (["nowhere", "--fractions", "0.2,x"], "fractions"),
        (["nowhere", "--fractions", "0.2,0.2"], "each once"),
        (["nowhere", "--fraction", "0.2", "--out", "s.csv"], "s.csv"),
        (["nowhere", "--fraction", "0.2", "--picture", "s.gif"], "s.gif"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, capsys):
    assert call("summarize", *arguments) == 2
    assert message in capsys.readouterr().err
