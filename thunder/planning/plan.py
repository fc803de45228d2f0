"""What is planned: a job on a mesh, and a way to divide it.

Ranks are counted with tensor parallelism innermost, then the ranks that share one copy of the parameters, then the
copies, then the stages of the pipeline: what communicates most lies closest.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from thunder.errors import PlanningError
from thunder.planning.collectives import Group
from thunder.planning.models import PlannedModel

Precision = Literal["mixed", "bf16"]
Schedule = Literal["1f1b", "gpipe", "interleaved", "zero-bubble"]
PRECISIONS: tuple[Precision, ...] = ("mixed", "bf16")
SCHEDULES: tuple[Schedule, ...] = ("1f1b", "gpipe", "interleaved", "zero-bubble")


@dataclass(frozen=True)
class Mesh:
    """GPUs: so many nodes of so many each."""

    nodes: int
    per_node: int

    @property
    def size(self) -> int:
        return self.nodes * self.per_node

    @staticmethod
    def parse(text: str) -> Mesh:
        """`64x8`: 64 nodes of 8; `4`: one node of 4."""
        match = re.fullmatch(r"(?:(\d+)x)?(\d+)", text.strip())
        if match is None or not int(match[2]) or match[1] == "0":
            raise PlanningError(f"mesh {text!r} is no mesh", remedy="write nodes x GPUs of each, as in 64x8")
        return Mesh(int(match[1] or 1), int(match[2]))

    @staticmethod
    def of_size(size: int, per_node: int) -> Mesh:
        """Whole nodes, or a part of one."""
        if size > per_node and size % per_node:
            raise PlanningError(f"{size} ranks are not whole nodes of {per_node}")
        return Mesh(max(1, size // per_node), min(size, per_node))

    def __str__(self) -> str:
        return f"{self.nodes}x{self.per_node}"


@dataclass(frozen=True)
class Bytes:
    """Bytes for each parameter of what a precision keeps.

    Attributes:
        state: the parameter that the optimiser changes, and AdamW's two moments.
        gradient: as it is kept for the optimiser.
        compute: as the program uses it; 0 where that is the parameter itself.
        gathered, reduced: as collectives carry parameters and gradients.
        updated: read and written by the optimiser's step.
    """

    state: int
    gradient: int
    compute: int
    gathered: int
    reduced: int
    updated: int


# mixed: parameters, moments and sums in float32, computation in bfloat16.  bf16: everything in bfloat16.
BYTES: dict[Precision, Bytes] = {
    "mixed": Bytes(state=12, gradient=4, compute=2, gathered=2, reduced=4, updated=30),
    "bf16": Bytes(state=6, gradient=2, compute=0, gathered=2, reduced=2, updated=14),
}


@dataclass(frozen=True)
class Job:
    """What is to be trained.

    Attributes:
        sequence: tokens of a sequence.
        batch: sequences of a step, over all ranks.
    """

    model: PlannedModel
    sequence: int
    batch: int
    precision: Precision = "mixed"
    schedule: Schedule = "1f1b"

    @property
    def tokens(self) -> int:
        return self.sequence * self.batch


@dataclass(frozen=True)
class Plan:
    """A way to divide a job.

    Attributes:
        copies: copies of the parameters.
        shard: ranks among which one copy is divided; 1 for DDP.
        stage: 0 for DDP, 2 where gathered parameters are kept until backward, 3 where they are gathered again.
        tensor: ranks that share each layer.
        pipeline: stages.
        micro_batch: sequences that a rank computes at a time.
        checkpointing: layers are computed again in backward, from their inputs.
    """

    copies: int
    shard: int
    stage: int
    tensor: int
    pipeline: int
    micro_batch: int
    checkpointing: bool

    @property
    def data(self) -> int:
        """Ranks with batches of their own."""
        return self.copies * self.shard

    @property
    def size(self) -> int:
        return self.data * self.tensor * self.pipeline

    def micro_batches(self, job: Job) -> int:
        """Micro-batches of a rank in a step; raises where the batch does not divide."""
        each = self.data * self.micro_batch
        if job.batch % each:
            raise PlanningError(
                f"a batch of {job.batch} sequences does not divide among {self.data} ranks by "
                f"{self.micro_batch} at a time",
                remedy="change --batch, --micro-batch or the mesh",
            )
        return job.batch // each

    def tensor_group(self, mesh: Mesh) -> Group:
        return Group.strided(self.tensor, 1, mesh.per_node)

    def shard_group(self, mesh: Mesh) -> Group:
        return Group.strided(self.shard, self.tensor, mesh.per_node)

    def copy_group(self, mesh: Mesh) -> Group:
        return Group.strided(self.copies, self.tensor * self.shard, mesh.per_node)

    def stages_within_node(self, mesh: Mesh) -> bool:
        """Whether a stage of the pipeline finds the next one in its own node."""
        return self.tensor * self.data * self.pipeline <= mesh.per_node

    def describe(self) -> str:
        """`fsdp3 x64, tp 8, pp 1, 2 at a time, checkpointing`, without what is 1."""
        parts = [f"ddp x{self.copies}" if self.shard == 1 else f"fsdp{self.stage} x{self.shard}"]
        if self.shard > 1 and self.copies > 1:
            parts[0] += f" x{self.copies} copies"
        parts += [f"tp {self.tensor}"] * (self.tensor > 1) + [f"pp {self.pipeline}"] * (self.pipeline > 1)
        return ", ".join(parts)


def divisors(number: int) -> list[int]:
    """All of them, ascending."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})
