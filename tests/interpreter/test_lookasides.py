"""Look-asides, opaque functions, the log, and where the program is."""

from __future__ import annotations

import math
from typing import Any

from thunder.interpreter import Frame, Interpreter


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
