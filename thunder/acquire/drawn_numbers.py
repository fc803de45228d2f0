"""Random numbers of Python and NumPy that a program draws, as long as it makes no use of them.

Models draw a number in every layer and compare it with a rate only while they are trained.  Such a call is compiled:
the epilogue draws the number, so that the generator ends where plain Python leaves it.  Meanwhile a `DrawnNumber`
stands for what nobody knows; whatever is done with it, other than to pass it on, ends the acquisition.

Input: the generator's method and plain arguments.  Output: a `DrawnNumber`.  Invariant: no operation, call, text,
result or attribute of a program is made from one.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

from thunder.acquire.guards import is_plain

_METHODS: dict[str, tuple[type, int]] = {
    "rand": (float, 0), "randn": (float, 0), "random": (float, 0), "random_sample": (float, 0),
    "standard_normal": (float, 0), "uniform": (float, 2), "normal": (float, 2), "randint": (int, 2),
    "randrange": (int, 2),
}  # fmt: skip
"""Methods of generators that give one number: its class, and with how many arguments that holds."""
PYTHON_METHODS = (random.Random.random, random.Random.uniform, random.Random.randint, random.Random.randrange)


class DrawnNumber:
    """A number that the running program draws.

    Args:
        kind: its class, all that is known of it; `isinstance` asks for that.
        use: raises an error that says so; called when the program makes use of the number.
    """

    __slots__ = ("_kind", "_use")

    def __init__(self, kind: type, use: Callable[[], None]) -> None:
        object.__setattr__(self, "_kind", kind)
        object.__setattr__(self, "_use", use)

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, "_kind") if name == "__class__" else use(self)


def use(number: DrawnNumber, *others: Any) -> Any:
    """Ends the acquisition: the program goes on with a number that is not known."""
    object.__getattribute__(number, "_use")()


for _name in """abs add and bool bytes call ceil complex contains copy deepcopy delitem divmod eq float floor floordiv
    format ge getitem gt hash index int invert iter le len lshift lt matmul mod mul ne neg next or pos pow radd rand
    rdivmod reduce reduce_ex repr rfloordiv rlshift rmatmul rmod rmul ror round rpow rrshift rshift rsub rtruediv rxor
    setattr setitem str sub truediv trunc xor torch_function array dir sizeof enter exit""".split():
    setattr(DrawnNumber, f"__{_name}__", use)


def kind_of_number(method: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> type | None:
    """The class of the single number that a call of a generator's method draws; None if it does another thing."""
    kind, most = _METHODS.get(method, (None, 0))
    return kind if not keywords and len(arguments) <= most and all(map(_is_number, arguments)) else None


def _is_number(value: Any) -> bool:
    return is_plain(value) and isinstance(value, (int, float))


def is_shared_generator(generator: Any) -> bool:
    """Whether a generator is the one behind the functions of `random`, or of `numpy.random`."""
    if generator is random._inst:
        return True
    legacy = sys.modules.get("numpy.random.mtrand")
    return legacy is not None and generator is legacy._rand
