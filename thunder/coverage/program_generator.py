"""Random tensor programs as Python source text.

Input: a source of randomness (`random.Random(number)` makes programs reproducible by number; hypothesis's
`randoms()` makes them shrinkable). Output: a `Program`, whose text defines `inputs()` and `program(...)` and prints
as a complete reproducer.

A program is grown by running it: every statement is executed as it is added and dropped again if PyTorch refuses
it, so a finished program runs in eager. Statements favour what compilers get wrong: views of views, writes through
them, arguments that share memory, results that are arguments, empty and zero-dimensional tensors, mixed dtypes.
"""

from __future__ import annotations

import dataclasses
import linecache
import random
from collections.abc import Callable
from typing import Any

import torch

MAX_ELEMENTS = 4096
MAX_DIMENSIONS = 6
INDENT = "    "


@dataclasses.dataclass
class Program:
    """Source text of a program: how its inputs are made, its statements, its result."""

    name: str
    input_lines: list[str]
    parameters: list[str]
    leaves: list[str]
    lines: list[str]
    result: str

    @property
    def source(self) -> str:
        """The complete text."""
        made = "\n".join(INDENT + line for line in self.input_lines)
        body = "\n".join(INDENT + line for line in self.lines)
        parameters = ", ".join(self.parameters)
        return (
            f"import torch\nimport torch.nn.functional as F\n\n\ndef inputs():\n{INDENT}torch.manual_seed(0)\n{made}\n"
            f"{INDENT}return [{parameters}], [{', '.join(self.leaves)}]\n\n\n"
            f"def program({parameters}):\n{body}\n{INDENT}return {self.result}\n"
        )

    def load(self) -> dict[str, Any]:
        """Execute the text; its two functions, whose lines tracebacks can show."""
        filename = f"<{self.name}>"
        source = self.source
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        namespace: dict[str, Any] = {"__name__": self.name.replace(" ", "_")}
        exec(compile(source, filename, "exec"), namespace)
        return namespace


def generate_program(source: random.Random, name: str) -> Program:
    """A random program."""
    grower = Grower(source)
    grower.add_inputs()
    wanted = source.randint(3, 14)
    for _ in range(6 * wanted):
        if len(grower.lines) >= wanted:
            break
        grower.add_statement()
    return Program(name, grower.input_lines, grower.parameters, grower.leaves, grower.lines or ["pass"], grower.result())


class Grower:
    """A program under construction and the values of its variables."""

    def __init__(self, source: random.Random) -> None:
        self.random = source
        self.values: dict[str, Any] = {"torch": torch, "F": torch.nn.functional}
        self.tensors: list[str] = []
        self.input_lines: list[str] = []
        self.parameters: list[str] = []
        self.leaves: list[str] = []
        self.lines: list[str] = []
        self.counter = 0
        self.indent = ""

    # Choices

    def one_of(self, *options: Any) -> Any:
        """Any of the options, the first ones being the simplest."""
        return options[self.random.randrange(len(options))]

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self.random.random() < probability

    def tensor(self, accept: Callable[[torch.Tensor], bool] = lambda tensor: True) -> str | None:
        """An expression for a tensor that is accepted; recent ones are likelier."""
        fitting = [name for name in self.tensors if accept(self.values[name])]
        if not fitting:
            return None
        if self.chance(0.5):
            fitting = fitting[-3:]
        return str(self.one_of(*fitting))

    def fresh_name(self) -> str:
        """A variable that is not used yet."""
        self.counter += 1
        return f"t{self.counter}"

    def dimension(self, tensor: torch.Tensor) -> int:
        """A dimension, counted from either end."""
        if tensor.ndim == 0:
            return self.one_of(0, -1)
        return self.random.randrange(-tensor.ndim, tensor.ndim)

    # Growth

    def execute(self, line: str) -> bool:
        """Run a statement; False, with nothing changed in the program, if PyTorch refuses it."""
        try:
            exec(line, self.values)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError):
            return False
        return True

    def accept(self, line: str, *names: str) -> None:
        """Keep a statement that defines variables, if it runs and its tensors are small."""
        if not self.execute(line):
            return
        for name in names:
            value = self.values.get(name)
            if isinstance(value, torch.Tensor) and (value.numel() > MAX_ELEMENTS or value.ndim > MAX_DIMENSIONS):
                return
        self.lines.append(self.indent + line)
        self.tensors += [name for name in names if isinstance(self.values.get(name), torch.Tensor)]

    def add_inputs(self) -> None:
        """Arguments: tensors of many kinds, views of each other, containers."""
        for index in range(self.random.randint(1, 3)):
            self.add_input_tensor(f"x{index}")
        if self.chance(0.4):
            base = self.tensors[0]
            view = self.one_of(
                f"{base}", f"{base}.detach()", f"{base}[..., 1:]", f"{base}.T", f"{base}.reshape(-1)", f"{base}[None]"
            )
            if self.add_input_line(f"alias = {view}"):
                self.tensors.append("alias")
                self.parameters.append("alias")
        if self.chance(0.3):
            inside = self.one_of(*self.tensors)
            line = self.one_of(f"box = {{'a': {inside}, 'b': [torch.ones(3), 2]}}", f"box = [{inside}, (torch.zeros(2, 3), 1.5)]")
            if self.add_input_line(line):
                self.parameters.append("box")
        if self.chance(0.2) and self.add_input_line(f"number = {self.one_of('2', '0.5', 'True', '-1', 'None')}"):
            self.parameters.append("number")

    def add_input_tensor(self, name: str) -> None:
        """One tensor argument."""
        sizes = [self.one_of(2, 3, 4, 1, 5, 6) for _ in range(self.one_of(2, 1, 3, 2, 4, 0))]
        if sizes and self.chance(0.06):
            sizes[self.random.randrange(len(sizes))] = 0
        dtype = self.one_of(*["float32"] * 8, "float64", "bfloat16", "int64", "int32", "bool", "complex64", "float16", "uint8")
        shape = ", ".join(map(str, sizes))
        if dtype in ("int64", "int32", "uint8"):
            made = f"torch.randint(0, 5, ({shape}{',' if len(sizes) == 1 else ''}), dtype=torch.{dtype})"
        elif dtype == "bool":
            made = f"torch.randn({shape or '()'}) > 0"
        else:
            made = f"torch.randn({shape or '()'}, dtype=torch.{dtype})"
        if len(sizes) == 4 and self.chance(0.5):
            made = f"({made}).to(memory_format=torch.channels_last)"
        elif len(sizes) >= 2 and self.chance(0.25):
            made = f"({made}).transpose(0, -1)"
        elif sizes and self.chance(0.1):
            made = f"({made})[..., ::2]"
        elif sizes and self.chance(0.05):
            made = f"({made})[:1].expand({', '.join(['3', *['-1'] * (len(sizes) - 1)])})"
        if not self.add_input_line(f"{name} = {made}"):
            self.add_input_line(f"{name} = torch.ones(2, 3)")
            dtype = "bool"
        self.tensors.append(name)
        self.parameters.append(name)
        differentiable = dtype.startswith(("float", "bfloat", "complex"))
        if differentiable and self.chance(0.65):
            if self.chance(0.7):
                self.add_input_line(f"{name}.requires_grad_()")
                self.leaves.append(name)
            else:
                self.add_input_line(f"leaf_{name} = {name}.requires_grad_()")
                self.add_input_line(f"{name} = leaf_{name} * 1")
                self.leaves.append(f"leaf_{name}")

    def add_input_line(self, line: str) -> bool:
        """Keep a line that makes inputs, if it runs."""
        if self.execute(line):
            self.input_lines.append(line)
            return True
        return False

    def add_statement(self) -> None:
        """Try one more statement."""
        kinds: tuple[Callable[[], None], ...] = (
            self.pointwise,
            self.binary,
            self.view,
            self.view,
            self.write,
            self.write,
            self.write,
            self.assign_item,
            self.index,
            self.reduce,
            self.combine,
            self.create,
            self.into_out,
            self.change_layout,
            self.convert,
            self.gradient_mode,
            self.container,
            self.control_flow,
        )
        self.one_of(*kinds)()

    def result(self) -> str:
        """What the program returns: a tensor, or containers of several, arguments among them."""
        chosen = [self.tensors[-1]]
        for _ in range(self.random.randint(0, 3)):
            chosen.append(str(self.one_of(*self.tensors)))
        if self.chance(0.15):
            chosen.append(str(self.one_of(*self.parameters)))
        if self.chance(0.15):
            base = str(self.one_of(*self.tensors))
            chosen.append(str(self.one_of(f"{base}.detach()", f"{base}[..., None]", f"{base}.shape", f"{base}.ndim")))
        if len(chosen) == 1:
            return chosen[0]
        listed = ", ".join(chosen)
        first, rest = chosen[0], ", ".join(chosen[1:])
        return str(self.one_of(f"({listed})", f"[{listed}]", f"{{'first': {first}, 'rest': [{rest}]}}", f"({first}, ({rest},))"))

    # Statements

    def pointwise(self) -> None:
        """A unary function."""
        source = self.tensor()
        name = self.fresh_name()
        call = self.one_of(
            f"{source}.sin()", f"torch.tanh({source})", f"-{source}", f"{source}.abs()", f"torch.sigmoid({source})",
            f"F.relu({source})", f"F.gelu({source})", f"{source}.clamp(-1, 1)", f"{source}.square()", f"{source}.sign()",
            f"torch.exp(-{source}.abs())", f"~{source}", f"{source} ** 2", f"torch.logical_not({source})",
            f"{source}.clone()", f"torch.nan_to_num({source})", f"{source}.round()", f"{source}.contiguous()",
        )  # fmt: skip
        self.accept(f"{name} = {call}", name)

    def binary(self) -> None:
        """A function of two tensors, or of a tensor and a number: broadcasting and promotion."""
        left = self.tensor()
        right = self.tensor() if self.chance(0.6) else self.one_of("2", "0.5", "True", "-3", "1.5", "(1 + 2j)")
        name = self.fresh_name()
        call = self.one_of(
            f"{left} + {right}", f"{left} - {right}", f"{left} * {right}", f"{left} > {right}", f"{left} == {right}",
            f"torch.where({left} > 0, {left}, {right})", f"torch.maximum({left}, torch.as_tensor({right}))",
            f"{right} - {left}", f"torch.add({left}, {right}, alpha=2)", f"{left} / (1 + torch.as_tensor({right}).abs())",
            f"{left}.lerp({right}, 0.3)", f"torch.atan2({left}, torch.as_tensor({right}))", f"{left} // 2", f"{left} % 3",
            f"{left} & {right}", f"{left} | {right}", f"torch.logical_xor({left}, torch.as_tensor({right}))",
        )  # fmt: skip
        self.accept(f"{name} = {call}", name)

    def view(self) -> None:
        """A tensor that shares memory with another."""
        source = self.tensor()
        if source is None:
            return
        value: torch.Tensor = self.values[source]
        dim, other = self.dimension(value), self.dimension(value)
        size = value.shape[dim] if value.ndim else 1
        start = self.random.randint(0, max(0, size - 1))
        order = list(range(value.ndim))
        self.random.shuffle(order)
        wide = [self.one_of(-1, 3) if extent == 1 else -1 for extent in value.shape]
        name = self.fresh_name()
        call = self.one_of(
            f"{source}.transpose({dim}, {other})", f"{source}[{start}:]", f"{source}.view(-1)", f"{source}.unsqueeze({dim})",
            f"{source}.permute({order})", f"{source}.squeeze()", f"{source}.squeeze({dim})", f"{source}.reshape(-1)",
            f"{source}.select({dim}, {start})", f"{source}.narrow({dim}, {start}, {max(0, size - start)})",
            f"{source}[..., ::2]", f"{source}[..., {start}]", f"{source}[None]", f"{source}.expand({wide})", f"{source}.T",
            f"{source}.diagonal()", f"{source}.flatten()", f"{source}.unfold({dim}, {min(size, 2)}, 1)",
            f"{source}.movedim({dim}, {other})", f"{source}.view_as({source})", f"{source}.swapaxes({dim}, {other})",
            f"{source}.detach()", f"{source}[:]", f"{source}.as_strided(({size},), (1,))", f"{source}.mT",
            f"{source}.real", f"torch.view_as_real({source})", f"{source}.unflatten({dim}, (-1, 1))", f"{source}.T[{start}:]",
            f"{source}.view(torch.int32)", f"{source}.alias()" if hasattr(value, "alias") else f"{source}.expand_as({source})",
        )  # fmt: skip
        if self.chance(0.12):
            second = self.fresh_name()
            call = self.one_of(
                f"{source}.chunk(2, {dim})", f"{source}.split([{start}, {size - start}], {dim})", f"torch.tensor_split({source}, 2, {dim})"
            )
            self.accept(f"{name}, {second} = {call}", name, second)
            return
        self.accept(f"{name} = {call}", name)

    def write(self) -> None:
        """An in-place operation, on a variable or through a view of it."""
        target = self.tensor()
        if target is None:
            return
        value: torch.Tensor = self.values[target]
        other = self.tensor() if self.chance(0.5) else self.one_of("2", "0.5", "-1")
        dim = self.dimension(value)
        place = self.one_of(target, target, target, f"{target}[0]", f"{target}[..., 1:]", f"{target}.T", f"{target}.view(-1)")
        call = self.one_of(
            f"{place}.add_({other})", f"{place}.mul_({other})", f"{place}.zero_()", f"{place}.fill_(0.5)", f"{place}.sub_({other}, alpha=2)",
            f"{place}.sin_()", f"{place}.clamp_(min=0)", f"{place}.neg_()", f"{place}.copy_(torch.as_tensor({other}))", f"{place}.tanh_()",
            f"{place}.masked_fill_({target} > 0, 1.0)", f"{target} += {other}", f"{target} *= {other}", f"{target} -= {other}",
            f"{target}.transpose_({dim}, 0)", f"{target}.unsqueeze_({dim})", f"{target}.squeeze_()", f"{target}.t_()",
            f"{place}.index_fill_(0, torch.tensor([0]), 2)", f"{place}.cumsum_({dim})", f"F.relu({place}, inplace=True)",
            f"{place}.lerp_(torch.as_tensor({other}), 0.5)", f"{place}.addcmul_({target}, torch.as_tensor({other}))",
            f"{target}.detach().mul_(2)",
        )  # fmt: skip
        self.accept(call)

    def assign_item(self) -> None:
        """Assignment to an index: integers, slices, masks, index tensors."""
        target = self.tensor(lambda tensor: tensor.ndim > 0)
        if target is None:
            return
        value: torch.Tensor = self.values[target]
        source = self.one_of("0", "1.5", "-1", self.tensor(), f"{self.tensor()}[0]", f"{self.tensor()}.sum()")
        last = max(0, value.shape[0] - 1)
        index = self.one_of(
            "0", "-1", ":1", "..., 0", "...", "::2", ":, 0", "None", f"torch.tensor([0, {last}])", f"[0, {last}]", f"{target} > 0",
            f"torch.tensor([[0], [{last}]])", "..., torch.tensor([0])", ":, [0, 0]", "1:, ..., -1", f"{target}.sum(-1) > 0" if value.ndim > 1 else "0", "True",
        )  # fmt: skip
        operator = self.one_of("=", "=", "=", "+=", "*=")
        if ">" in index:  # reading through a mask, or fitting values to it, needs to know how much of it is true
            source, operator = self.one_of("0", "1.5", "-1", f"{self.tensor()}.sum()"), "="
        self.accept(f"{target}[{index}] {operator} {source}")

    def index(self) -> None:
        """Advanced indexing, which copies."""
        source = self.tensor(lambda tensor: tensor.ndim > 0)
        if source is None:
            return
        value: torch.Tensor = self.values[source]
        dim = self.dimension(value)
        last = max(0, value.shape[0] - 1)
        name = self.fresh_name()
        call = self.one_of(
            f"{source}[torch.tensor([0, {last}, 0])]", f"{source}[[{last}, 0]]", f"{source}.index_select({dim}, torch.tensor([0, 0]))",
            f"{source}[..., torch.tensor([0])]", f"{source}.gather({dim}, torch.zeros_like({source}, dtype=torch.int64))",
            f"{source}[torch.tensor([[0], [{last}]]), ...]", f"{source}[:, torch.tensor(0)]", f"{source}[torch.tensor([0]), None]",
            f"torch.take_along_dim({source}, {source}.argsort({dim}), {dim})", f"{source}.take(torch.tensor([0]))", f"{source}[0, [0, 0]]",
            f"{source}.flip({dim})", f"{source}.roll(1, {dim})", f"{source}.repeat_interleave(2, {dim})", f"torch.tril({source})",
        )  # fmt: skip
        self.accept(f"{name} = {call}", name)

    def reduce(self) -> None:
        """A reduction or scan."""
        source = self.tensor()
        if source is None:
            return
        dim = self.dimension(self.values[source])
        name = self.fresh_name()
        call = self.one_of(
            f"{source}.sum()", f"{source}.sum({dim})", f"{source}.mean({dim}, keepdim=True)", f"{source}.amax({dim})", f"{source}.cumsum({dim})",
            f"{source}.any({dim})", f"{source}.argmax({dim})", f"{source}.softmax({dim})", f"{source}.prod({dim})", f"{source}.float().std()",
            f"{source}.max({dim})[0]", f"{source}.sort({dim})[0]", f"{source}.norm()", f"{source}.logsumexp({dim})", f"{source}.all()",
            f"F.layer_norm({source}, {source}.shape[-1:])", f"{source}.count_nonzero()", f"{source}.diff(dim={dim})", f"{source}.min()",
        )  # fmt: skip
        self.accept(f"{name} = {call}", name)

    def combine(self) -> None:
        """Several tensors into one."""
        left, right = self.tensor(), self.tensor()
        if left is None or right is None:
            return
        dim = self.dimension(self.values[left])
        name = self.fresh_name()
        call = self.one_of(
            f"{left} @ {right}", f"{left} @ {right}.mT", f"torch.cat([{left}, {right}], {dim})", f"torch.stack([{left}, {left}], {dim})",
            f"F.linear({left}, {right})", f"torch.einsum('...i,...i->...', {left}, {right})", f"torch.outer({left}.reshape(-1), {right}.reshape(-1))",
            f"torch.broadcast_tensors({left}, {right})[0]", f"torch.addcmul({left}, {right}, {right})", f"torch.vstack([{left}, {left}])",
        )  # fmt: skip
        self.accept(f"{name} = {call}", name)

    def create(self) -> None:
        """A new tensor, of a form that another gives."""
        source = self.tensor()
        if source is None:
            return
        name = self.fresh_name()
        call = self.one_of(
            f"torch.zeros_like({source})", f"torch.ones({source}.shape)", f"{source}.new_full({source}.shape, 2)", f"torch.arange({source}.numel())",
            f"torch.full_like({source}, 0.5, dtype=torch.float32)", "torch.tensor([1.0, 2.0, 3.0])", "torch.tensor(2)", f"torch.empty_like({source}).fill_(1)",
            f"torch.linspace(0, 1, {source}.ndim + 1)", "torch.eye(3)", f"torch.zeros({source}.size(), dtype={source}.dtype)", "torch.zeros(0, 3)",
        )  # fmt: skip
        self.accept(f"{name} = {call}", name)

    def into_out(self) -> None:
        """A call that writes into `out=`."""
        source, target = self.tensor(), self.tensor()
        if source is None or target is None:
            return
        name = self.fresh_name()
        call = self.one_of(
            f"torch.sin({source}, out={target})", f"torch.add({source}, 1, out={target})", f"torch.mul({source}, {target}, out={target})",
            f"torch.neg({source}, out=torch.empty(0, dtype={source}.dtype))", f"torch.sum({source}, 0, out=torch.empty(0, dtype={source}.dtype))",
            f"torch.add({source}, {source}, out={target}.view({source}.shape))", f"torch.cat([{source}, {source}], out=torch.empty(0, dtype={source}.dtype))",
        )  # fmt: skip
        self.accept(f"{name} = {call}", name)

    def change_layout(self) -> None:
        """The same values in another memory order."""
        source = self.tensor()
        if source is None:
            return
        name = self.fresh_name()
        call = self.one_of(
            f"{source}.contiguous()", f"{source}.contiguous(memory_format=torch.channels_last)", f"{source}.to(memory_format=torch.channels_last)",
            f"{source}.clone(memory_format=torch.contiguous_format)", f"torch.empty_like({source}).copy_({source})", f"{source}.mT.contiguous()",
            f"torch.empty_strided({source}.shape, {source}.stride()).copy_({source})", f"torch.empty_like({source}.T).copy_({source}.T)",
        )  # fmt: skip
        self.accept(f"{name} = {call}", name)

    def convert(self) -> None:
        """Another dtype, or the same one, which returns the tensor itself."""
        source = self.tensor()
        name = self.fresh_name()
        dtype = self.one_of("float32", "float64", "bfloat16", "int64", "bool", "complex64", "int32", "float16")
        call = self.one_of(
            f"{source}.to(torch.{dtype})", f"{source}.type_as({self.tensor()})", f"{source}.to({self.tensor()})", f"{source}.float()", f"{source}.double()"
        )
        self.accept(f"{name} = {call}", name)

    def gradient_mode(self) -> None:
        """Switch gradients off for a statement, or cut or start the graph."""
        source = self.tensor()
        if source is None:
            return
        name = self.fresh_name()
        choice = self.random.randrange(4)
        if choice == 0:
            self.accept(f"{name} = {source}.detach().clone().requires_grad_()", name)
        elif choice == 1:
            self.accept(f"{name} = {source}.detach()", name)
        elif choice == 2:
            self.accept(f"{source}.detach_()")
        else:
            inner = self.one_of(f"{name} = {source} * 2", f"{name} = {source}.mul_(0.5)", f"{name} = {source}[..., None]")
            block = f"with torch.no_grad():\n{INDENT}{inner}"
            if self.execute(block):
                self.lines += ["with torch.no_grad():", INDENT + inner]
                self.tensors.append(name)

    def container(self) -> None:
        """Reads from and writes to containers, an argument's own among them."""
        source = self.tensor()
        name = self.fresh_name()
        if "box" in self.parameters:
            key = "'b'" if isinstance(self.values["box"], dict) else "1"
            choice = self.one_of(
                f"{name} = box[{key}][0] + 1", f"box[{key}][0].add_(1)", f"box[{key}].append({source})", f"box[{key}] = {source}",
                f"{name} = next(iter(box.values()))" if isinstance(self.values["box"], dict) else f"{name} = box[0]",
            )  # fmt: skip
            self.accept(choice, name)
        else:
            choice = self.one_of(
                f"{name} = [{source}, {source}.sin()][1]", f"{name} = {{'k': {source}}}['k']", f"{name} = sum([{source}, {source}])",
                f"{name} = torch.stack([v * i for i, v in enumerate([{source}, {source}])])", f"{name}, *_ = {source}, {source}",
            )  # fmt: skip
            self.accept(choice, name)

    def control_flow(self) -> None:
        """Python branches and loops over shapes."""
        source = self.tensor(lambda tensor: tensor.ndim > 0)
        if source is None:
            return
        name = self.fresh_name()
        line = self.one_of(
            f"{name} = {source} * 2 if {source}.shape[0] > 2 else {source}.sin()", f"{name} = {source}.sin() if {source}.is_contiguous() else {source}",
            f"{name} = {source} if {source}.requires_grad else {source} + 1", f"{name} = (lambda v: v + {source})({source}.shape[0])",
            f"{name} = {source}.float() if not {source}.is_floating_point() else {source}.cos()", f"{name} = sum({source}.unbind(0))",
            f"{name} = torch.cat([row.reshape(-1) for row in {source}])", f"{name} = {source} * {source}.numel() / max(1, {source}.dim())",
        )  # fmt: skip
        if self.chance(0.25):
            loop = f"for row in {source}:\n{INDENT}row.mul_(0.5)"
            if self.execute(loop):
                self.lines += [f"for row in {source}:", f"{INDENT}row.mul_(0.5)"]
            return
        self.accept(line, name)
