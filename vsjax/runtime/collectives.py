"""What the devices say to each other: the collective operations of a compiled program, read from its text.

XLA's partitioner adds them, so the program as it was written does not show them; `compiled.as_text()` does."""

import math
import re
from dataclasses import dataclass

OPERATIONS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "token": 0, "bf16": 16}  # the other types say it themselves: f32, s64, u8, c64, f8e4m3fn
# `%name = TYPE operation(`, where TYPE is one array or a tuple of arrays.
_INSTRUCTION = re.compile(
    rf"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<type>\(.*?\)|\S+) (?P<operation>{'|'.join(OPERATIONS)})"
    r"(?P<form>-start|-done)?\((?P<rest>.*)"
)
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_OPERAND = re.compile(r"%([\w.-]+)")
_SOURCE = re.compile(r'op_name="([^"]*)"')


@dataclass(frozen=True)
class Array:
    """Type and shape of what one device receives."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size."""
        bits = _BITS.get(self.dtype) or int(re.search(r"\d+", self.dtype)[0])
        return math.prod(self.shape) * bits // 8


@dataclass(frozen=True)
class Collective:
    """One collective operation of a program.

    Attributes:
        operation: one of `OPERATIONS`.
        arrays: its result on one device; several where XLA joined several operations.
        source: JAX's name of the operation that it came from, such as `jit(step)/.../encoder_0/block_0/grn/reduce_sum`.
    """

    operation: str
    arrays: tuple[Array, ...]
    source: str = ""

    @property
    def bytes(self) -> int:
        """Of the result on one device."""
        return sum(array.bytes for array in self.arrays)


def read_collectives(text: str) -> list[Collective]:
    """The collective operations of a compiled program (`compiled.as_text()`), in its order.

    An operation that is split into a start and an end counts once, with the arrays of its end; one inside a loop counts
    once too, however often the loop runs.
    """
    found, sources = [], {}
    for line in text.splitlines():
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        named = _SOURCE.search(line)
        source = named[1] if named else ""
        if match["form"] == "-start":
            sources[match["name"]] = source
            continue
        if match["form"] == "-done":
            source = source or next((sources[one] for one in _OPERAND.findall(match["rest"]) if one in sources), "")
        arrays = tuple(
            Array(dtype, tuple(int(size) for size in shape.split(",") if size))
            for dtype, shape in _ARRAY.findall(match["type"])
        )
        found.append(Collective(match["operation"], arrays, source))
    return found


def total_bytes(collectives: list[Collective], *operations: str) -> int:
    """Of the results on one device, of these operations, or of all."""
    return sum(one.bytes for one in collectives if not operations or one.operation in operations)
