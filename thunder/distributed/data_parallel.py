"""Programs that are spread over processes: where their parameters lie and how their gradients come together.

Data parallelism: every process runs the program on its part of the batch, and gradients are averaged.  Parameters are
either plain tensors that every process has (DDP), or DTensors of which each process has some rows (FSDP); on a
two-dimensional mesh they are divided along one dimension and equal along the other (hybrid sharding).

Tensor parallelism: the processes of a group see the same batch, and programs see this process's part of the layers
that are divided.  Both together: the part of a layer is what is gathered, and what gradients are averaged of.

Input: a model whose parameters lie as `initialise.py` has laid them out.  Output: a `Distribution`, which puts
the collectives into the traces of every program of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from thunder import _torch_compat
from thunder.acquire import Seen
from thunder.distributed.average_unused import Place, absent_places, average_all
from thunder.distributed.collectives import CollectiveRegions, Group
from thunder.distributed.failures import Agreement, collective_failure, collective_regions, collectives_of
from thunder.distributed.layout import Layout
from thunder.distributed.place_collectives import Divided, Reduced, gather_parameters, reduce_gradients
from thunder.distributed.undivided import Boundary, run_on_whole_parameters
from thunder.errors import OptionError
from thunder.executors.distribution import Distribution, ProgramDistribution
from thunder.lower import ForwardProgram, Lowered, View
from thunder.trace import Trace, Var

SYNCHRONISED, LOCAL, ACCUMULATED = "synchronised", "local", "accumulated"


@dataclass(frozen=True)
class DataParallelOptions:
    """What the plugins "ddp" and "fsdp" leave to the user.

    Attributes:
        keep_whole: whether gathered parameters are kept from forward to backward (ZeRO-2) or gathered again (ZeRO-3).
        prefetch: how many blocks ahead a gather begins.
        bucket_bytes: gradients of consecutive blocks are reduced together up to this size.
        in_flight: reductions under way at once; None for any number.
        seen_dtype: floating-point parameters are gathered and computed with in this dtype; None for their own.
        seen_device: where programs compute, when parts are kept elsewhere; None for where they are.
        reduce_dtype: gradients are averaged in this dtype; None for their own.
        timeout: seconds that other processes may take to come to a program with collectives that are new.
        averages_unused: every parameter of the model takes part in every reduction, those that this process did not
            use with zeros.
    """

    keep_whole: bool = False
    prefetch: int = 1
    bucket_bytes: int = 0
    in_flight: int | None = 2
    seen_dtype: torch.dtype | None = None
    seen_device: torch.device | None = None
    reduce_dtype: torch.dtype | None = None
    averages_unused: bool = False
    timeout: float = 300.0


@dataclass(frozen=True)
class Groups:
    """Which processes do what.

    Attributes:
        shard: those among which parameters are divided by rows, or None.
        replicate: those that hold the same and see other batches, or None.
        tensor: those that have parts of the layers and see the same batch, or None.
    """

    shard: Group | None = None
    replicate: Group | None = None
    tensor: Group | None = None


class DataParallel(Distribution):
    """How the programs of one model are spread.

    Args:
        model: its trainable parameters' gradients are averaged.
        mesh: all processes; parameters that are divided have it, or a part of it, as their mesh.
        groups: which processes do what.
        options: for data parallelism.
        summed: parameters that every process of tensor parallelism has whole and uses for its part of the work: their
            gradients are added up.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        mesh: DeviceMesh,
        groups: Groups,
        options: DataParallelOptions,
        *,
        summed: Sequence[torch.Tensor] = (),
    ) -> None:
        self.model = model
        self.mesh = mesh
        self.ranks = tuple(mesh.mesh.flatten().tolist())
        self.agreement = Agreement(self.ranks, options.timeout, mesh.device_type)
        tensor = groups.tensor
        self.tensor_agreement = Agreement(tensor.ranks, options.timeout, mesh.device_type) if tensor else None
        self.groups = groups
        self.options = options
        self.summed = {id(parameter): parameter for parameter in summed}
        self.synchronises = True
        self.has_local_gradients = False
        self.local_gradients: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def runs_uncompiled(self) -> bool:
        return self.groups.shard is None  # layers that tensor parallelism has divided compute with what is here

    def seen_as(self, tensor: torch.Tensor) -> Seen | None:
        if not isinstance(tensor, DTensor):
            return None
        layout = self.layout(tensor)
        return layout.shape, layout.seen_dtype, layout.device

    def for_program(self, inputs: Sequence[Any]) -> ProgramDistribution:
        parameters = {id(parameter) for parameter in self.model.parameters()}
        return ProgramDataParallel(self, [self.layout(x) if id(x) in parameters else None for x in inputs], inputs)

    def layout(self, parameter: torch.Tensor) -> Layout:
        """How a parameter of the model lies; what tensor parallelism has left of it is the whole here."""
        device, dtype, summed = parameter.device, parameter.dtype, id(parameter) in self.summed
        if not isinstance(parameter, DTensor):
            return Layout(tuple(parameter.shape), dtype, dtype, 1, 0, device, summed=summed)
        wanted = self.options.seen_dtype
        seen = wanted if wanted is not None and dtype.is_floating_point else dtype
        shape, shard = list(parameter.shape), self.groups.shard
        processes, rank, dimension = 1, 0, 0
        for number, placement in enumerate(parameter.placements):
            if not isinstance(placement, Shard):
                continue
            # Meshes that are equal may have groups of different names.
            ranks = tuple(dist.get_process_group_ranks(parameter.device_mesh.get_group(number)))
            if shard is not None and ranks == shard.ranks:
                processes, rank, dimension = shard.size, shard.rank, placement.dim
            else:
                shape[placement.dim] //= parameter.device_mesh.size(number)
        home = device if self.options.seen_device is not None else None
        device = self.options.seen_device or device
        return Layout(tuple(shape), dtype, seen, processes, rank, device, dimension, summed, home)

    def reduces(self, layout: Layout) -> bool:
        """Whether the gradient of a parameter that lies like this is one only together with other processes'."""
        return self.groups.shard is not None or self.groups.replicate is not None or layout.summed

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Within the block, backward passes keep their gradients to this process; the next one after it averages all.

        Gradients of plain parameters gather in `.grad`, as with torch's DDP; those of divided ones whole, on the side.
        """
        before, self.synchronises = self.synchronises, False
        try:
            yield
        finally:
            self.synchronises = before

    def reduce_kept_gradients(self, parameters: Iterable[torch.Tensor] | None = None) -> None:
        """Reduces what backward passes within `no_sync` have left, at once: nothing overlaps.

        Args:
            parameters: whose gradients; None for all of the model's.
        """
        present: list[tuple[torch.Tensor, Layout, torch.Tensor]] = []
        for parameter in self.model.parameters() if parameters is None else parameters:
            gradient = parameter.grad
            if isinstance(parameter, DTensor):
                _, gradient = self.local_gradients.pop(id(parameter), (None, None))
            if gradient is not None:
                present.append((parameter, self.layout(parameter), gradient))
        self.has_local_gradients = False
        regions = CollectiveRegions(
            self.groups.shard, self.groups.replicate, self.groups.tensor, self.options.reduce_dtype
        )
        fake_mode = _torch_compat.fake_tensor_mode()
        layouts = [layout for _, layout, _ in present]
        for members in _alike(layouts, lambda x: (x.processes, x.seen_dtype, x.dtype, x.device, x.home, x.summed)):
            for bucket in _up_to(members, lambda position: present[position][2].nbytes, self.options.bucket_bytes):
                parts = [present[position][2] for position in bucket]
                if self.reduces(layouts[bucket[0]]):
                    kinds = [layouts[position] for position in bucket]
                    parts = regions.reduce(kinds, fake_mode, "gradients", False).run(parts)
                for position, part in zip(bucket, parts):
                    owner = present[position][0]
                    if not isinstance(owner, DTensor):
                        owner.grad = part
                        continue
                    # Another stage of a pipeline may have left its share.
                    reduced = _torch_compat.dtensor_like(owner, part)
                    owner.grad = reduced if owner.grad is None else owner.grad + reduced

    def backward_variant(self) -> str:
        if not self.synchronises:
            return LOCAL
        return ACCUMULATED if self.has_local_gradients else SYNCHRONISED


class ProgramDataParallel(ProgramDistribution):
    """Data parallelism of one program.

    Args:
        parent: of the model.
        layouts: of each input that is a parameter; None for others.
        inputs: of the call that the program is made for.
    """

    def __init__(self, parent: DataParallel, layouts: Sequence[Layout | None], inputs: Sequence[Any]) -> None:
        self._parent = parent
        self._options = parent.options
        self._layouts = layouts
        groups = parent.groups
        self._regions = CollectiveRegions(groups.shard, groups.replicate, groups.tensor, parent.options.reduce_dtype)
        self._parameters = {number: inputs[number] for number, layout in enumerate(layouts) if layout is not None}
        self._dtensors = [number for number, x in self._parameters.items() if isinstance(x, DTensor)]
        self._divided: list[Divided] = []
        self._trainable: list[int] = []
        self._saved_whole: set[int] = set()
        self._saved_count = 0
        self._reduced: list[torch.Tensor] = []
        self._all: list[torch.Tensor] = []
        self._absent: dict[Hashable, list[list[tuple[int, bool]]]] = {}

    # Traces -----------------------------------------------------------------------------------------------------
    def forward(self, lowered: Lowered, program: ForwardProgram) -> tuple[Lowered, ForwardProgram]:
        parts: dict[int, Var] = {}
        for number, var in enumerate(lowered.inputs):
            layout = self._layouts[number]
            if layout is None or layout.is_used_as_kept:
                continue
            with var.value.fake_mode:
                value = torch.empty(layout.local_shape, dtype=layout.dtype, device=layout.kept_on)
            parts[id(var)] = Var(f"{var.name}_part", value.requires_grad_(var.value.requires_grad))
            self._divided.append(Divided(var, parts[id(var)], layout))

        def part_of(var: Any) -> Any:
            return parts.get(id(var), var) if isinstance(var, Var) else var

        self._trainable = [
            number for number, var in enumerate(lowered.inputs) if any(var is other for other in lowered.trainable)
        ]
        self._saved_count = len(program.saved)
        if not parts:
            return lowered, program
        entries = {id(entry.whole): entry for entry in self._divided}
        kept = [entries[id(var)] for var in program.saved if self._options.keep_whole and id(var) in entries]
        self._saved_whole = {id(entry.whole) for entry in kept}
        saved_parts = [part_of(var) for var in program.saved if id(var) not in self._saved_whole]
        trace = program.trace.replace(
            inputs=[part_of(var) for var in program.trace.inputs],
            output=(*program.trace.output, *(entry.whole for entry in kept)),
        )
        trace = gather_parameters(trace, self._divided, self._regions, prefetch=self._options.prefetch)
        whole = list(trace.output[len(trace.output) - len(kept) :]) if kept else []
        program = replace(program, trace=trace, saved=[*saved_parts, *whole], computed=[*program.computed, *whole])
        changed = replace(
            lowered,
            inputs=[part_of(var) for var in lowered.inputs],
            outputs=[
                replace(out, base=part_of(out.base)) if isinstance(out, View) else part_of(out)
                for out in lowered.outputs
            ],
            trainable=[part_of(var) for var in lowered.trainable],
        )
        return changed, program

    def backward_variant(self) -> Hashable:
        return self._parent.backward_variant()

    def backward(self, trace: Trace, variant: Hashable) -> Trace:
        options = self._options
        divided = [entry for entry in self._divided if id(entry.whole) not in self._saved_whole]
        parts = {id(entry.whole): entry.part for entry in divided}
        kept = [var for var in trace.inputs if id(var) in self._saved_whole]
        count = self._saved_count
        saved = [parts.get(id(var), var) for var in trace.inputs[:count] if id(var) not in self._saved_whole]
        trace = trace.replace(inputs=[*saved, *kept, *trace.inputs[count:]])
        trace = gather_parameters(trace, divided, self._regions, prefetch=options.prefetch)
        if variant == LOCAL:
            return trace
        if options.averages_unused:
            return self._average_all(trace, variant)
        reduced = []
        earlier: list[Var] = []
        self._reduced = []
        for output, number in enumerate(self._trainable):
            layout = self._layouts[number]
            gradient = trace.output[output]
            if layout is None or not self._parent.reduces(layout) or not isinstance(gradient, Var):
                continue
            entry = Reduced(output, layout)
            if variant == ACCUMULATED:
                entry.earlier = Var(f"earlier_{len(earlier)}", gradient.value)
                earlier.append(entry.earlier)
            reduced.append(entry)
            self._reduced.append(self._parameters[number])
        trace = trace.replace(inputs=[*trace.inputs, *earlier])
        return reduce_gradients(
            trace, reduced, self._regions, bucket_bytes=options.bucket_bytes, in_flight=options.in_flight
        )

    def _average_all(self, trace: Trace, variant: Hashable) -> Trace:
        """Averages with a place for every trainable parameter of the model, used or not."""
        options, group = self._options, self._parent.groups.replicate
        assert group is not None
        number_of = {id(parameter): number for number, parameter in self._parameters.items()}
        output_of = {number: output for output, number in enumerate(self._trainable)}
        self._all = [p for p in reversed(list(self._parent.model.parameters())) if p.requires_grad]
        places: list[Place] = []
        fake_mode = trace.inputs[0].value.fake_mode
        for parameter in self._all:
            place = Place(tuple(parameter.shape), parameter.dtype, parameter.device)
            place.output = output_of.get(number_of.get(id(parameter), -1))
            if variant == ACCUMULATED:
                with fake_mode:
                    value = torch.empty(place.shape, dtype=place.dtype, device=place.device)
                place.earlier = Var(f"earlier_{len(places)}", value)
            places.append(place)
        self._absent[variant] = absent_places(trace.output, places, options.bucket_bytes)
        trace = trace.replace(inputs=[*trace.inputs, *(p.earlier for p in places if p.earlier is not None)])
        return average_all(
            trace, places, group, fake_mode, bucket_bytes=options.bucket_bytes, dtype=options.reduce_dtype
        )

    def watched(self, function: Callable[..., Any], trace: Trace) -> Callable[..., Any]:
        self._parent.agreement.require(trace)
        regions = collective_regions(trace)
        ranks, name, agreement = self._parent.ranks, trace.name, self._parent.agreement
        collectives = collectives_of(trace)
        if collectives and any(var.name.startswith("earlier_") for var in trace.inputs):
            collectives.append("with what earlier passes have left")

        def run(*args: Any) -> Any:
            agreement.agree_on_call(name, collectives)
            try:
                return function(*args)
            except RuntimeError as error:
                failure = collective_failure(error, name, regions, ranks)
                if failure is None:
                    raise
                raise failure from error

        return run

    # Calls ------------------------------------------------------------------------------------------------------
    def enter(self, inputs: Sequence[Any]) -> Sequence[Any]:
        if not self._dtensors:
            return inputs
        entered = list(inputs)
        for number in self._dtensors:
            entered[number] = _torch_compat.local_part(entered[number])
        return entered

    def before_backward(self, arguments: list[Any], variant: Hashable) -> None:
        if variant == ACCUMULATED:
            arguments += self._earlier_gradients(self._all if self._options.averages_unused else self._reduced)

    def leave(self, gradients: Sequence[Any], variant: Hashable) -> Sequence[Any]:
        left = list(gradients[: len(self._trainable)])
        parent = self._parent
        if self._options.averages_unused and variant != LOCAL:
            self._keep_gradients_of_unused(gradients[len(left) :], variant)
        for output, number in enumerate(self._trainable):
            parameter, gradient = self._parameters.get(number), left[output]
            if not isinstance(parameter, DTensor) or gradient is None:
                continue
            layout = self._layouts[number]
            if variant == LOCAL and layout is not None and parent.reduces(layout):
                known = parent.local_gradients.get(id(parameter))
                parent.local_gradients[id(parameter)] = (
                    parameter, gradient if known is None else known[1] + gradient
                )  # fmt: skip
                left[output] = None
            else:
                left[output] = _torch_compat.dtensor_like(parameter, gradient)
        parent.has_local_gradients = variant == LOCAL
        return left

    def _keep_gradients_of_unused(self, averages: Sequence[torch.Tensor], variant: Hashable) -> None:
        """Adds averages of parameters that only other processes used to the parameters' gradients."""
        buckets = self._absent[variant]
        flags, absent = averages[: len(buckets)], iter(averages[len(buckets) :])
        for used, members in zip(flags, buckets):
            if not any(is_absent for _, is_absent in members):
                continue
            for share, (number, is_absent) in zip(used.tolist(), members):
                if not is_absent:
                    continue
                parameter, average = self._all[number], next(absent)
                if share > 0:
                    parameter.grad = average if parameter.grad is None else parameter.grad + average

    def _earlier_gradients(self, parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What earlier backward passes within `no_sync` left, taken from where it is."""
        found = []
        for parameter in parameters:
            layout = self._parent.layout(parameter)
            if isinstance(parameter, DTensor):
                _, gradient = self._parent.local_gradients.pop(id(parameter), (None, None))
            else:
                gradient, parameter.grad = parameter.grad, None
            if gradient is None:
                gradient = torch.zeros(layout.shape, dtype=layout.seen_dtype, device=layout.device)
            found.append(gradient)
        return found

    # Programs that cannot be lowered ----------------------------------------------------------------------------
    def run_undivided(self, run: Callable[..., tuple[Any, ...]], trace: Trace) -> Callable[..., tuple[Any, ...]]:
        if self._options.averages_unused:
            raise OptionError(
                "find_unused_parameters needs programs that can be lowered, and this one cannot",
                remedy="thunder.compile_stats(...).notes of the model compiled without the plugin gives the reason",
            )
        layouts = {number: layout for number, layout in enumerate(self._layouts) if layout is not None}
        undivided = run_on_whole_parameters(run, list(layouts), _UndividedBoundary(self, list(layouts.values())))
        agreement = self._parent.tensor_agreement
        if agreement is None:
            return undivided

        def run_alike(*inputs: Any) -> tuple[Any, ...]:
            # Those that have parts of the layers see the same batch.
            batch = [x for number, x in enumerate(inputs) if number not in layouts and isinstance(x, torch.Tensor)]
            shapes = ", ".join(f"{x.dtype} {tuple(x.shape)}" for x in batch)
            agreement.agree_on_call(trace.name, [f"sums of the layers' parts on {shapes}"])
            return undivided(*inputs)

        return run_alike


class _UndividedBoundary(Boundary):
    """Gathers all parameters before a program and reduces all gradients after it."""

    def __init__(self, program: ProgramDataParallel, layouts: Sequence[Layout]) -> None:
        self._program = program
        self._layouts = layouts
        self._numbers = list(program._parameters)
        self._fake_mode = _torch_compat.fake_tensor_mode()

    def whole(self, parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        program = self._program
        wholes = [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
        for members in _alike(self._layouts, lambda x: (x.processes, x.dtype, x.seen_dtype, x.device, x.home)):
            layouts = [self._layouts[position] for position in members]
            if layouts[0].processes == 1:
                gathered = [wholes[position].to(layouts[0].device, layouts[0].seen_dtype) for position in members]
            else:
                stages = program._regions.gather(layouts, self._fake_mode, "parameters")
                gathered = stages.run([wholes[position] for position in members])
            for position, tensor in zip(members, gathered):
                wholes[position] = tensor
        return wholes

    def parts(self, gradients: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        program, parent = self._program, self._program._parent
        variant = parent.backward_variant()
        program._trainable = self._numbers
        parts = list(gradients)
        if variant != LOCAL:
            present = [
                position
                for position, gradient in enumerate(gradients)
                if gradient is not None and parent.reduces(self._layouts[position])
            ]
            alike = _alike(
                [self._layouts[position] for position in present],
                lambda x: (x.processes, x.seen_dtype, x.dtype, x.device, x.home, x.summed),
            )
            for chosen in alike:
                members = [present[number] for number in chosen]
                layouts = [self._layouts[position] for position in members]
                arguments: list[Any] = [parts[position] for position in members]
                if variant == ACCUMULATED:
                    arguments += program._earlier_gradients(
                        [program._parameters[self._numbers[position]] for position in members]
                    )
                stages = program._regions.reduce(layouts, self._fake_mode, "gradients", variant == ACCUMULATED)
                for position, part in zip(members, stages.run(arguments)):
                    parts[position] = part
        return list(program.leave(parts, variant))


def _up_to(members: Sequence[int], size_of: Callable[[int], int], limit: int) -> list[list[int]]:
    """Members in order, in buckets that are closed when they have reached a size."""
    buckets: list[list[int]] = []
    size = 0
    for member in members:
        if not buckets or size >= limit:
            buckets.append([])
            size = 0
        buckets[-1].append(member)
        size += size_of(member)
    return buckets


def _alike(layouts: Sequence[Layout], kind: Callable[[Layout], Hashable]) -> list[list[int]]:
    """Positions of the layouts, those of one kind together."""
    found: dict[Hashable, list[int]] = {}
    for position, layout in enumerate(layouts):
        found.setdefault(kind(layout), []).append(position)
    return list(found.values())
