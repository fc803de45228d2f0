"""Random state: what a place of the program may hold, as text that makes it.

A `Kind` is a value's text together with what is known of its structure; a `Place` says how the subject and the
rounds reach it and how each may assign it.  From both, `reading.py` and `writing.py` choose statements.

Scalars come from small pools in which many values are equal and yet different (1, True, 1.0; 0.0, -0.0; NaN).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

INTEGERS = ("0", "1", "2", "3", "-1", "7", "300")
FLOATS = ("0.0", "-0.0", "1.0", "1.5", "2.0", "-1.0", "math.inf", "math.nan")
FINITE = ("0", "1", "2", "3", "-1", "True", "0.0", "1.0", "1.5", "2.0", "-0.0")
BOOLEANS = ("True", "False")
TEXTS = ("''", "'a'", "'b'", "'relu'", "'neg'", "'sin'", "'1'")
OTHERS = ("None", "None", "()", "(1, 2)", "(1.0, True)", "b'a'", "torch.float32", "torch.float64", "...", "2 + 1j")
KEYS = ("'a'", "'b'", "'c'", "1", "2", "None", "(1, 'a')", "2.5")
CONFUSED = {
    "0": ("False", "0.0", "-0.0"), "1": ("True", "1.0"), "2": ("2.0",), "3": ("3.0",), "-1": ("-1.0",),
    "True": ("1", "1.0"), "False": ("0", "0.0", "None"), "0.0": ("-0.0", "0", "False"), "-0.0": ("0.0", "0"),
    "1.0": ("1", "True"), "2.0": ("2",), "''": ("None", "b''"), "None": ("False", "()"), "(1, 2)": ("(1.0, 2)", "[1, 2]"),
    "'1'": ("1",), "(1.0, True)": ("(1, True)", "(True, True)"),
}  # fmt: skip
"""What a value may turn into that a careless comparison takes for the same."""

TENSORS = (
    "torch.arange(4.0)", "torch.ones(4)", "torch.full((2, 4), 0.5)", "torch.arange(8.0).reshape(2, 4)",
    "torch.arange(8.0).reshape(4, 2).t()", "torch.ones(1, 4)", "torch.tensor(2.0)", "torch.arange(4)",
    "torch.ones(4, dtype=torch.float64)", "torch.arange(8.0)[::2]", "torch.ones(4, requires_grad=True)",
    "nn.Parameter(torch.arange(4.0))", "torch.arange(8.0).reshape(2, 4)[1]",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What a place holds; `text` is an expression that makes it anew."""

    text: str


@dataclass(frozen=True)
class Scalar(Kind):
    """A number, text, None or another immutable value."""


@dataclass(frozen=True)
class Tensor(Kind):
    """A tensor whose shape broadcasts against (2, 4)."""


@dataclass(frozen=True)
class Sequence(Kind):
    """A list or tuple."""

    items: tuple[Kind, ...]
    mutable: bool

    @property
    def plain(self) -> bool:
        return all(isinstance(item, Scalar) for item in self.items)


@dataclass(frozen=True)
class Mapping(Kind):
    """A dict; keys are texts."""

    items: tuple[tuple[str, Kind], ...]


@dataclass(frozen=True)
class ScalarSet(Kind):
    """A set of hashable scalars."""


@dataclass(frozen=True)
class Instance(Kind):
    """An object of a class that the program defines.

    Attributes:
        attributes: attributes with a kind that is known.
        reads, changes, outside: statements that suit this class, `$p` is the object; `outside` ones are for rounds.
        class_name: the class.
    """

    attributes: tuple[tuple[str, Kind], ...]
    reads: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    class_name: str = ""


@dataclass(frozen=True)
class Function(Kind):
    """A callable that takes a tensor and gives one."""


@dataclass(frozen=True)
class Place:
    """Where a value is kept.

    Attributes:
        inside, outside: expressions that read it in the subject and in a round; None where that is impossible.
        assign_inside, assign_outside: statements with `$value` that assign it; None where that is impossible.
    """

    kind: Kind
    inside: str | None = None
    outside: str | None = None
    assign_inside: str | None = None
    assign_outside: str | None = None


def fill(template: str, dice: random.Random, place: str = "") -> str:
    """Replaces the markers of a template, each occurrence by a choice of its own."""

    def choose(found: re.Match[str]) -> str:
        marker = found.group(0)
        if marker == "$p":
            return place
        if marker == "$s":
            return scalar(dice)
        if marker == "$n":
            return dice.choice(FINITE)
        if marker == "$i":
            return dice.choice(("0", "1", "-1", "2"))
        if marker == "$k":
            return dice.choice(KEYS)
        if marker == "$t":
            return dice.choice(TENSORS)
        return container(dice, 1).text

    return re.sub(r"\$[psniktv](?![a-z])", choose, template)


def scalar(dice: random.Random) -> str:
    """A scalar's text."""
    pool = dice.choices((INTEGERS, FLOATS, BOOLEANS, TEXTS, OTHERS), (4, 3, 2, 3, 2))[0]
    return dice.choice(pool)


def changed_scalar(text: str, dice: random.Random) -> str:
    """Another scalar, half of the time one that is easily confused with the first."""
    if text in CONFUSED and dice.random() < 0.5:
        return dice.choice(CONFUSED[text])
    return scalar(dice)


def hashable(dice: random.Random) -> str:
    return dice.choice(INTEGERS + TEXTS + FLOATS[:6] + BOOLEANS)


def container(dice: random.Random, depth: int, shared: tuple[tuple[str, Kind], ...] = ()) -> Kind:
    """A random kind; `shared` are names of objects that it may refer to, which makes aliases."""
    roll = dice.random()
    if shared and roll < 0.12:
        name, kind = dice.choice(shared)
        return _renamed(kind, name)
    if depth <= 0 or roll < 0.4:
        return Tensor(dice.choice(TENSORS)) if dice.random() < 0.25 else Scalar(scalar(dice))
    if roll < 0.65:
        return _sequence(dice, depth, shared, mutable=dice.random() < 0.75)
    if roll < 0.9:
        keys = dice.sample(KEYS, dice.randint(0, 4))
        items = tuple((key, container(dice, depth - 1, shared)) for key in keys)
        return Mapping("{" + ", ".join(f"{key}: {kind.text}" for key, kind in items) + "}", items)
    members = sorted({hashable(dice) for _ in range(dice.randint(0, 4))})
    return ScalarSet("{" + ", ".join(members) + "}" if members else "set()")


def _renamed(kind: Kind, name: str) -> Kind:
    values = {**kind.__dict__, "text": name}
    return type(kind)(**values)


def _sequence(dice: random.Random, depth: int, shared: tuple[tuple[str, Kind], ...], *, mutable: bool) -> Sequence:
    count = dice.randint(0, 4)
    if dice.random() < 0.5:
        items: tuple[Kind, ...] = tuple(Scalar(scalar(dice)) for _ in range(count))
    else:
        items = tuple(container(dice, depth - 1, shared) for _ in range(count))
    inner = ", ".join(item.text for item in items)
    if mutable:
        return Sequence(f"[{inner}]", items, True)
    return Sequence(f"({inner}{',' if count == 1 else ''})", items, False)


def places(root: Place, depth: int = 3) -> Iterator[Place]:
    """The place itself and those within it."""
    yield root
    if depth <= 0:
        return
    kind = root.kind
    children: list[tuple[str, Kind, bool]] = []
    if isinstance(kind, Sequence):
        children = [(f"[{index}]", item, kind.mutable) for index, item in enumerate(kind.items)]
    elif isinstance(kind, Mapping):
        children = [(f"[{key}]", item, True) for key, item in kind.items]
    elif isinstance(kind, Instance):
        children = [(f".{name}", item, True) for name, item in kind.attributes]
    for suffix, item, assignable in children:
        inside = None if root.inside is None else root.inside + suffix
        outside = None if root.outside is None else root.outside + suffix
        child = Place(
            item, inside, outside,
            f"{inside} = $value" if assignable and inside else None,
            f"{outside} = $value" if assignable and outside else None,
        )  # fmt: skip
        yield from places(child, depth - 1)
