"""Read dictionaries of NumPy arrays from ``torch.save`` files as data: nothing in them is looked up
or called.

OGB publishes its link splits in this form (pickle protocol 4), which torch's weights-only reader
does not take. The stream is decoded instruction by instruction by :mod:`pickletools`, which only
parses; the few instructions that arrays and plain containers need are carried out here, and any
other one refuses the file.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from graphkit.errors import CorruptFileError

_DTYPE = re.compile(r"[iufb][1248]")
_NAMES = {
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
}
_VALUES = frozenset(
    [
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
    ]
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MARK = object()
# torch.save without zip writes its magic number, a version and system facts before the content.
_LEGACY_PREFIX = 3


class _Name(str):
    """A global that the stream names; never resolved."""


class _DType:
    def __init__(self, code: str) -> None:
        if not _DTYPE.fullmatch(code):
            raise ValueError(f"arrays of dtype {code!r} are not read")
        self.value = np.dtype(code)


class _Array:
    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _DType) or not isinstance(content, bytes):
            raise ValueError("an array without plain numbers")
        flat = np.frombuffer(content, dtype=dtype.value)
        self.value = flat.reshape(shape, order="F" if fortran else "C").copy()


def _call(function: Any, arguments: Any) -> Any:
    if function == "array":
        return _Array()
    if function == "dtype":
        return _DType(str(arguments[0]))
    if function == "encode":
        return str(arguments[0]).encode("latin1")
    raise ValueError(f"a call of {function!r}")


def _build(target: Any, state: Any) -> None:
    if isinstance(target, _Array):
        target.build(state)
    elif isinstance(target, _DType):
        target.value = target.value.newbyteorder(state[1])
    else:
        raise ValueError(f"a state for {type(target).__name__}")


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _resolve(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _resolve(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_resolve(item) for item in value)
    if isinstance(value, (_Name, _DType)):
        raise ValueError(f"a bare {type(value).__name__}")
    return value


def _decode(stream: IO[bytes]) -> Any:
    """Carry out one pickle stream on a stack of plain values."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for code, argument, _ in pickletools.genops(stream):
        name = code.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(_pop_to_mark(stack)))
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else _pop_to_mark(stack)
            stack[-1].update(zip(items[0::2], items[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            stack_items = [stack.pop()] if name == "APPEND" else _pop_to_mark(stack)
            stack[-1].extend(stack_items)
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if name == "MEMOIZE" else int(argument or 0)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument or 0)])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                argument = " ".join([str(stack.pop(-2)), str(stack.pop())])
            if argument not in _NAMES:
                raise ValueError(f"the name {argument!r}")
            stack.append(_Name(_NAMES[argument]))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_call(stack.pop(), arguments))
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        elif name == "STOP":
            return _resolve(stack.pop())
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"the instruction {name}")
    raise ValueError("no end")


def read_array_pickle(path: Path) -> Any:
    """Return the arrays and plain containers in a ``torch.save`` file, zipped or of the older form.

    Raises:
        CorruptFileError: the file is damaged or holds anything else.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                inner = [name for name in archive.namelist() if name.endswith("/data.pkl")]
                return _decode(io.BytesIO(archive.read(inner[0])))
        with open(path, "rb") as stream:
            for _ in range(_LEGACY_PREFIX):
                _decode(stream)
            return _decode(stream)
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        raise CorruptFileError(
            f"{path}: holds something else than arrays in plain containers, or is damaged ({error})"
        ) from error
