"""The kernels compile for GPUs that this machine need not have: Triton brings its own assembler."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

class Absent:  # stands in for the driver of a GPU: enough to compile, not to launch
    def get_current_target(self): return GPUTarget("cuda", 80, 32)
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0
    def get_active_torch_device(self): return torch.device("cpu")

driver.set_active(Absent())
run = JITFunction.run
compiled = []

def compile_only(self, *args, grid, warmup, **kwargs):
    kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
    compiled.append((self.__name__, kernel.asm["ptx"]))

JITFunction.run = compile_only

from graphkit.ops import CSR
from graphkit.ops.triton import pieces
from graphkit.ops.triton.aggregate import aggregate_forward
from graphkit.ops.triton.aggregate_backward import aggregate_backward
from graphkit.ops.triton.attention import attention_forward
from graphkit.ops.triton.attention_backward import attention_backward
from graphkit.ops.triton.gated import gated_backward, gated_forward
from graphkit.ops.triton.sampled_logistic import sampled_logistic
from graphkit.ops.triton.selective_scan import selective_scan_backward, selective_scan_forward

pieces.LIMIT, pieces.PIECE = 8, 4
pair = torch.arange(80).view(2, 40) % 9
pair[:, :15] = 3
csr = CSR.from_edge_index(pair, num_nodes=9)
back = csr.transpose()
structure = (csr.rowptr, csr.col, csr.eid)
both = (*structure, back.rowptr, back.col, back.eid)

def aggregate(message, reduces, x, edge):
    out, *rest = aggregate_forward(x, edge, *structure, message, reduces, True)
    for table in {False, message == "scale"}:
        aggregate_backward(
            out, x, edge, *both, message, reduces, table, out, *rest, True, edge is not None
        )

aggregate("copy", "sum", torch.ones(9, 64), None)
aggregate("add_relu", "sum,mean,min,max,var,std", torch.ones(9, 70), torch.ones(40, 70))
aggregate("scale", "mean,max", torch.ones(9, 12).bfloat16(), torch.ones(40, 4).bfloat16())
aggregate("mul", "std", torch.ones(9, 1).double(), torch.ones(40, 1).double())
x, e = torch.ones(9, 64), torch.ones(40, 64)
out, gates, sums = gated_forward(x, x, x, e, *structure, True, 1e-6, True)
gated_backward(out, gates, x, x, x, gates, *both, True, 1e-6, out, sums)
out, _, sums = gated_forward(x, x, x, None, *structure, True, 1e-6, True)
gated_backward(out, None, x, x, x, None, *both, True, 1e-6, out, sums)

def attend(score, heads, width, edges, dropout, dtype):
    columns = heads if score == "additive" else heads * width
    value, row = torch.ones(9, heads * width, dtype=dtype), torch.ones(40, columns, dtype=dtype)
    dst = row[:9]
    src = value if score == "dot" else row[9:18]
    att = value[0] if score == "gatv2" else None
    edge, bias = (row, row[:, :heads].contiguous()) if edges else (None, None)
    tensors = (value, dst, src, edge, att, bias, torch.tensor([-7]) if dropout else None)
    options = (score, heads, 0.2, 0.5, dropout)
    out, lse = attention_forward(*tensors, *both, *options, True)
    attention_backward(out, out, lse, *tensors, *both, *options, edges, edges, edges)

attend("additive", 8, 8, False, 0.4, torch.float32)
attend("additive", 3, 5, True, 0.0, torch.bfloat16)
attend("gatv2", 4, 16, True, 0.4, torch.float32)
attend("gatv2", 1, 300, False, 0.0, torch.float16)
attend("dot", 4, 16, True, 0.4, torch.float64)

def scan(ptr, dtype, optional):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    u, b, a = torch.ones(70, 20, dtype=dtype), torch.ones(70, 5, dtype=dtype), torch.ones(20, 5)
    rest = [None] * 4
    if optional:
        rest = [a[:, 0].to(wide), u, a[:, 0].to(wide), torch.ones(2, 20, 5, dtype=wide)]
    tensors = (u, u, a.to(wide), b, b, *rest, ptr)
    y, last, starts = selective_scan_forward(*tensors, *[optional] * 4, True)
    given = last if optional else None
    selective_scan_backward(y, given, *tensors, starts, *[optional] * 3)

scan(None, torch.float32, False)
scan(torch.tensor([0, 30, 70]), torch.float32, True)
scan(torch.tensor([0, 30, 70]).int(), torch.bfloat16, True)
scan(torch.tensor([0, 30, 70]), torch.float64, True)

def logistic(dtype, ids, near, shared):
    item, n = torch.ones(30, 20, dtype=dtype), torch.arange(60).view(30, 2).to(ids) % 30
    betas = [item[:9, 0].contiguous(), item[:, 0].contiguous()] if near else [None, None]
    two = (n, torch.ones(30, 2, dtype=dtype)) if near else (None, None)
    sampled_logistic(
        item[:9], item, n[:5, 0], n[:5, 1], n[0] if shared else n[:5], *betas, *two, [1.0] * 7, near
    )

logistic(torch.float32, torch.int64, True, False)
logistic(torch.float64, torch.int32, False, True)
print("\\n".join(f"{name} {'atom.' in ptx or 'red.global' in ptx}" for name, ptx in compiled))
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_kernels_compile_without_atomics(tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=Path(__file__).parents[2],
        env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    seen = [line.split() for line in done.stdout.splitlines()]
    names = {name for name, _ in seen}
    assert {"_forward", "_combine", "_pull", "_table", "_fold", "_moments"} <= names
    assert {"_destinations", "_sources", "_backward"} <= names
    assert {"_attend", "_attend_hubs", "_to_destinations", "_to_sources"} <= names
    assert all(atomics == "False" for _, atomics in seen)
