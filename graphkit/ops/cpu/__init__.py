"""The native CPU kernels: find them, share torch's OpenMP runtime with them, check what they get.

``kernels`` is the compiled module, or ``None`` with the reason in ``why_missing``.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import os
from types import ModuleType

import torch
from torch import Tensor

from graphkit.errors import InputError

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}

kernels: ModuleType | None = None
why_missing: str | None = None


def _share_openmp() -> None:
    """Make the OpenMP runtime that torch has loaded visible to the kernels.

    The kernels are compiled for OpenMP but linked to no runtime: with a second one in the process
    there would be two pools of threads, and ``torch.set_num_threads`` would reach only one.
    """
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            loaded = {line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line}
    except OSError:
        return  # no procfs: torch loads its runtime globally, which is what is wanted
    for path in sorted(loaded):
        name = os.path.basename(path)
        if name.startswith(("libgomp", "libiomp5", "libomp")):
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
            return
    # torch was built without OpenMP; a runtime of the system's serves as well.
    for name in ("libgomp.so.1", "libomp.so.5"):
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return


def _load() -> None:
    global kernels, why_missing
    _share_openmp()
    try:
        module = importlib.import_module("graphkit.ops.cpu._cpu")
    except ImportError as error:
        why_missing = (
            f"the compiled module is not there or does not load ({error}); "
            "install a C++17 compiler and reinstall graphkit to get it"
        )
        return
    wanted = os.environ.get("GRAPHKIT_ISA")
    if wanted:
        module.use_isa(wanted)
    module.set_kept_limit(_limit_of_kept_memory())
    kernels = module


def _limit_of_kept_memory() -> int:
    """Bytes of freed outputs to hold on to: GRAPHKIT_KEEP_MB, or a quarter of the memory.

    Above zero malloc, too, keeps what a step frees (up to 512 MB) for the next step.
    """
    asked = os.environ.get("GRAPHKIT_KEEP_MB", "")
    if asked.isdecimal():
        return int(asked) << 20
    total = 0  # keep nothing where the memory's size cannot be told
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            total = min(total, int(file.read()))
    except (OSError, ValueError):  # another system, or a container without a limit ("max")
        pass
    return total // 4


_load()


def address(tensor: Tensor | None) -> int:
    """Where a tensor's data begin; 0 stands for no tensor."""
    return 0 if tensor is None else tensor.data_ptr()


def rows(tensor: Tensor) -> tuple[Tensor, int]:
    """Return the tensor with contiguous rows, and the distance between rows in elements."""
    if tensor.dim() == 2 and tensor.stride(1) == 1 and tensor.stride(0) >= tensor.size(1):
        return tensor, tensor.stride(0)
    tensor = tensor.contiguous()
    return tensor, tensor.size(-1)


_INDEX = (torch.int32, torch.int64)


def _seen(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {list(tensor.shape)}, strides {list(tensor.stride())}"


def graph(
    rowptr: Tensor,
    col: Tensor | None,
    eid: Tensor | None,
    num_cols: int,
    num_edge_rows: int,
    num_rows: int | None = None,
) -> tuple[int, int, int, int, int, int, int, int]:
    """Describe a CSR to the kernels: index width, sizes and addresses.

    The kernels check every value they use, but they must be able to trust lengths and layouts.
    """
    entries = col.numel() if col is not None else num_cols
    if rowptr.dtype not in _INDEX or not rowptr.is_contiguous() or not rowptr.numel():
        raise InputError(f"rowptr: {_seen(rowptr)}, wanted contiguous [N + 1] int32 or int64")
    if num_rows is not None and rowptr.numel() != num_rows + 1:
        raise InputError(f"rowptr: {_seen(rowptr)}, wanted [{num_rows + 1}]")
    for name, index in (("col", col), ("eid", eid)):
        if index is not None and (
            index.dtype != rowptr.dtype or index.numel() != entries or not index.is_contiguous()
        ):
            raise InputError(
                f"{name}: {_seen(index)}, wanted contiguous [{entries}] {rowptr.dtype}"
            )
    return (
        rowptr.element_size() * 8,
        rowptr.numel() - 1,
        num_cols,
        entries,
        num_edge_rows,
        rowptr.data_ptr(),
        address(col),
        address(eid),
    )


LARGE = 8 << 20  # bytes from which first touches cost more than keeping the memory does


def empty(like: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Return an uninitialised tensor of the dtype of ``like``; a large one in memory that is kept.

    Large outputs live on huge pages and are reused by the next output of their size, as on a GPU:
    in a training loop their first touch would take longer than the kernel that fills them.
    """
    if kernels is not None:
        size = math.prod(shape) * like.element_size()
        if size >= LARGE:
            block = kernels.large_block(size)
            strides = torch.empty(shape, device="meta").stride()
            # By `set_`: autograd refuses in-place changes of views that a function returned.
            return like.new_empty(0).set_(block.untyped_storage(), 0, shape, strides)
    return like.new_empty(shape)


def threads() -> int:
    """How many threads torch would use here."""
    return torch.get_num_threads()
