"""A small link-level data set and model, and a run of both, for the tests of link prediction."""

from types import SimpleNamespace

import torch
from torch import nn

from graphkit.data.evaluation import evaluate_links
from graphkit.data.link_split import link_keys, split_links
from graphkit.data.packed import PackedGraphs
from graphkit.tasks import create_task
from graphkit.train import Trainer

NODES = 60
HITS = SimpleNamespace(name="none", level="link", metric="hits@20")


class Crash(Exception):
    """Ends a run without any clean-up."""


class Small(nn.Module):
    """One layer over the graph and an inner product."""

    def __init__(self, seed=0, crash_at=-1):
        super().__init__()
        torch.manual_seed(seed)
        self.config = {}
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2))
        self.predictor = nn.Linear(8, 1)
        self.crash_at, self.calls, self.graphs = crash_at, 0, []

    def encode(self, x, adj):
        if self.training:
            self.calls += 1
            self.graphs.append(link_keys(torch.stack([adj.row().long(), adj.col.long()]), NODES))
            if self.calls == self.crash_at:
                raise Crash
        h = self.encoder(x)
        return h.index_add(0, adj.row().long(), h[adj.col.long()])

    def score(self, h, adj, pairs):
        return self.predictor(h[pairs[0]] * h[pairs[1]])


class TinyLinks:
    """A dense random graph with the attributes of a link-level data set."""

    level, task_type, num_tasks, metric, maximize = "link", "link", 1, "hits@20", True
    name, sha256, card = "tiny-link", "0" * 64, HITS

    def __init__(self, seed=0):
        keys = torch.randperm(NODES * NODES, generator=torch.Generator().manual_seed(seed))
        ends = torch.stack([keys // NODES, keys % NODES])
        ends = ends[:, ends[0] < ends[1]][:, :600]
        self.links = split_links(ends, NODES, "70/10/20", seed)
        x = torch.randn(NODES, 4, generator=torch.Generator().manual_seed(seed))
        train = self.links["train/edge"]
        both = torch.cat([train, train.flip(0)], dim=1)
        ptr = torch.tensor([0, NODES]), torch.tensor([0, both.size(1)])
        self.graphs = PackedGraphs(*ptr, both, node={"x": x})

    @property
    def splits(self):
        return {part: self.positive_links(part).t().contiguous() for part in ("train", "valid")}

    def positive_links(self, part):
        return self.links[f"{part}/edge"]

    def evaluate_links(self, positive, negative, metrics=None):
        return evaluate_links(self.card, positive, negative, metrics)


def fit(folder=None, crash_at=-1, dataset=None, **settings):
    model = Small(crash_at=crash_at)
    groups = {"encoder": {"lr": 0.01}, "predictor": {"lr": 0.002}}
    arguments = {
        "max_epochs": 4,
        "batch_size": 100,
        "optimizer": {"name": "Adam", "lr": 0.01, "groups": groups},
        "progress": False,
        "checkpoint_seconds": 0,
        "accelerator": "cpu",
        **settings,
    }
    task = create_task(dataset or TinyLinks())
    return Trainer(run_dir=folder, **arguments).fit(model, task), model, task
