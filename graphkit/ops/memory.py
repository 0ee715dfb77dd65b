"""Memory that freed outputs leave behind for the next ones, as a GPU's allocator does."""

from __future__ import annotations

from graphkit.ops import cpu


def kept_bytes() -> int:
    """Bytes of freed CPU outputs that are held for the next output of their size.

    ``GRAPHKIT_KEEP_MB`` limits them (default: a quarter of the memory; 0 keeps nothing).

    Example:
        >>> kept_bytes() >= 0
        True
    """
    return 0 if cpu.kernels is None else int(cpu.kernels.kept_bytes())


def empty_cache() -> None:
    """Return the kept memory to the system, as :func:`torch.cuda.empty_cache` does on a GPU.

    Example:
        >>> empty_cache()
        >>> kept_bytes()
        0
    """
    if cpu.kernels is not None:
        cpu.kernels.drop_blocks()
