"""A contender's own process: it builds workloads, times first calls and later calls, and returns results.

A process per contender keeps their compilers' caches, memory and crashes apart, and lets the parent time
their calls in turns, so that a change of the machine's speed meets all of them alike.

Input: requests of the parent over a pipe.  Output: answers over the same pipe.  Invariants: every request
gets one answer or ends the process; what the contender prints goes to its log, never to the terminal.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.text import Text
from torch import nn

from thunder.cli.contenders import CONTENDERS
from thunder.cli.inspection import Listing, listings
from thunder.cli.large_workloads import FULL, SMALL, large_workloads
from thunder.cli.roofline import Ceilings, Work, count_work, measure_ceilings
from thunder.cli.workloads import (
    DEMONSTRATION,
    FIGURES,
    Results,
    Task,
    Workload,
    results,
    step,
    surroundings,
    truth,
)


def find_workload(name: str, device: str) -> Workload:
    """The workload of this name, at the size that suits the device."""
    scale = SMALL if torch.device(device).type == "cpu" else FULL
    return {workload.name: workload for workload in (*DEMONSTRATION, *FIGURES, *large_workloads(scale))}[name]


class ContenderError(Exception):
    """A contender failed: the message is short enough for a table, `details` holds the whole story."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


@dataclass(frozen=True)
class FirstCall:
    """The first call of a compiled model: its time in seconds and what it computed."""

    seconds: float
    results: Results


class Session:
    """What one process holds: the current workload's task and the compiled model's step."""

    def __init__(self, contender: str) -> None:
        self.contender = CONTENDERS[contender]
        self.workload: Workload
        self.task: Task
        self.compiled: Any = None
        self.step: Callable[[], Any]
        self.wait: Callable[[], None] = nothing

    def warm_up(self) -> None:
        """Compiles and runs a trivial module, so that the compiler itself is loaded."""
        with torch.no_grad():
            self.contender.compile(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))(torch.ones(1, 2))

    def build(self, workload: str, device: str) -> None:
        """Makes the model and its inputs on a device.

        They replace those of the workload before, unless that one was built by the same function: then its
        model stays, compiled as it is.
        """
        before = getattr(self, "workload", None)
        self.workload = find_workload(workload, device)
        if before is None or before.build is not self.workload.build:
            on_device = nullcontext() if device == "cpu" else torch.device(device)
            with on_device:  # random weights are drawn where they will be: copying billions of them takes long
                task = self.workload.build().to(device)
            self.task = replace(task, generate={**task.generate, **dict(self.contender.generate)})
            self.compiled = None
            self.wait = nothing if device == "cpu" else torch.accelerator.synchronize
            self.device = torch.device(device)

    def first_call(self) -> FirstCall:
        """Compiles, unless the model is compiled already, and runs the first step; the time of both.

        Raises:
            ContenderError: the step was not compiled, but ran in plain Python.
        """
        start = time.perf_counter()
        if self.compiled is None:
            self.compiled = self.contender.compile(self.task.model)
        self.step = step(self.task, self.workload.kind, self.compiled)
        with surroundings(self.workload.kind):
            returned = self.step()
        self.wait()
        seconds = time.perf_counter() - start
        plain = self.contender.plain_calls(self.compiled)
        if plain:
            raise ContenderError(f"not compiled: {plain} calls ran in plain Python")
        return FirstCall(seconds, results(self.task, self.workload.kind, returned))

    def call(self) -> Results:
        """One more step; its results."""
        with surroundings(self.workload.kind):
            return results(self.task, self.workload.kind, self.step())

    def time_calls(self, count: int) -> float:
        """Seconds a step, over `count` steps."""
        step = self.step
        with surroundings(self.workload.kind):
            if self.device.type != "cpu" and self.workload.kind != "generation":
                step()  # takes the memory that `rest` gave back; for a generation that is nothing beside its length
            self.wait()
            start = time.perf_counter()
            for _ in range(count):
                step()
            self.wait()
            seconds = (time.perf_counter() - start) / count
        self.rest()
        return seconds

    def truth(self) -> Results:
        """The results of a step in a higher precision; see `Workload.truth`."""
        found = truth(self.task, self.workload)
        self.rest()
        return found

    def peak_memory(self) -> int | None:
        """The most bytes of the device's memory that are held at one time in a step; None on the CPU."""
        if self.device.type == "cpu":
            return None
        torch.accelerator.reset_peak_memory_stats()
        with surroundings(self.workload.kind):
            self.step()
        self.wait()
        return int(torch.accelerator.max_memory_allocated())

    def rest(self) -> None:
        """Gives back what a step leaves behind, so that contenders which take turns fit on one device."""
        if self.device.type != "cpu":
            self.task.model.zero_grad(set_to_none=True)
            torch.accelerator.empty_cache()

    def work(self) -> Work:
        """What a step has to do, whoever does it."""
        uncompiled = step(self.task, self.workload.kind, self.task.model)
        return count_work(self.task, self.workload, uncompiled)

    def ceilings(self) -> Ceilings:
        """What the device can do, measured."""
        return measure_ceilings(self.device)

    def listings(self) -> list[Listing]:
        """The programs that thunder made of the model, stage by stage."""
        return listings(self.compiled)


def nothing() -> None:
    """Waits for the work that the CPU was given, which is done when a call returns."""


def serve(connection: Connection, contender: str, directory: str) -> None:
    """The process: answers requests `(method of Session, arguments)` until the parent hangs up."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(directory, "inductor")
    os.environ["THUNDER_CACHE_DIR"] = os.path.join(directory, "thunder")
    log = os.open(os.path.join(directory, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    session = Session(contender)
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            connection.send(("result", getattr(session, method)(*arguments)))
        except KeyboardInterrupt:
            return
        except ContenderError as error:
            connection.send(("error", str(error), ""))
        except Exception as error:  # a boundary: whatever a contender raises is shown in its row of the table
            connection.send(("error", one_line(error), traceback.format_exc()))


def one_line(error: BaseException) -> str:
    """The exception's class and the first line of its message that says something."""
    lines = [line.strip() for line in Text.from_ansi(str(error)).plain.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class Worker:
    """The parent's handle on a contender's process; a context manager that ends the process.

    Args:
        contender: its name in `CONTENDERS`.
        directory: an empty directory for its caches and its log.
        timeout: seconds that one request may take.
    """

    def __init__(self, contender: str, directory: Path, timeout: float = 300.0) -> None:
        self.contender = contender
        self.timeout = timeout
        directory.mkdir(parents=True)
        self._log = directory / "log"
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, contender, str(directory)), name=f"thunder {contender}"
        )
        self._process.start()
        theirs.close()

    def send(self, method: str, *arguments: Any) -> None:
        """Makes a request; `receive` or `answers` gives the answer."""
        self.deadline = time.monotonic() + self.timeout
        with suppress(OSError):  # a process that has ended is noticed where its answer is missing
            self.connection.send((method, arguments))

    def receive(self) -> Any:
        """The answer to the request that was made last.

        Raises:
            ContenderError: the request raised, took longer than the timeout, or ended the process.
        """
        try:
            if not self.connection.poll(max(0.0, self.deadline - time.monotonic())):
                self.end()
                raise ContenderError(f"no answer within {self.timeout:.0f} s", self.log_tail())
            answer = self.connection.recv()
        except (EOFError, OSError) as error:
            self.end()
            message = f"the process ended (code {self._process.exitcode})"
            raise ContenderError(message, self.log_tail()) from error
        if answer[0] == "error":
            raise ContenderError(answer[1], "\n".join(filter(None, [answer[2], self.log_tail()])))
        return answer[1]

    def ask(self, method: str, *arguments: Any) -> Any:
        """The answer to one request; raises what `receive` raises."""
        self.send(method, *arguments)
        return self.receive()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def log_tail(self) -> str:
        """The last lines that the process printed."""
        if not self._log.exists():
            return ""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def close(self) -> None:
        """Hangs up, which ends an idle process; one that does not end by itself is ended."""
        self.connection.close()
        self._process.join(3)
        self.end()

    def end(self) -> None:
        """Ends the process, whatever it is doing; harmless when it has ended already."""
        self.connection.close()
        self._process.terminate()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def answers(workers: Mapping[str, Worker]) -> Iterator[tuple[str, Any]]:
    """The answers to requests that were sent to several workers, as they come; errors in place of those that fail."""
    waiting = dict(workers)
    while waiting:
        patience = min(worker.deadline for worker in waiting.values()) - time.monotonic()
        ready = wait([worker.connection for worker in waiting.values()], max(0.0, patience))
        now = time.monotonic()
        for name, worker in list(waiting.items()):
            if worker.connection in ready or worker.deadline <= now:
                del waiting[name]
                try:
                    yield name, worker.receive()
                except ContenderError as error:
                    yield name, error
