"""Random programs of expressions and control flow behave the same natively and interpreted."""

from __future__ import annotations

import os
import re

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from thunder.interpreter import Interpreter, Tracker

EXAMPLES = int(os.environ.get("THUNDER_RANDOM_PROGRAMS", "150"))
# Not `explain`, which takes minutes and says nothing about generated programs.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
NAMES = ("a", "b", "c")


LEAVES = (*NAMES, "0", "7", "(-3)", "True", "None", "'xy'", "[1, 2]", "{1: 2}", "(1, 'z')", "1.5")
# Where a template says {e} an expression goes.
TEMPLATES = (
    "({e} + {e})",
    "({e} * {e})",
    "({e} - {e})",
    "({e} // {e})",
    "({e} % {e})",
    "({e} < {e} <= {e})",
    "({e} == {e})",
    "({e} is {e})",
    "({e} in {e})",
    "({e} and {e} or {e})",
    "(not {e})",
    "({e} if {e} else {e})",
    "[{e}, *[{e}]]",
    "{{'k': {e}, **{{'l': {e}}}}}",
    "{e}[{e}]",
    "{e}[{e}:{e}]",
    "[x for x in {e} if x != {e}]",
    "(lambda v, w=1: (v, w))({e}, {e})",
    "f'{{{e}!r:>6}}'",
    "len({e})",
    "(n := {e})",
    "helper({e}, key={e})",
)


@st.composite
def expressions(draw: st.DrawFn, depth: int = 2) -> str:
    """The text of an expression over the variables."""
    if depth == 0 or draw(st.integers(0, 2)) == 0:
        return draw(st.sampled_from(LEAVES))
    template = draw(st.sampled_from(TEMPLATES))
    parts = template.replace("{{", "\0").replace("}}", "\1").split("{e}")
    text = parts[0]
    for part in parts[1:]:
        text += draw(expressions(depth - 1)) + part
    return text.replace("\0", "{").replace("\1", "}")


SIMPLE = (
    "{n} = {e}",
    "{n} += {e}",
    "log.append({e})",
    "a, *b = {e}",
    "{n}[0] = {e}",
    "raise KeyError({e})",
    "return {e}",
    "del {n}; {n} = 0",
    "assert {e}, 'message'",
)
# A line that is "BLOCK" or "LOOP" is replaced by a block of statements, of a loop's body in the second case.
COMPOUND = (
    ("if {e}:", "BLOCK", "else:", "BLOCK"),
    ("for {n} in [1, 2, 3]:", "LOOP", "else:", "BLOCK"),
    ("for _ in range(3):", "LOOP"),
    ("try:", "BLOCK", "except (KeyError, TypeError) as error:", "BLOCK", "    log.append(str(error))"),
    (
        "try:",
        "BLOCK",
        "except Exception:",
        "BLOCK",
        "else:",
        "BLOCK",
        "finally:",
        "    log.append('finally')",
    ),
    ("try:", "BLOCK", "finally:", "BLOCK"),
    ("with manager(log):", "BLOCK"),
    ("def inner(c=c):", "    nonlocal b", "BLOCK", "log.append(inner())"),
    ("def numbers():", "    yield {e}", "BLOCK", "    yield {e}", "log += numbers()"),
    (
        "match {e}:",
        "    case int() | None:",
        "DEEP",
        "    case [x, *_]:",
        "DEEP",
        "    case _:",
        "        pass",
    ),
)


@st.composite
def blocks(draw: st.DrawFn, depth: int = 2, in_loop: bool = False) -> list[str]:
    """The lines of a block of statements."""
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        lines += draw(statements(depth, in_loop))
    return lines


def indented(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


@st.composite
def statements(draw: st.DrawFn, depth: int, in_loop: bool) -> list[str]:
    def filled(template: str) -> str:
        text = template.replace("{n}", draw(st.sampled_from(NAMES)))
        while "{e}" in text:
            text = text.replace("{e}", draw(expressions()), 1)
        return text

    if depth == 0 or draw(st.booleans()):
        choices = SIMPLE + (("break", "continue") if in_loop else ())
        return [filled(draw(st.sampled_from(choices)))]
    lines: list[str] = []
    for line in draw(st.sampled_from(COMPOUND)):
        if line in ("BLOCK", "LOOP", "DEEP"):
            body = indented(draw(blocks(depth - 1, line == "LOOP")))
            lines += indented(body) if line == "DEEP" else body
        else:
            lines.append(filled(line))
    return lines


PRELUDE = """
class manager:
    def __init__(self, log): self.log = log
    def __enter__(self): self.log.append('enter'); return self
    def __exit__(self, kind, error, traceback): self.log.append(kind); return kind is KeyError
def helper(value, *rest, key=None): return (value, rest, key)
def program(log):
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


@settings(max_examples=EXAMPLES, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
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
