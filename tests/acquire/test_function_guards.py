"""The check of many functions in one step."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from thunder.acquire.function_guards import unchanged_functions


def functions() -> list[Callable[..., int]]:
    def plain(x: int) -> int:
        return x

    def with_default(x: int, y: int = 1) -> int:
        return x + y

    def with_keyword(x: int, *, y: int = 1) -> int:
        return x + y

    def closure(x: int) -> int:
        return plain(x)

    return [plain, with_default, with_keyword, closure]


CHANGES: list[Callable[..., object]] = [
    lambda plain, *_: setattr(plain, "__code__", (lambda x: x + 1).__code__),
    lambda plain, *_: setattr(plain, "__defaults__", (1,)),
    lambda plain, *_: setattr(plain, "__kwdefaults__", {"x": 1}),
    lambda plain, with_default, *_: setattr(with_default, "__defaults__", (True,)),  # equal, and another one
    lambda plain, with_default, *_: setattr(with_default, "__defaults__", None),
    lambda plain, with_default, with_keyword, _: setattr(with_keyword, "__kwdefaults__", None),
    lambda plain, with_default, with_keyword, _: setattr(with_keyword, "__kwdefaults__", {"y": 1}),
    lambda *all: setattr(all[3], "__code__", all[3].__code__.replace()),
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_noticed(change: Callable[..., object]) -> None:
    watched = functions()
    unchanged = unchanged_functions(watched)
    assert unchanged is not None and unchanged() and unchanged()
    before = [(f.__code__, f.__defaults__, f.__kwdefaults__) for f in watched]  # another object has another place
    change(*watched)
    assert not unchanged()
    for function, (code, defaults, by_keyword) in zip(watched, before):
        function.__code__, function.__defaults__, function.__kwdefaults__ = code, defaults, by_keyword
    assert unchanged()


def test_one_audit_event_for_all() -> None:
    events: list[str] = []
    listening = True
    sys.addaudithook(lambda event, _: events.append(event) if listening else None)
    unchanged = unchanged_functions(functions())
    assert unchanged is not None
    events.clear()
    assert unchanged()
    listening = False
    assert len(events) <= 1


def test_few_functions_and_other_callables_are_left_to_others() -> None:
    assert unchanged_functions(functions()[:2]) is None
    assert unchanged_functions([*functions(), print]) is None
