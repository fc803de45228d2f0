"""A warmed process that rows are forked from: `python -m thunder.coverage.server SUITE SUBJECT [DEVICE]`.

Importing PyTorch and a model library takes seconds; a fork takes milliseconds. Input, on standard input: one JSON
object a line, naming a row and its time limits. Output, on standard output: one JSON object a line: first the
suite's rows, limits and versions, then each finished row.

Invariants: a row's crash or hang ends only its own process, and the next row gets a new one; every case of a row that
was running then is in the result; a row with several cases goes on after the one that died. Rows that follow each
other in one process (`Suite.rows_of_a_process`) share nothing but what PyTorch and the subject keep. Where warming up
has touched the device, which a fork would not survive, rows run in processes that warm up by themselves.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from importlib import metadata
from typing import IO, Any

import torch

from thunder._torch_compat import is_forked_from_cuda
from thunder.coverage import device as devices
from thunder.coverage.outcomes import Outcome, RowResult, Status
from thunder.coverage.recorder import Recorder
from thunder.coverage.registry import suite_named
from thunder.coverage.subjects import Subject, subject_named
from thunder.coverage.suite import Suite

MAX_RESTARTS = 20
"""How many dead processes a row may leave behind before the rest of it is given up."""
LOG_TAIL = 1 << 16


class Process:
    """A forked process that runs rows, one after another, and is watched meanwhile."""

    def __init__(self, suite: Suite, subject: Subject, memory: int) -> None:
        self.case: dict[str, Any] | None = None
        self.case_began = time.monotonic()
        self.finished = False
        self.resume_at: int | None = None
        self.rows = 0
        self.buffer = b""
        self.log: IO[bytes] = tempfile.TemporaryFile()
        reader, writer = os.pipe()
        jobs, self.orders = os.pipe()
        survives = devices.survives_fork(suite.device)
        self.process = os.fork()
        if self.process == 0:
            os.close(reader)
            os.close(self.orders)
            log_to(self.log)
            if not survives or is_forked_from_cuda():
                start_afresh(suite, subject, jobs, writer, memory)
            run_jobs(suite, subject, jobs, writer, memory)
        os.close(writer)
        os.close(jobs)
        self.reader = reader

    def begin(self, job: dict[str, Any], first_case: int) -> None:
        """Have the process run a row, from a case on."""
        self.case, self.case_began, self.finished, self.resume_at = None, time.monotonic(), False, None
        self.rows += 1
        try:
            os.write(self.orders, (json.dumps({**job, "first_case": first_case}) + "\n").encode())
        except BrokenPipeError:
            pass  # it is dead, which whoever reads its events finds out

    def events(self, deadline: float, case_timeout: float | None) -> list[dict[str, Any]] | None:
        """The next events; an empty list at the end of the process, None when a limit has passed."""
        while True:
            limit = deadline
            if case_timeout is not None:
                limit = min(limit, self.case_began + case_timeout)
            wait = limit - time.monotonic()
            if wait <= 0 or not select.select([self.reader], [], [], wait)[0]:
                return None
            data = os.read(self.reader, 1 << 16)
            if not data:
                return []
            *lines, self.buffer = (self.buffer + data).split(b"\n")
            if lines:
                return [json.loads(line) for line in lines]

    def end(self) -> int:
        """Kill what is left of the process and its children; the wait status."""
        os.close(self.orders)
        if not self.finished:
            try:
                os.killpg(self.process, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has not made its group yet, or is gone
        _, status = os.waitpid(self.process, 0)
        os.close(self.reader)
        return status

    def log_tail(self) -> str:
        """The last of what the process printed: a crash's message is there."""
        self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, self.log.tell() - LOG_TAIL))
        return self.log.read().decode(errors="replace")


def log_to(log: IO[bytes]) -> None:
    """What this process prints, and what is said of its death, goes to a file."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)


def start_afresh(suite: Suite, subject: Subject, jobs: int, events: int, memory: int) -> None:
    """Replace this forked process by one that warms up by itself, and then runs rows."""
    for descriptor in (jobs, events):
        os.set_inheritable(descriptor, True)
    arguments = [suite.name, subject.name, suite.device, str(jobs), str(events), str(memory)]
    os.execv(sys.executable, [sys.executable, "-m", "thunder.coverage.server", *arguments])


def run_jobs(suite: Suite, subject: Subject, jobs: int, events: int, memory: int) -> None:
    """Run rows in this process as long as there are orders, and end it."""
    faulthandler.enable(file=2, all_threads=False)
    if memory and devices.limits_address_space(suite.device):
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    code = 1
    try:
        devices.prepare(suite.device, memory)
        with os.fdopen(jobs) as orders:
            for line in orders:
                job = json.loads(line)
                torch.manual_seed(0)
                recorder = Recorder(events, job["first_case"], job["phases"])
                suite.run_row(job["row"], subject, recorder)
                recorder.send({"event": "done"})
        code = 0
    except BaseException:  # the process ends here: its parent counts the row as crashed and keeps this message
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Rows:
    """Runs rows to their ends, in as many processes as it takes; a process that has done well may run several."""

    def __init__(self, suite: Suite, subject: Subject) -> None:
        self.suite, self.subject = suite, subject
        self.process: Process | None = None

    def run(self, job: dict[str, Any]) -> RowResult:
        """The result of one row."""
        result = RowResult(self.suite.name, job["row"], self.subject.name)
        started = time.monotonic()
        deadline = started + job["row_timeout"]
        first_case, restarts = 0, 0
        while True:
            process = self.process = self.process or Process(self.suite, self.subject, job["memory"])
            process.begin(job, first_case)
            timed_out = not follow(process, result, deadline, job["case_timeout"])
            if process.finished and process.rows < self.suite.rows_of_a_process:
                break
            self.process = None
            status = process.end()
            if process.finished:
                process.log.close()
                break
            if process.resume_at is None:
                index = record_death(process, result, timed_out, status)
            else:
                index = process.resume_at - 1
            process.log.close()
            restarts += 1
            out_of_time = time.monotonic() >= deadline
            if index is None or job["case_timeout"] is None or out_of_time or restarts > MAX_RESTARTS:
                break
            first_case = index + 1
        result.seconds = time.monotonic() - started
        return result

    def end(self) -> None:
        """End the process that runs a row or waits for another one."""
        if self.process is not None:
            self.process.end()
            self.process.log.close()
            self.process = None


def follow(process: Process, result: RowResult, deadline: float, case_timeout: float | None) -> bool:
    """Read a process's events into the result until it ends (True) or passes a limit (False)."""
    while True:
        events = process.events(deadline, case_timeout)
        if not events:
            return events is not None
        for event in events:
            kind = event.pop("event")
            if kind == "begin":
                process.case, process.case_began = event, time.monotonic()
            elif kind == "end":
                process.case, process.case_began = None, time.monotonic()
                result.add(Outcome.from_json(event))
            elif kind == "note":
                result.notes.update(event["notes"])
            elif kind == "lost":
                process.resume_at = event["index"]
            elif kind == "done":
                process.finished = True
                return True


def record_death(process: Process, result: RowResult, timed_out: bool, status: int) -> int | None:
    """Count the case that was running when a process died; its index, or None when there was none."""
    seconds = time.monotonic() - process.case_began
    running = process.case or {"phase": "build", "case": "(between cases)", "index": None}
    if timed_out:
        outcome = Outcome(running["phase"], running["case"], Status.TIMEOUT, seconds, message=f"after {seconds:.0f} s")
    else:
        outcome = Outcome(running["phase"], running["case"], Status.CRASH, seconds)
        outcome.error_class, outcome.message = cause_of_death(process.log_tail(), status)
    result.add(outcome)
    return running["index"]


def cause_of_death(log: str, status: int) -> tuple[str, str]:
    """Name of the signal or exit code, and the line of the log that says most."""
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
    else:
        name = f"exit code {os.waitstatus_to_exitcode(status)}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    fatal = [line for line in lines if "Fatal Python error" in line][:1]
    if fatal:
        said = " ".join(fatal + [line for line in lines if line.startswith("File ")][:1])
    else:
        said = lines[-1] if lines else ""
    return name, said[:600]


def serve(suite: Suite, subject: Subject, requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until there are no more."""
    rows = Rows(suite, subject)
    try:
        for line in requests:
            result = rows.run(json.loads(line))
            answers.write(json.dumps(result.to_json()) + "\n")
            answers.flush()
    finally:
        rows.end()


def versions_of(packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of distributions."""
    return {package: metadata.version(package) for package in packages}


def main(arguments: list[str]) -> None:
    """Warm up, then serve, or run the rows of a server that could not fork a process for them."""
    suite, subject = suite_named(arguments[0]), subject_named(arguments[1])
    suite.device = devices.check_device(arguments[2] if len(arguments) > 2 else "cpu")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    torch.set_num_threads(1)
    suite.warm()
    subject.warm()
    if len(arguments) > 3:
        jobs, events, memory = map(int, arguments[3:])
        run_jobs(suite, subject, jobs, events, memory)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what runs is ended on the way out
    about = {"rows": list(suite.row_names()), "versions": versions_of(suite.packages)}
    limits = {"row_timeout": suite.row_timeout, "case_timeout": suite.case_timeout}
    answers.write(json.dumps({**about, **limits}) + "\n")
    answers.flush()
    gc.collect()
    gc.freeze()  # collections in the forked processes leave the shared memory alone
    serve(suite, subject, sys.stdin, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
