"""Look-asides, opaque functions, the log, and where the program is."""

from __future__ import annotations

import math
from typing import Any

from thunder.interpreter import Frame, Interpreter, extended


def helper(x: int, y: int = 1) -> int:
    return x + y


class Box:
    def get(self) -> str:
        return "native"


def program(box: Box, table: dict[str, int]) -> Any:
    return helper(1), helper(2, y=3), math.floor(2.5), box.get(), table.get("missing"), Box.get(box)


def test_replacements() -> None:
    seen: list[Any] = []

    def replace_helper(interp: Interpreter, *arguments: Any, **keywords: Any) -> str:
        seen.append((arguments, keywords))
        return "helper"

    interp = Interpreter(
        lookasides={
            helper: replace_helper,
            math.floor: lambda interp, x: ("floor", x),
            Box.get: lambda interp, box: "method",
            dict.get: lambda interp, table, key: ("get", key),
        }
    )
    result = interp.call(program, Box(), {})
    assert result == ("helper", "helper", ("floor", 2.5), "method", ("get", "missing"), "method")
    assert seen == [((1,), {}), ((2,), {"y": 3})]


def test_a_replaced_class() -> None:
    interp = Interpreter(lookasides={Box: lambda interp: "no box"})
    assert interp.call(lambda: Box()) == "no box"


def test_the_replacement_of_an_object_method_gets_the_object() -> None:
    class Guarded:
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)

    written: list[Any] = []

    def store(interp: Interpreter, obj: Any, name: str, value: Any) -> None:
        written.append((name, value))
        object.__setattr__(obj, name, value)

    def assign() -> int:
        guarded = Guarded()
        guarded.x = 5
        return guarded.x

    assert Interpreter(lookasides={object.__setattr__: store}).call(assign) == 5
    assert written == [("x", 5)]


def where(interp: Interpreter) -> list[str]:
    return [name for _, _, name in interp.user_stack()]


def mark() -> list[str]:
    return []


def inner() -> list[str]:
    return mark()


def outer() -> list[str]:
    return inner()


def test_opaque_functions_run_natively() -> None:
    assert Interpreter(lookasides={mark: where}).call(outer) == ["outer", "inner"]
    opaque = Interpreter(lookasides={mark: where}, is_opaque=lambda function: function is inner)
    # `inner` runs natively, and so does the `mark` that it calls.
    assert opaque.call(outer) == []


def test_frame_tells_file_line_and_function() -> None:
    found: list[Any] = []

    def look(interp: Interpreter) -> None:
        frame = interp.frame
        assert frame is not None
        found.append((frame.code.co_name, frame.lineno(), frame.function, frame.back is None))

    def here() -> None:
        mark()

    Interpreter(lookasides={mark: look}).call(here)
    assert found == [("here", here.__code__.co_firstlineno + 1, here, True)]


def test_log() -> None:
    names: list[str] = []

    def log(frame: Frame, name: str, operand: Any) -> None:
        names.append(name)

    assert Interpreter(log=log).call(helper, 1) == 2
    assert names[-2:] == ["BINARY_ADD", "RETURN_VALUE"]


def test_log_of_code_that_delegates() -> None:
    def inner() -> Any:
        yield 1
        return 2

    def outer() -> Any:
        return (yield from inner())

    def collect() -> Any:
        generator = outer()
        first = next(generator)
        try:
            next(generator)
        except StopIteration as stop:
            return first, stop.value

    names: set[str] = set()
    interp = Interpreter(log=lambda frame, name, operand: names.add(frame.code.co_name))
    assert interp.call(collect) == (1, 2)
    assert names == {"collect", "outer", "inner"}


def test_extended_blocks() -> None:
    seen: list[str] = []

    def log(frame: Frame, name: str, operand: Any) -> None:
        seen.append(frame.code.co_name)

    def calls_helper() -> Any:
        return helper(1)

    with extended(lookasides={helper: lambda interp, x: ("outer", x)}, log=log):
        with extended(lookasides={helper: lambda interp, x: ("inner", x)}):
            nested = Interpreter()
        within = Interpreter(lookasides={helper: lambda interp, x: ("own", x)})
    after = Interpreter()
    assert nested.call(calls_helper) == ("inner", 1)
    assert within.call(calls_helper) == ("outer", 1)
    assert set(seen) == {"calls_helper"}
    seen.clear()
    assert after.call(calls_helper) == 2
    assert not seen
    with extended(is_opaque=lambda function: function is helper):
        opaque = Interpreter(log=log)
    assert opaque.call(calls_helper) == 2
    assert set(seen) == {"calls_helper"}


def test_no_frame_outside() -> None:
    interp = Interpreter()
    assert interp.frame is None
    assert interp.user_stack() == []


def test_generators_are_real_and_interpreted() -> None:
    stacks: list[list[str]] = []

    def numbers() -> Any:
        stacks.append(mark())
        yield 1

    generator = Interpreter(lookasides={mark: where}).call(numbers)
    assert next(generator) == 1
    assert stacks == [["numbers"]]
    assert type(generator) is type(n for n in ())
    assert generator.__qualname__ == numbers.__qualname__
