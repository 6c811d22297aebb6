"""What a TorchScript pickle describes, without running anything that it says.

A pickle is a program for a stack machine. This reader knows the few instructions that TorchScript
writes and interprets them on plain Python data: a name that the pickle mentions stays a name, it is
never imported, and the only "calls" are the ones spelled out below (rebuild a tensor, make an empty
dict, make a list). Everything else is refused with its name.
"""

from __future__ import annotations

import pickletools
import re
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from lrsclip_rt.errors import CheckpointError
from lrsclip_train.checkpoint_archives import TorchArchive

__all__ = ["ModuleSpec", "StorageSpec", "TensorSpec", "module_from_pickle"]

T = TypeVar("T")

_STORAGES = {
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
_REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
_REBUILD_PARAMETER = "torch._utils _rebuild_parameter"
_ORDERED_DICT = "collections OrderedDict"
_RETURN_FIRST_ARGUMENT = frozenset(
    f"torch.jit._pickle {name}"
    for name in (
        "build_intlist",
        "build_doublelist",
        "build_boollist",
        "build_tensorlist",
        "restore_type_tag",
    )
)
_CALLS = _RETURN_FIRST_ARGUMENT | {_REBUILD_TENSOR, _REBUILD_PARAMETER, _ORDERED_DICT}
_MODULE_PREFIX = "__torch__"
_ATTRIBUTE = re.compile(r"[\w.]{1,200}")


@dataclass(frozen=True, slots=True)
class _Name:
    """A global that the pickle mentions; never looked up."""

    text: str


@dataclass(frozen=True, slots=True)
class StorageSpec:
    """A storage that the pickle declares: type, record and number of elements."""

    dtype: torch.dtype
    key: str
    elements: int


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A view of a storage that the pickle declares, offset and strides [elements]."""

    storage: StorageSpec
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(eq=False, slots=True)
class ModuleSpec:
    """A TorchScript object: its attributes, none of its behaviour."""

    attributes: dict[str, object] = field(default_factory=dict)


class _Mark:
    pass


_MARK = _Mark()


def module_from_pickle(archive: TorchArchive) -> ModuleSpec:
    """Interpret ``data.pkl`` of a TorchScript archive.

    Raises:
        CheckpointError: If the pickle asks for anything but tensors and plain containers, or is damaged.
    """
    try:
        root = _StackMachine(archive).run(archive.read("data.pkl"))
    except CheckpointError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"{archive.path}: data.pkl is not a well-formed TorchScript pickle ({error}). The file is "
            "damaged or was not written by torch.jit.save"
        ) from error
    if not isinstance(root, ModuleSpec):
        raise CheckpointError(f"{archive.path}: data.pkl holds {_shown(root)}; expected a TorchScript module")
    return root


class _StackMachine:
    """Interprets the instructions that TorchScript writes; each builds data only."""

    def __init__(self, archive: TorchArchive) -> None:
        self.archive = archive
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def run(self, pickled: bytes) -> object:
        """Value that the pickle describes."""
        for instruction, argument, _ in pickletools.genops(pickled):
            name = instruction.name
            if name == "STOP":
                return self.stack.pop()
            step = getattr(self, f"_op_{name.lower()}", None)
            if step is None:
                raise self._refusal(f"the pickle instruction {name}")
            step(argument)
        raise ValueError("it does not end")

    def _refusal(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.archive.path} asks for {what}; a checkpoint may hold tensors and plain containers only. "
            "Nothing of it was executed"
        )

    def _op_proto(self, argument: int) -> None:
        if argument != 2:
            raise self._refusal(f"pickle protocol {argument}")

    def _push_argument(self, argument: object) -> None:
        self.stack.append(argument)

    _op_binint = _op_binint1 = _op_binint2 = _op_long1 = _push_argument
    _op_binfloat = _op_binunicode = _push_argument

    def _op_none(self, _: object) -> None:
        self.stack.append(None)

    def _op_newtrue(self, _: object) -> None:
        self.stack.append(True)

    def _op_newfalse(self, _: object) -> None:
        self.stack.append(False)

    def _op_mark(self, _: object) -> None:
        self.stack.append(_MARK)

    def _op_empty_tuple(self, _: object) -> None:
        self.stack.append(())

    def _op_empty_list(self, _: object) -> None:
        self.stack.append([])

    def _op_empty_dict(self, _: object) -> None:
        self.stack.append({})

    def _op_tuple(self, _: object) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def _op_tuple1(self, _: object) -> None:
        self.stack.append((self.stack.pop(),))

    def _op_tuple2(self, _: object) -> None:
        self._gather(2)

    def _op_tuple3(self, _: object) -> None:
        self._gather(3)

    def _gather(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("the stack is too short")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _op_append(self, _: object) -> None:
        item = self.stack.pop()
        self._top(list).append(item)

    def _op_appends(self, _: object) -> None:
        items = self._pop_to_mark()
        self._top(list).extend(items)

    def _op_setitem(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._top(dict)[_key(key)] = value

    def _op_setitems(self, _: object) -> None:
        items = self._pop_to_mark()
        pairs = zip(items[::2], items[1::2], strict=True)
        self._top(dict).update((_key(key), value) for key, value in pairs)

    def _op_binput(self, argument: int) -> None:
        self.memo[argument] = self.stack[-1]

    _op_long_binput = _op_binput

    def _op_binget(self, argument: int) -> None:
        self.stack.append(self.memo[argument])

    _op_long_binget = _op_binget

    def _op_global(self, argument: str) -> None:
        if argument not in _CALLS and argument not in _STORAGES and not argument.startswith(_MODULE_PREFIX):
            raise self._refusal(_shown(_Name(argument)))
        self.stack.append(_Name(argument))

    def _op_newobj(self, _: object) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or not name.text.startswith(_MODULE_PREFIX) or arguments != ():
            raise self._refusal(f"an object of {_shown(name)}")
        self.stack.append(ModuleSpec())

    def _op_build(self, _: object) -> None:
        attributes = self.stack.pop()
        if not isinstance(attributes, dict):
            raise self._refusal(f"an object built from a {type(attributes).__name__}")
        self._top(ModuleSpec).attributes.update(attributes)

    def _op_binpersid(self, _: object) -> None:
        kind, storage, key, _device, elements = _parts(self.stack.pop(), 5)
        if kind != "storage" or not isinstance(storage, _Name) or storage.text not in _STORAGES:
            raise self._refusal(f"a persistent object of {_shown(storage)}")
        if not isinstance(key, str):
            raise TypeError(f"a storage is named by {_shown(key)}")
        self.stack.append(StorageSpec(_STORAGES[storage.text], key, _count(elements)))

    def _op_reduce(self, _: object) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or name.text not in _CALLS or not isinstance(arguments, tuple):
            raise self._refusal(f"a call of {_shown(name)}")
        self.stack.append(_call(name.text, arguments))

    def _pop_to_mark(self) -> list[object]:
        for position in range(len(self.stack) - 1, -1, -1):
            if self.stack[position] is _MARK:
                items = self.stack[position + 1 :]
                del self.stack[position:]
                return items
        raise IndexError("a mark is missing")

    def _top(self, kind: type[T]) -> T:
        top = self.stack[-1]
        if not isinstance(top, kind):
            raise TypeError(f"expected a {kind.__name__} on the stack, found a {type(top).__name__}")
        return top


def _call(name: str, arguments: tuple[object, ...]) -> object:
    """The only calls there are; none of them leaves this file."""
    if name == _ORDERED_DICT:
        _parts(arguments, 0)
        return {}
    if name in _RETURN_FIRST_ARGUMENT or name == _REBUILD_PARAMETER:
        return arguments[0]
    storage, offset, size, stride = arguments[:4]
    if not isinstance(storage, StorageSpec) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise TypeError("a tensor is rebuilt from something that is no storage")
    if len(size) != len(stride):
        raise ValueError(f"a tensor has {len(size)} sizes and {len(stride)} strides")
    return TensorSpec(
        storage, _count(offset), tuple(_count(n) for n in size), tuple(_count(n) for n in stride)
    )


def _key(value: object) -> str:
    # Also keeps deeply nested tuples from being hashed, which would exhaust the stack of the process.
    if not isinstance(value, str) or not _ATTRIBUTE.fullmatch(value):
        raise TypeError(f"an attribute is named by {_shown(value)}")
    return value


def _shown(value: object) -> str:
    """A name as it is, of anything else the type: its contents may be huge."""
    return (
        ascii(value.text.replace(" ", "."))[:100] if isinstance(value, _Name) else f"a {type(value).__name__}"
    )


def _parts(value: object, count: int) -> tuple[object, ...]:
    if not isinstance(value, tuple) or len(value) != count:
        raise ValueError(f"expected {count} values, found {_shown(value)}")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"expected a count, found {_shown(value)}")
    return value
