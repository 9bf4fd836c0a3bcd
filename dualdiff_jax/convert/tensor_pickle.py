"""Interprets the pickles inside torch's files, without Python's unpickler.

A pickle is a program for a stack machine. In torch's files it builds dicts, lists and tuples of plain values, and a
tensor is a call

    torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks)
    torch._utils._rebuild_tensor_v3(storage, offset, shape, stride, requires_grad, hooks, dtype, metadata)

where a storage is a persistent id ("storage", torch.FloatStorage, KEY, device, count, ...). This module knows the
instructions for that and no others: there is no function that a pickle could call, no attribute that it could set,
and no memory that it could claim beyond its own length.
"""

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from dualdiff_jax.errors import UserError, quoted

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
DTYPES = {  # by torch's names; a tensor names its dtype where its storage has none
    **{name: np.dtype(name) for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8")},
    "bfloat16": ml_dtypes.bfloat16,
    "bool": np.bool_,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
}
MOST_DIMS = 16  # of a tensor
LARGEST = 64 << 20  # bytes of a pickle; it holds names and shapes, no numbers of tensors


class CodeFound(Exception):
    """A pickle names something other than tensors; the message is that name."""


class Storage(NamedTuple):
    """Where a tensor's numbers are. ``dtype`` is None where the tensor names it."""

    dtype: np.dtype | None
    key: str


class StorageView(NamedTuple):
    """A tensor as a view of a storage in the file. ``offset`` and ``stride`` count numbers, not bytes."""

    dtype: np.dtype
    key: str  # of the storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def span(self) -> int:
        """How many numbers lie from the first to the last, both included."""
        return 0 if 0 in self.shape else 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))


class _Name(NamedTuple):
    """What a pickle looks up by module and name."""

    module: str
    name: str


PLAIN = {
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT"),
    *("BINFLOAT", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING"),
    *("SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
CALLS = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
MARK = object()


def read_pickle(file: BinaryIO) -> Any:
    """Reads one pickle and leaves ``file`` behind its end.

    Args:
        file: open at the beginning of a pickle.

    Returns:
        What the pickle holds, with a ``StorageView`` for each tensor.

    Raises:
        CodeFound: it names or calls something other than tensors.
        UserError: a tensor has a dtype that is not known.
        Exception: of many types; the pickle is damaged.
    """
    machine = _Machine()
    for instruction, argument, position in pickletools.genops(file):
        if (position or 0) > LARGEST:
            raise ValueError(f"its pickle has more than {LARGEST} bytes")
        machine.run(instruction.name, argument)
    (result,) = machine.stack
    return result


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self):
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """Executes one instruction."""
        if name in PLAIN:
            self.stack.append(CONSTANTS.get(name, argument))
        elif name in TUPLES:
            count = TUPLES[name]
            self._replace(count, tuple(self.stack[len(self.stack) - count :]))
        elif name in CALLS:
            raise CodeFound(str(argument or "a class"))
        elif name in INSTRUCTIONS:
            INSTRUCTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"its pickle has the instruction {name}")

    def _replace(self, count: int, value: Any) -> None:
        """Puts ``value`` in place of the last ``count`` values."""
        if count > len(self.stack):
            raise ValueError("its pickle takes more from the stack than there is")
        del self.stack[len(self.stack) - count :]
        self.stack.append(value)

    def _since_mark(self) -> list[Any]:
        """Takes all values behind the last mark, and the mark."""
        at = next(index for index in range(len(self.stack) - 1, -1, -1) if self.stack[index] is MARK)
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def _put(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self.stack[-1]

    def _append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError("its pickle appends to what is no list")
        target += values

    def _set(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise ValueError("its pickle adds an entry to what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if key is not None and not isinstance(key, str | bytes | int | float):
                raise ValueError(f"a key is a {type(key).__name__}")
            target[key] = value

    def _dict(self, values: list[Any]) -> None:
        self.stack.append({})
        self._set(values)

    def _look_up(self, module: str, name: str) -> None:
        known = ("torch", "torch.storage", "torch._utils", "collections")
        if module not in known or (module, name) not in FUNCTIONS and _kind(module, name) is None:
            raise CodeFound(f"{module}.{name}")
        self.stack.append(_Name(module, name))

    def _look_up_from_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._look_up(str(module), str(name))

    def _call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or function not in FUNCTIONS:
            raise CodeFound(quoted(function))
        self.stack.append(FUNCTIONS[function](*arguments))

    def _storage(self) -> None:
        _, kind, key, *_ = self.stack.pop()
        if not isinstance(kind, _Name) or not isinstance(key, str):
            raise ValueError("a storage has no type or no key")
        dtype = None if kind.name == "UntypedStorage" else np.dtype(STORAGES[kind.name])
        self.stack.append(Storage(dtype, key))


def _kind(module: str, name: str) -> np.dtype | str | None:
    """The dtype, or the kind of storage, that ``module.name`` is; None where it is neither."""
    if (module, name) in (("torch.storage", "UntypedStorage"), ("torch", "UntypedStorage")):
        return name
    if module == "torch" and (name in STORAGES or name in DTYPES):
        return np.dtype(STORAGES.get(name) or DTYPES[name])
    is_type = name.endswith("Storage") or name.startswith(("float", "complex", "qint", "quint", "bits", "int", "uint"))
    if module == "torch" and is_type:
        raise UserError(f"holds tensors of dtype {quoted(name)}, which no release of the model has")
    return None


def _view(storage: Storage, offset: int, shape: tuple, stride: tuple, dtype: np.dtype | None) -> StorageView:
    numbers = (offset, *shape[: MOST_DIMS + 1], *stride[: MOST_DIMS + 1])
    if len(shape) != len(stride) or len(shape) > MOST_DIMS or any(type(number) is not int for number in numbers):
        raise ValueError(f"a tensor has the shape {quoted(shape)}")
    dtype = storage.dtype or dtype
    if not isinstance(storage, Storage) or dtype is None:
        raise ValueError("a tensor has no storage, or no dtype")
    return StorageView(dtype, storage.key, offset, shape, stride)


def _tensor_v2(storage: Storage, offset: int, shape: tuple, stride: tuple, *_: Any) -> StorageView:
    return _view(storage, offset, shape, stride, None)


def _tensor_v3(
    storage: Storage, offset: int, shape: tuple, stride: tuple, _gradient: Any, _hooks: Any, dtype: _Name, *_: Any
) -> StorageView:
    return _view(storage, offset, shape, stride, np.dtype(DTYPES[dtype.name]))


FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("collections", "OrderedDict"): lambda *_: {},
}
INSTRUCTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": lambda machine, _: machine.stack.append(MARK),
    "POP": lambda machine, _: machine.stack.pop(),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "LIST": lambda machine, _: machine.stack.append(machine._since_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine._since_mark())),
    "DICT": lambda machine, _: machine._dict(machine._since_mark()),
    "APPEND": lambda machine, _: machine._append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._since_mark()),
    "SETITEM": lambda machine, _: machine._set([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine._set(machine._since_mark()),
    "GLOBAL": lambda machine, argument: machine._look_up(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine._look_up_from_stack(),
    "REDUCE": lambda machine, _: machine._call(),
    "BUILD": lambda machine, _: machine.stack.pop(),  # the attributes of a state dict, which nothing here needs
    "BINPERSID": lambda machine, _: machine._storage(),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), lambda machine, index: machine._put(index)),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"), lambda machine, index: machine.stack.append(machine._memo[index])
    ),
}
