"""`python -m thunder.interpreter.benchmark`: instructions a second, with and without a tracker, beside CPython.

Instructions are those of the common instruction set that the interpreter executes (CPython's bytecode has a few more:
caches, RESUME and the like), counted in a run with a log.  Times are the best of several runs.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from .interpreter import Interpreter
from .tracker import Tracker


def integer_loop(count: int) -> int:
    total = 0
    for index in range(count):
        total = (total + index * 3) % 1000003
    return total


def add(left: int, right: int) -> int:
    return left + right


def function_calls(count: int) -> int:
    total = 0
    for index in range(count):
        total = add(total, index)
    return total


class Counter:
    def __init__(self) -> None:
        self.value = 0
        self.step = 1

    def advance(self) -> int:
        return self.value + self.step


def method_calls(count: int) -> int:
    counter = Counter()
    total = 0
    for _ in range(count):
        total += counter.advance()
    return total


class Particle:
    def __init__(self) -> None:
        self.x = 0.0
        self.y = 1.0
        self.speed = 0.5


def attributes(count: int) -> float:
    particle = Particle()
    for _ in range(count):
        particle.x = particle.x + particle.speed
        particle.y = particle.x - particle.y * particle.speed
    return particle.y


def numbers(count: int) -> Iterator[int]:
    index = 0
    while index < count:
        yield index
        index += 1


def generators(count: int) -> int:
    total = 0
    for number in numbers(count):
        total += number
    return total


WORKLOADS: tuple[Callable[[int], Any], ...] = (
    integer_loop,
    function_calls,
    method_calls,
    attributes,
    generators,
)


def best_time(run: Callable[[int], Any], count: int, repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        begun = time.perf_counter()
        run(count)
        best = min(best, time.perf_counter() - begun)
    return best


def instructions_of(workload: Callable[[int], Any], count: int) -> int:
    """How many instructions one run executes."""
    executed = 0

    def log(*_: Any) -> None:
        nonlocal executed
        executed += 1

    Interpreter(log=log).call(workload, count)
    return executed


def measure(workload: Callable[[int], Any], count: int, repeats: int) -> tuple[float, float, float, float]:
    """(instructions a second plain, tracked, time relative to CPython plain, tracked) of a workload."""
    instructions = instructions_of(workload, count // 10) * 10
    native = best_time(workload, count, repeats)
    rates = []
    for tracker in (None, Tracker()):
        interp = Interpreter(tracker)
        rates.append(best_time(functools.partial(interp.call, workload), count, repeats))
    plain, tracked = rates
    return instructions / plain, instructions / tracked, plain / native, tracked / native


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m thunder.interpreter.benchmark")
    parser.add_argument("--count", type=int, default=20000, help="iterations of each workload")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    print(f"Python {sys.version.split()[0]}")
    print(f"{'workload':16} {'plain':>14} {'tracked':>14}   instructions/s   time relative to CPython")
    for workload in WORKLOADS:
        plain, tracked, plain_ratio, tracked_ratio = measure(workload, options.count, options.repeats)
        print(
            f"{workload.__name__:16} {plain:14,.0f} {tracked:14,.0f}                    "
            f"{plain_ratio:8.0f}x plain, {tracked_ratio:.0f}x tracked"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
