"""The native CPU kernels: find them, share torch's OpenMP runtime with them, check what they get.

``kernels`` is the compiled module, or ``None`` with the reason in ``why_missing``.
"""

from __future__ import annotations

import ctypes
import importlib
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
    kernels = module


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


_HUGE = 8 << 20  # bytes above which page faults cost more than the call that avoids them


def empty(like: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Return an uninitialised tensor of the dtype of ``like``, in huge pages when it is large."""
    out = like.new_empty(shape)
    if kernels is not None and (size := out.numel() * out.element_size()) >= _HUGE:
        kernels.prefer_huge_pages(out.data_ptr(), size)
    return out


def threads() -> int:
    """How many threads torch would use here."""
    return torch.get_num_threads()
