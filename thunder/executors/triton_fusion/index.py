"""Integer expressions that say where a value is read: sums of axes with constant factors.

Input: axes of a kernel, views of tensors.  Output: `Index`, an affine expression `4 * x + r + 7` over atoms: axes,
quotients and remainders that do not simplify, and indices that were loaded from memory.

Invariant: an atom knows the range of its values, so that `//` and `%` simplify exactly where they can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any


class SplitAxis(Exception):
    """An axis is divided by a number: with two axes in its place, the quotient and the remainder are plain axes."""

    def __init__(self, axis: Axis, divisor: int) -> None:
        super().__init__(f"{axis.name} is divided by {divisor}")
        self.axis, self.divisor = axis, divisor


@dataclass(frozen=True)
class Atom:
    """A value from `low` to `high`, both included."""

    name: str
    low: int
    high: int


@dataclass(frozen=True)
class Axis(Atom):
    """One loop variable: `size` steps along the rows (`x`) or the columns (`r`), each `stride` of these apart."""

    base: str
    size: int
    stride: int

    @staticmethod
    def make(base: str, size: int, stride: int) -> Axis:
        return Axis(f"{base}{stride}", 0, size - 1, base, size, stride)


@dataclass(frozen=True)
class Quotient(Atom):
    """`operand // divisor`, which does not simplify."""

    operand: Index
    divisor: int


@dataclass(frozen=True)
class Remainder(Atom):
    """`operand % divisor`, which does not simplify."""

    operand: Index
    divisor: int


@dataclass(frozen=True)
class Bounded(Atom):
    """`operand`, where a condition keeps it within `low` and `high`."""

    operand: Index

    @staticmethod
    def of(index: Index, size: int) -> Index:
        """`index`, known to be from 0 to `size - 1`."""
        if 0 <= index.low and index.high < size:
            return index
        return Index.of(Bounded(f"[{index.text()}]", 0, size - 1, index))

    @staticmethod
    def removed(index: Index) -> Index:
        """The index without the knowledge of bounds."""
        return index.substitute(lambda atom: Bounded.removed(atom.operand) if isinstance(atom, Bounded) else None)


@dataclass(frozen=True)
class Loaded(Atom):
    """An index that the kernel computes or loads; `node` is the value."""

    node: Any


@dataclass(frozen=True)
class Index:
    """`sum(factor * atom) + constant`; the terms are sorted by name."""

    terms: tuple[tuple[Atom, int], ...] = ()
    constant: int = 0

    @staticmethod
    def of(atom: Atom) -> Index:
        return Index(((atom, 1),), 0)

    @staticmethod
    def make(factors: dict[Atom, int], constant: int) -> Index:
        terms = sorted(((atom, k) for atom, k in factors.items() if k), key=lambda term: term[0].name)
        return Index(tuple(terms), constant)

    def __add__(self, other: Index | int) -> Index:
        if isinstance(other, int):
            return Index(self.terms, self.constant + other)
        if not other.terms:
            return Index(self.terms, self.constant + other.constant)
        factors = dict(self.terms)
        for atom, factor in other.terms:
            factors[atom] = factors.get(atom, 0) + factor
        return Index.make(factors, self.constant + other.constant)

    def __mul__(self, number: int) -> Index:
        if number == 0:
            return ZERO
        return Index(tuple((atom, factor * number) for atom, factor in self.terms), self.constant * number)

    @property
    def low(self) -> int:
        return self.constant + sum(k * (atom.low if k > 0 else atom.high) for atom, k in self.terms)

    @property
    def high(self) -> int:
        return self.constant + sum(k * (atom.high if k > 0 else atom.low) for atom, k in self.terms)

    def _divided(self, divisor: int) -> tuple[Index, Index]:
        """(quotient, rest): the terms that `divisor` divides, divided, and the others."""
        whole = {atom: k // divisor for atom, k in self.terms if k % divisor == 0}
        rest = {atom: k for atom, k in self.terms if k % divisor}
        return Index.make(whole, self.constant // divisor), Index.make(rest, self.constant % divisor)

    def __floordiv__(self, divisor: int) -> Index:
        if divisor == 1:
            return self
        quotient, rest = self._divided(divisor)
        if 0 <= rest.low and rest.high < divisor:
            return quotient
        common = math.gcd(divisor, *(k for _, k in rest.terms))
        if common > 1:  # (6a + 4) // 4 == (3a + 2) // 2
            rest = Index.make({atom: k // common for atom, k in rest.terms}, rest.constant // common)
            return quotient + rest // (divisor // common)
        _ask_to_split(rest, divisor)
        name = f"({rest.text()}) // {divisor}"
        return quotient + Index.of(Quotient(name, rest.low // divisor, rest.high // divisor, rest, divisor))

    def __mod__(self, divisor: int) -> Index:
        if divisor == 1:
            return ZERO
        _, rest = self._divided(divisor)
        if 0 <= rest.low and rest.high < divisor:
            return rest
        _ask_to_split(rest, divisor)
        return Index.of(Remainder(f"({rest.text()}) % {divisor}", 0, divisor - 1, rest, divisor))

    def atoms(self) -> Iterable[Atom]:
        """The atoms, and those within quotients and remainders."""
        for atom, _ in self.terms:
            yield atom
            if isinstance(atom, (Quotient, Remainder, Bounded)):
                yield from atom.operand.atoms()

    def substitute(self, replace: Callable[[Atom], Index | None]) -> Index:
        """With atoms replaced where `replace` gives something, also within quotients and remainders."""
        result = Index((), self.constant)
        for atom, factor in self.terms:
            new = replace(atom)
            if new is None and isinstance(atom, Quotient):
                new = atom.operand.substitute(replace) // atom.divisor
            elif new is None and isinstance(atom, Remainder):
                new = atom.operand.substitute(replace) % atom.divisor
            result = result + (Index.of(atom) if new is None else new) * factor
        return result

    def text(self, name_of: Callable[[Atom], str] = lambda atom: atom.name) -> str:
        """As an expression of the kernel's language."""
        parts: list[str] = []
        for atom, factor in sorted(self.terms, key=lambda term: -abs(term[1])):
            name = _atom_text(atom, name_of)
            product = name if abs(factor) == 1 else f"{name} * {abs(factor)}"
            parts.append((("- " if factor < 0 else "+ ") if parts else ("-" if factor < 0 else "")) + product)
        if self.constant or not parts:
            sign = "- " if self.constant < 0 else "+ "
            parts.append(f"{sign}{abs(self.constant)}" if parts else str(self.constant))
        return " ".join(parts)


ZERO = Index()


def _atom_text(atom: Atom, name_of: Callable[[Atom], str]) -> str:
    if isinstance(atom, Quotient):
        return f"(({atom.operand.text(name_of)}) // {atom.divisor})"
    if isinstance(atom, Remainder):
        return f"(({atom.operand.text(name_of)}) % {atom.divisor})"
    return name_of(atom)


def _ask_to_split(index: Index, divisor: int) -> None:
    """Where an axis reaches across a multiple of the divisor, splitting it there makes the quotient exact."""
    for atom, factor in index.terms:
        if isinstance(atom, Axis) and factor > 0 and divisor % factor == 0:
            inner = divisor // factor
            if 1 < inner < atom.size and atom.size % inner == 0:
                raise SplitAxis(atom, inner)


def contiguous_strides(shape: Sequence[int]) -> list[int]:
    """Strides of a dense row-major layout."""
    strides, stride = [0] * len(shape), 1
    for dim in range(len(shape) - 1, -1, -1):
        strides[dim] = stride
        stride *= shape[dim]
    return strides


def linear(indices: Sequence[Index], strides: Sequence[int]) -> Index:
    """`sum(index * stride)`."""
    total = ZERO
    for index, stride in zip(indices, strides):
        total = total + index * stride
    return total


def unravel(position: Index, shape: Sequence[int]) -> tuple[Index, ...]:
    """The indices of the element at a position of the row-major order."""
    indices = []
    for size, stride in zip(shape, contiguous_strides(shape)):
        if size == 1:
            indices.append(ZERO)
            continue
        quotient = position // stride if stride else ZERO
        indices.append(quotient if quotient.low >= 0 and quotient.high < size else quotient % size)
    return tuple(indices)
