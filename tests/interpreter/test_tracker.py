"""The tracker is told of what interpreted code reads and writes."""

from __future__ import annotations

from typing import Any

import pytest

from thunder.interpreter import Interpreter, Tracker

LIMIT = 3


class Recorder(Tracker):
    """Writes down every hook with what identifies it."""

    container_types = frozenset({list, dict})
    wrapped_types = frozenset({complex})

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def load_global(self, global_names: dict[str, Any], builtins: dict[str, Any], name: str) -> Any:
        self.events.append(("load_global", name))
        return super().load_global(global_names, builtins, name)

    def store_global(self, global_names: dict[str, Any], name: str, value: Any) -> None:
        self.events.append(("store_global", name, value))
        super().store_global(global_names, name, value)

    def load_cell(self, cell: Any, name: str) -> Any:
        self.events.append(("load_cell", name))
        return super().load_cell(cell, name)

    def store_cell(self, cell: Any, value: Any, name: str) -> None:
        self.events.append(("store_cell", name, value))
        super().store_cell(cell, value, name)

    def new_cell(self, cell: Any) -> None:
        self.events.append(("new_cell",))

    def new_function(self, function: Any) -> None:
        self.events.append(("new_function", function.__name__))

    def enter_function(self, function: Any) -> None:
        self.events.append(("enter_function", function.__name__))

    def load_attr(self, obj: Any, name: str) -> Any:
        self.events.append(("load_attr", name))
        return super().load_attr(obj, name)

    def store_attr(self, obj: Any, name: str, value: Any) -> None:
        self.events.append(("store_attr", name, value))
        super().store_attr(obj, name, value)

    def load_item(self, obj: Any, key: Any) -> Any:
        self.events.append(("load_item", key))
        return super().load_item(obj, key)

    def store_item(self, obj: Any, key: Any, value: Any) -> None:
        self.events.append(("store_item", key, value))
        super().store_item(obj, key, value)

    def touch(self, obj: Any) -> None:
        self.events.append(("touch", list(obj)))

    def identity(self, left: Any, right: Any) -> bool:
        self.events.append(("identity",))
        return left is right

    def truth(self, obj: Any) -> bool:
        self.events.append(("truth", type(obj).__name__))
        return super().truth(obj)

    def wrap(self, value: Any) -> Any:
        self.events.append(("wrap", value))
        return ("wrapped", value)

    def call_opaque(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        self.events.append(("call_opaque", getattr(function, "__name__", str(function))))
        return super().call_opaque(function, arguments, keywords)


class Thing:
    def __init__(self) -> None:
        self.items = [1, 2]

    @property
    def first(self) -> int:
        return self.items[0]

    def __getattr__(self, name: str) -> str:
        return f"no {name}"


def record(function: Any, *arguments: Any) -> tuple[Any, list[tuple[Any, ...]]]:
    recorder = Recorder()
    result = Interpreter(recorder).call(function, *arguments)
    return result, recorder.events


def reads_attributes(thing: Thing) -> tuple[int, str]:
    return thing.first, thing.missing  # type: ignore[return-value]


def test_attributes_reach_into_properties_and_getattr() -> None:
    result, events = record(reads_attributes, Thing())
    assert result == (1, "no missing")
    # The property's own body is interpreted, so what it reads is told too.
    assert [event for event in events if event[0] in ("load_attr", "load_item")] == [
        ("load_attr", "first"),
        ("load_attr", "items"),
        ("load_item", 0),
        ("load_attr", "missing"),
    ]


def writes_global() -> int:
    global written
    written = LIMIT
    return written


def test_globals() -> None:
    result, events = record(writes_global)
    assert result == 3
    assert events[1:] == [
        ("load_global", "LIMIT"),
        ("store_global", "written", 3),
        ("load_global", "written"),
    ]


def makes_closure(start: int) -> int:
    count = start

    def add() -> int:
        nonlocal count
        count += 1
        return count

    return add()


def test_cells_and_functions() -> None:
    result, events = record(makes_closure, 4)
    assert result == 5
    assert events == [
        ("enter_function", "makes_closure"),
        ("new_cell",),
        ("store_cell", "count", 4),
        ("new_function", "add"),
        ("enter_function", "add"),
        ("load_cell", "count"),
        ("store_cell", "count", 5),
        ("load_cell", "count"),
    ]


def uses_containers(values: list[int], table: dict[str, int]) -> Any:
    table["x"] = values[0]
    for value in values:
        table["y"] = value
    first, second = values
    return [*values], 1 in values, values == [1, 2], values is table, bool(values) if values else None


def test_containers() -> None:
    result, events = record(uses_containers, [1, 2], {})
    assert result == ([1, 2], True, True, False, True)
    kinds = [event[0] for event in events]
    # Iteration, unpacking, display, membership and both sides of the comparison.
    assert kinds.count("touch") == 6
    assert ("store_item", "x", 1) in events
    assert ("identity",) in events
    assert ("truth", "list") in events


def calls_opaque() -> Any:
    return complex(1, 2), len("abc")


def test_opaque_calls_are_told_and_their_results_wrapped() -> None:
    result, events = record(calls_opaque)
    assert result == (("wrapped", 1 + 2j), 3)
    assert ("call_opaque", "complex") in events
    assert ("call_opaque", "len") in events


def loops_over_complex() -> Any:
    return [value for value in (1j, 2)]  # noqa: C416 - the loop is what is tested


def test_values_of_iterators_are_wrapped() -> None:
    assert record(loops_over_complex)[0] == [("wrapped", 1j), 2]


class Veto(Tracker):
    def load_attr(self, obj: Any, name: str) -> Any:
        raise PermissionError(name)


def test_a_hook_may_raise_into_the_program() -> None:
    def program() -> str:
        try:
            return "".upper()
        except PermissionError as error:
            return f"vetoed {error}"

    assert Interpreter(Veto()).call(program) == "vetoed upper"


class Number:
    def __init__(self, value: int) -> None:
        self.value = value

    def __add__(self, other: Number) -> Number:
        return Number(self.value + other.value)

    def __lt__(self, other: Number) -> bool:
        return self.value < other.value

    def __len__(self) -> int:
        return self.value

    def __contains__(self, item: int) -> bool:
        return item == self.value

    def __iter__(self) -> Any:
        yield self.value

    def __call__(self) -> int:
        return self.value

    def __enter__(self) -> int:
        return self.value

    def __exit__(self, *error: object) -> None:
        return None

    def __repr__(self) -> str:
        return f"Number({self.value})"


PROTOCOLS = {
    "add": lambda n: n + n,
    "less": lambda n: n < n,
    "len": lambda n: len(n),
    "contains": lambda n: 1 in n,
    "truth": lambda n: not n,
    "iteration": lambda n: [value for value in n],  # noqa: C416 - the loop is what is tested
    "list": lambda n: list(n),
    "call": lambda n: n(),
    "repr": lambda n: repr(n),
    "format": lambda n: f"{n}",
    "unpacking": lambda n: [*n],
    "construction": lambda n: type(n)(1),
    "map": lambda n: list(map(lambda value: n.value, [1])),  # noqa: C417 - the call of map is what is tested
    "sorted": lambda n: sorted([1, 2], key=lambda value: n.value),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_special_methods_run_interpreted(name: str) -> None:
    # Each special method reads or writes `value`; the tracker hears of it only if the method is interpreted.
    _, events = record(PROTOCOLS[name], Number(1))
    assert any(event[:2] in (("load_attr", "value"), ("store_attr", "value")) for event in events)
