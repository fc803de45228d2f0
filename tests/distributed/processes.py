"""Processes that wait for functions to run, as the ranks of one gloo process group.

Starting a process takes seconds, most of it imports: processes are forked from one that has imported what they need,
and the tests of this folder share the processes of a pool.
"""

from __future__ import annotations

import datetime
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

TIMEOUT = 300
PRELOADED = ["thunder", "transformers.models.llama.modeling_llama", "torch.distributed.pipelining"]


class Processes:
    """`world` processes with one process group."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._started: list[tuple[Any, Connection]] = []

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """`function(rank, *args)` on every rank; the results in rank order.

        The function must be importable.  When a rank fails, all processes are ended: none knows what the others
        wait for.
        """
        if not self._started:
            self._start()
        for _, connection in self._started:
            connection.send((function, args))
        results, failures = [], []
        for rank, (process, connection) in enumerate(self._started):
            if not connection.poll(TIMEOUT if not failures else 10):
                failures.append(f"rank {rank}: no answer (alive: {process.is_alive()})")
                continue
            try:
                succeeded, answer = connection.recv()
            except EOFError:
                process.join(10)  # its pipe closes before it has ended
                succeeded, answer = False, f"the process has ended with exit code {process.exitcode}"
            (results if succeeded else failures).append(answer if succeeded else f"rank {rank}: {answer}")
        if failures:
            self.stop()
            raise AssertionError("\n".join(failures))
        return results

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        port = free_port()
        for rank in range(self.world):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.world, port, there), daemon=True)
            process.start()
            there.close()
            self._started.append((process, here))

    def stop(self) -> None:
        for process, connection in self._started:
            connection.close()
            process.kill()
            process.join()
        self._started.clear()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _serve(rank: int, world: int, port: int, connection: Connection) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=TIMEOUT))
    while True:
        try:
            function, args = connection.recv()
        except EOFError:
            return
        try:
            connection.send((True, function(rank, *args)))
        except BaseException:  # a boundary: whatever it is, the test is to show it
            connection.send((False, traceback.format_exc()))
