"""An interpreter of pickle opcodes that makes nothing: what a pickle says, without doing what it says.

It builds lists, dicts, tuples, numbers, texts and bytes. Where the file asks for an object, there is a `Made`: a note
of what was asked for, from which arguments, with which state. Nothing is imported, looked up or called by a name in
the file. Protocols 2 to 5, opcodes by `pickletools`; those that no model needs (persistent ids, extensions, sets) are
refused.
"""

import pickletools
from collections.abc import Callable, Set
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NoReturn

MAX_OPCODES = 200_000
"""A k-means model takes some hundreds."""


class Refused(ValueError):
    """The file asks for something that is not on the list of what it may ask for."""


class Damaged(ValueError):
    """The bytes are no pickle, or a broken one."""


@dataclass(frozen=True, slots=True)
class Name:
    """A global that the file names."""

    module: str
    name: str


@dataclass(slots=True, eq=False)
class Made:
    """An object that the file asked for; it is never made."""

    what: Name
    args: tuple[Any, ...]
    state: Any = None


def damaged() -> NoReturn:
    raise Damaged("damaged")


class Reader:
    """One pass over a pickle.

    Args:
        data: the pickle.
        known: the globals that it may name.
        made: called with each call that the file asks for; returns what to put in its place.
        built: the same, once the object has its state. It may read on in `file`, which stands behind the opcode.
    """

    def __init__(
        self,
        data: bytes,
        known: Set[Name],
        made: Callable[[Made], Any],
        built: Callable[["Reader", Made], Any],
    ) -> None:
        self.data = data
        self.file = BytesIO(data)
        self._known = known
        self._made = made
        self._built = built
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self) -> Any:
        """Return the object that the pickle holds, in time linear in its size.

        Raises:
            Refused: for a global or an opcode that is not known, or too many opcodes.
            ValueError: if the pickle is damaged.
        """
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.file)):
            if count >= MAX_OPCODES:
                raise Refused("it has too many parts")
            if opcode.name == "STOP":
                return self.pop()
            if opcode.name in _VALUES:
                self.push(argument)
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            elif opcode.name not in ("PROTO", "FRAME"):
                raise Refused(f"it has the pickle opcode {opcode.name}")
        damaged()

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            damaged()
        return self._stack.pop()

    def pop_to_mark(self) -> list[Any]:
        items = []
        while self._stack and self._stack[-1] is not _MARK:
            items.append(self._stack.pop())
        if not self._stack:
            damaged()
        self._stack.pop()
        return items[::-1]

    def push_tuple(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(items[::-1]))

    def extend(self, items: list[Any]) -> None:
        target = self.pop()
        if not isinstance(target, list):
            damaged()
        target.extend(items)
        self.push(target)

    def update(self, items: list[Any]) -> None:
        target = self.pop()
        if not isinstance(target, dict) or len(items) % 2 or not all(isinstance(k, str | int) for k in items[::2]):
            damaged()
        target.update(zip(items[::2], items[1::2], strict=True))
        self.push(target)

    def push_name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            damaged()
        if Name(module, name) not in self._known:
            raise Refused(f"it asks for {f'{module[:80]}.{name[:80]}'!a}")
        self.push(Name(module, name))

    def make(self) -> None:
        args, what = self.pop(), self.pop()
        if not isinstance(what, Name) or not isinstance(args, tuple):
            damaged()
        self.push(self._made(Made(what, args)))

    def build(self) -> None:
        state, made = self.pop(), self.pop()
        if not isinstance(made, Made):
            damaged()
        made.state = state
        self.push(self._built(self, made))

    def memoise(self, place: int | None) -> None:
        value = self.pop()
        self._memo[len(self._memo) if place is None else place] = value
        self.push(value)

    def recall(self, place: int) -> None:
        if place not in self._memo:
            damaged()
        self.push(self._memo[place])


_MARK = object()
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING", "BINBYTES"),
    *("SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_STEPS: dict[str, Callable[[Reader, Any], object]] = {
    "NONE": lambda r, _: r.push(None),
    "NEWTRUE": lambda r, _: r.push(True),
    "NEWFALSE": lambda r, _: r.push(False),
    "EMPTY_LIST": lambda r, _: r.push([]),
    "EMPTY_TUPLE": lambda r, _: r.push(()),
    "EMPTY_DICT": lambda r, _: r.push({}),
    "MARK": lambda r, _: r.push(_MARK),
    "POP": lambda r, _: r.pop(),
    "TUPLE": lambda r, _: r.push(tuple(r.pop_to_mark())),
    "TUPLE1": lambda r, _: r.push_tuple(1),
    "TUPLE2": lambda r, _: r.push_tuple(2),
    "TUPLE3": lambda r, _: r.push_tuple(3),
    "APPEND": lambda r, _: r.extend([r.pop()]),
    "APPENDS": lambda r, _: r.extend(r.pop_to_mark()),
    "SETITEM": lambda r, _: r.update([r.pop(), r.pop()][::-1]),
    "SETITEMS": lambda r, _: r.update(r.pop_to_mark()),
    "GLOBAL": lambda r, pair: r.push_name(*pair.split(" ", 1)),
    "STACK_GLOBAL": lambda r, _: r.push_name(*[r.pop(), r.pop()][::-1]),
    "REDUCE": lambda r, _: r.make(),
    "NEWOBJ": lambda r, _: r.make(),
    "BUILD": lambda r, _: r.build(),
    "BINPUT": Reader.memoise,
    "LONG_BINPUT": Reader.memoise,
    "MEMOIZE": Reader.memoise,
    "BINGET": Reader.recall,
    "LONG_BINGET": Reader.recall,
}
