"""Run rows of suites under subjects, in warmed server processes, and write each result as it comes.

Input: the chosen suites, subjects and rows. Output: `rows.jsonl` in the output directory, one line a row, and the
list of all results. A run that was interrupted goes on where it stopped: rows that have a line are not run again.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import os
import platform
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import thunder
from thunder.coverage.device import process_variables
from thunder.coverage.errors import ServerFailed
from thunder.coverage.outcomes import Outcome, RowResult, Status
from thunder.errors import OptionError

SECONDS_TO_END = 5.0
"""How long a server may take to end the row that it runs."""


@dataclasses.dataclass
class Plan:
    """What to run, and under which limits."""

    suites: list[str]
    subjects: list[str]
    output: Path
    only: list[str] = dataclasses.field(default_factory=list)
    phases: list[str] = dataclasses.field(default_factory=list)
    limit: int | None = None
    jobs: int = 1
    row_timeout: float | None = None
    memory_gib: float = 12.0
    resume: bool = False
    device: str = "cpu"
    stop_after: float | None = None
    """Seconds after which the run ends: rows that are then running are given up and have no line."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One row under one subject."""

    suite: str
    row: str
    subject: str


class Server:
    """A handle on one `thunder.coverage.server` process."""

    def __init__(self, suite: str, subject: str, device: str = "cpu", jobs: int = 1) -> None:
        self.suite, self.subject, self.taken = suite, subject, False
        command = [sys.executable, "-m", "thunder.coverage.server", suite, subject, device]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=process_variables(device, jobs),
            start_new_session=True,
        )
        self.errors: list[str] = []
        threading.Thread(target=self.read_errors, daemon=True).start()
        self.about = self.read()

    def read_errors(self) -> None:
        """Keep the last lines that the server writes to its standard error."""
        assert self.process.stderr is not None  # it was opened as a pipe
        for line in self.process.stderr:
            self.errors = [*self.errors[-20:], line]

    def read(self) -> dict[str, Any]:
        """The server's next answer."""
        assert self.process.stdout is not None  # it was opened as a pipe
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise ServerFailed(self.suite, self.errors[-1] if self.errors else f"exit code {self.process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, row: str, plan: Plan) -> RowResult:
        """Run one row."""
        assert self.process.stdin is not None  # it was opened as a pipe
        request = {
            "row": row,
            "row_timeout": plan.row_timeout or self.about["row_timeout"],
            "case_timeout": self.about["case_timeout"],
            "memory": int(plan.memory_gib * 2**30),
            "phases": plan.phases,
        }
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return RowResult.from_json(self.read())

    def close(self) -> None:
        """End the server and whatever it started."""
        if self.process.poll() is None:
            self.process.terminate()  # it ends the process of the row that runs, which has a group of its own
            try:
                self.process.wait(timeout=SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def list_rows(suite: str) -> list[str]:
    """The names of a suite's rows."""
    server = Server(suite, "eager")
    server.close()
    rows: list[str] = server.about["rows"]
    return rows


def choose_rows(names: Sequence[str], only: Sequence[str]) -> list[str]:
    """Rows that equal or match one of the patterns; all rows without patterns."""
    if not only:
        return list(names)
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in only)]


def plan_tasks(plan: Plan, rows_of: Mapping[str, Sequence[str]]) -> list[Task]:
    """All rows to run, suite by suite, the subjects of a row next to each other."""
    tasks: list[Task] = []
    for suite in plan.suites:
        rows = choose_rows(rows_of[suite], plan.only)
        if plan.limit is not None and len(rows) > plan.limit:
            rows = [rows[index * len(rows) // plan.limit] for index in range(plan.limit)]
        tasks += [Task(suite, row, subject) for row in rows for subject in plan.subjects]
    if plan.only and not tasks:
        raise OptionError(
            f"--only {', '.join(plan.only)} matches no row of {', '.join(plan.suites)}",
            remedy="list the rows with `thunder coverage --list`",
        )
    return tasks


def read_rows(path: Path) -> list[RowResult]:
    """The rows of a `rows.jsonl`; a last line that was cut off by an interruption is ignored."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            fields = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows.append(RowResult.from_json(fields))
    return rows


class Run:
    """A run in progress: its tasks, its results, its worker threads."""

    def __init__(self, plan: Plan, on_result: Callable[[RowResult], None] = lambda result: None) -> None:
        self.plan = plan
        self.stop_at = time.monotonic() + plan.stop_after if plan.stop_after is not None else None
        self.stopping = False
        self.on_result = on_result
        self.versions: dict[str, str] = {"thunder": thunder.__version__, "python": platform.python_version()}
        self.path = plan.output / "rows.jsonl"
        self.lock = threading.RLock()
        self.servers = {suite: [Server(suite, plan.subjects[0], plan.device, plan.jobs)] for suite in plan.suites}
        rows = {}
        for suite, (server,) in self.servers.items():
            rows[suite] = server.about["rows"]
            self.versions.update(server.about["versions"])
        try:
            self.tasks = plan_tasks(plan, rows)
        except OptionError:
            self.close()
            raise
        wanted = {(task.suite, task.row, task.subject) for task in self.tasks}
        self.results = [row for row in read_rows(self.path) if row.key in wanted] if plan.resume else []
        done = {row.key for row in self.results}
        self.pending = [task for task in self.tasks if (task.suite, task.row, task.subject) not in done]
        self.failure: BaseException | None = None
        if plan.stop_after is not None:
            random.Random(0).shuffle(self.pending)  # what has ended by then is a sample of the whole

    def execute(self) -> list[RowResult]:
        """Run all pending tasks; the results of the whole plan."""
        self.plan.output.mkdir(parents=True, exist_ok=True)
        if not self.plan.resume:
            self.path.write_text("")
        timer = threading.Timer(max(0.0, (self.stop_at or 0.0) - time.monotonic()), self.stop)
        if self.stop_at is not None:
            timer.start()
        try:
            for group in grouped(self.pending):
                if not self.stopping:
                    self.execute_group(group)
        finally:
            timer.cancel()
            self.close()
        order = {(task.suite, task.row, task.subject): index for index, task in enumerate(self.tasks)}
        return sorted(self.results, key=lambda row: order[row.key])

    def execute_group(self, tasks: Sequence[Task]) -> None:
        """Run the tasks of one suite in as many threads as there are jobs."""
        waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in tasks:
            waiting.put(task)
        threads = [
            threading.Thread(target=self.work, args=(waiting,), daemon=True)
            for _ in range(min(self.plan.jobs, len(tasks)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.close(tasks[0].suite)
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """End the run: what is running is given up, and `execute` returns what has ended."""
        self.stopping = True
        with self.lock:
            running = [server for servers in self.servers.values() for server in servers]
        for server in running:
            server.process.terminate()

    def close(self, suite: str | None = None) -> None:
        """End the servers of a suite, or all."""
        for name in [suite] if suite else list(self.servers):
            for server in self.servers.pop(name, ()):
                server.close()

    def work(self, waiting: queue.SimpleQueue[Task]) -> None:
        """One worker: take tasks until there are none, one warm server for each subject."""
        servers: dict[str, Server] = {}
        try:
            while self.failure is None and not self.stopping:
                try:
                    task = waiting.get_nowait()
                except queue.Empty:
                    return
                result = self.run_task(task, servers)
                if not self.stopping:
                    self.keep(result)
        except ServerFailed as error:  # a server that was starting when the run was stopped
            self.failure = None if self.stopping else error
        except BaseException as error:  # handed to the thread that waits for this one
            self.failure = error

    def run_task(self, task: Task, mine: dict[str, Server]) -> RowResult:
        """Run a row on one of this worker's servers; a server that dies of it counts as the row's crash."""
        if task.subject not in mine:
            mine[task.subject] = self.server_for(task)
        try:
            return mine[task.subject].run(task.row, self.plan)
        except (ServerFailed, BrokenPipeError) as error:
            mine.pop(task.subject).close()
            result = RowResult(task.suite, task.row, task.subject)
            result.add(Outcome("build", "", Status.CRASH, error_class="ServerFailed", message=str(error)))
            return result

    def server_for(self, task: Task) -> Server:
        """A server that no other worker uses: the one that listed the rows, or a new one."""
        with self.lock:
            known = self.servers[task.suite]
            if len(known) == 1 and known[0].subject == task.subject and not known[0].taken:
                known[0].taken = True
                return known[0]
        server = Server(task.suite, task.subject, self.plan.device, self.plan.jobs)
        server.taken = True
        with self.lock:
            known.append(server)
        if self.stopping:
            server.process.terminate()
        return server

    def keep(self, result: RowResult) -> None:
        """Write a result down and tell whoever watches."""
        with self.lock:
            self.results.append(result)
            with self.path.open("a") as file:
                file.write(json.dumps(result.to_json()) + "\n")
            self.on_result(result)


def grouped(tasks: Iterable[Task]) -> list[list[Task]]:
    """Tasks by suite: the servers of one suite end before those of the next start."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.suite, []).append(task)
    return list(groups.values())
