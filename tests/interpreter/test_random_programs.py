"""Random programs of expressions and control flow behave the same natively and interpreted."""

from __future__ import annotations

import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thunder.interpreter import Interpreter, Tracker

NAMES = ("a", "b", "c")


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> str:
    """The text of an expression over the variables."""
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        return draw(
            st.one_of(
                st.sampled_from(NAMES),
                st.integers(-4, 9).map(lambda value: f"({value})"),
                st.sampled_from(["True", "None", "'xy'", "[1, 2]", "{1: 2}", "(1, 'z')", "1.5"]),
            )
        )
    inner = expressions(depth - 1)
    left, right, third = draw(inner), draw(inner), draw(inner)
    return draw(
        st.sampled_from(
            [
                f"({left} + {right})",
                f"({left} * {right})",
                f"({left} - {right})",
                f"({left} // {right})",
                f"({left} % {right})",
                f"({left} < {right} <= {third})",
                f"({left} == {right})",
                f"({left} is {right})",
                f"({left} in {right})",
                f"({left} and {right} or {third})",
                f"(not {left})",
                f"({left} if {right} else {third})",
                f"[{left}, *[{right}]]",
                f"{{'k': {left}, **{{'l': {right}}}}}",
                f"{left}[{right}]",
                f"{left}[{right}:{third}]",
                f"[x for x in {left} if x != {right}]",
                f"(lambda v, w=1: (v, w))({left}, {right})",
                f"f'{{{left}!r:>6}}'",
                f"len({left})",
                f"(n := {left})",
                f"helper({left}, key={right})",
            ]
        )
    )


@st.composite
def blocks(draw: st.DrawFn, depth: int = 3, in_loop: bool = False) -> list[str]:
    """The lines of a block of statements."""
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        lines += draw(statements(depth, in_loop))
    return lines


def indented(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


@st.composite
def statements(draw: st.DrawFn, depth: int, in_loop: bool) -> list[str]:
    name, value = draw(st.sampled_from(NAMES)), draw(expressions(2))
    simple = [
        [f"{name} = {value}"],
        [f"{name} += {value}"],
        [f"log.append({value})"],
        [f"a, *b = {value}"],
        [f"{name}[0] = {value}"],
        [f"raise KeyError({value})"],
        [f"return {value}"],
        [f"yield_or_log({value})"],
        [f"del {name}", f"{name} = 0"],
        [f"assert {value}, 'message'"],
    ]
    if in_loop:
        simple += [["break"], ["continue"]]
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(simple))
    body = indented(draw(blocks(depth - 1, in_loop)))
    other = indented(draw(blocks(depth - 1, in_loop)))
    loop_body = indented(draw(blocks(depth - 1, True)))
    return draw(
        st.sampled_from(
            [
                [f"if {value}:", *body, "else:", *other],
                [f"for {name} in [1, 2, 3]:", *loop_body, "else:", *other],
                ["for _ in range(3):", *loop_body],
                ["try:", *body, "except (KeyError, TypeError) as error:", *other, "    log.append(repr(error))"],
                ["try:", *body, "except Exception:", *other, "else:", *body, "finally:", "    log.append('finally')"],
                ["try:", *body, "finally:", *other],
                ["with manager(log):", *body],
                ["def inner(c=c):", "    nonlocal b", *body, "log.append(inner())"],
                [f"match {value}:", "    case int() | None:", *indented(body), "    case [x, *_]:", *indented(other), "    case _:", "        pass"],  # noqa: E501
            ]
        )
    )


PRELUDE = """
class manager:
    def __init__(self, log): self.log = log
    def __enter__(self): self.log.append('enter'); return self
    def __exit__(self, kind, error, traceback): self.log.append(kind); return kind is KeyError
def helper(value, *rest, key=None): return (value, rest, key)
def program(log):
    yield_or_log = log.append
    a, b, c = 1, [1, 2, 3], 'text'
"""


def outcome(function, call) -> tuple[object, ...]:
    """What a call leads to: its value or its exception with contexts, and what it logged."""
    log: list[object] = []
    try:
        result = call(function, log)
    except Exception as error:
        chain = []
        current: BaseException | None = error
        while current is not None:
            chain.append(f"{type(current).__name__}: {current}")
            current = current.__context__
        lines = []
        traceback = error.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == "<random>":
                lines.append((traceback.tb_frame.f_code.co_name, traceback.tb_lineno))
            traceback = traceback.tb_next
        return ("raised", chain, lines, repr(log))
    return ("returned", repr(result), repr(log))


def without_addresses(value: tuple[object, ...]) -> str:
    return re.sub(r"0x[0-9a-f]+", "0x", repr(value))


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(blocks())
def test_random_program(lines: list[str]) -> None:
    source = PRELUDE + "\n".join(indented(lines)) + "\n    return a, b, c\n"
    namespace: dict[str, object] = {"__name__": "random_program"}
    try:
        exec(compile(source, "<random>", "exec"), namespace)
    except SyntaxError:
        return  # such as a variable used before its `nonlocal`
    function = namespace["program"]
    native = without_addresses(outcome(function, lambda f, log: f(log)))
    for interp in (Interpreter(), Interpreter(Tracker())):
        assert without_addresses(outcome(function, interp.call)) == native, source
