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
from typing import Any

import torch

from thunder.coverage.program_templates import KINDS, templates

MAX_ELEMENTS = 4096
MAX_DIMENSIONS = 6
INDENT = "    "
OTHER_DTYPES = ("float64", "bfloat16", "int64", "int32", "bool", "complex64", "float16", "uint8")


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
    return Program(
        name, grower.input_lines, grower.parameters, grower.leaves, grower.lines or ["pass"], grower.result()
    )


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

    def one_of(self, *options: Any) -> Any:
        """Any of the options, the first ones being the simplest."""
        return options[self.random.randrange(len(options))]

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self.random.random() < probability

    def tensor(self) -> str:
        """The name of a tensor; recent ones are likelier."""
        return str(self.one_of(*(self.tensors[-3:] if self.chance(0.5) else self.tensors)))

    def fresh_name(self) -> str:
        """A variable that is not used yet."""
        self.counter += 1
        return f"t{self.counter}"

    def execute(self, text: str) -> bool:
        """Run a statement; False, with nothing changed in the program, if PyTorch refuses it."""
        try:
            exec(text, self.values)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError):
            return False
        return True

    # Inputs

    def add_inputs(self) -> None:
        """Arguments: tensors of many kinds, views of each other, containers."""
        for index in range(self.random.randint(1, 3)):
            self.add_input_tensor(f"x{index}")
        if self.chance(0.4):
            view = self.one_of("{}", "{}.detach()", "{}[..., 1:]", "{}.T", "{}.reshape(-1)", "{}[None]")
            if self.add_input_line(f"alias = {view.format(self.tensors[0])}"):
                self.tensors.append("alias")
                self.parameters.append("alias")
        if self.chance(0.3):
            box = self.one_of("{{'a': {}, 'b': [torch.ones(3), 2]}}", "[{}, (torch.zeros(2, 3), 1.5)]")
            if self.add_input_line(f"box = {box.format(self.one_of(*self.tensors))}"):
                self.parameters.append("box")
        if self.chance(0.2) and self.add_input_line(f"number = {self.one_of('2', '0.5', 'True', '-1', 'None')}"):
            self.parameters.append("number")

    def add_input_tensor(self, name: str) -> None:
        """One tensor argument."""
        sizes = [self.one_of(2, 3, 4, 1, 5, 6) for _ in range(self.one_of(2, 1, 3, 2, 4, 0))]
        if sizes and self.chance(0.06):
            sizes[self.random.randrange(len(sizes))] = 0
        dtype = self.one_of(*["float32"] * 8, *OTHER_DTYPES)
        made = self.arranged(made_input(sizes, dtype), len(sizes))
        if not self.add_input_line(f"{name} = {made}"):
            dtype = "float32"
            self.add_input_line(f"{name} = torch.ones(2, 3)")
        self.tensors.append(name)
        self.parameters.append(name)
        if dtype.startswith(("float", "bfloat", "complex")) and self.chance(0.65):
            if self.chance(0.7):
                self.add_input_line(f"{name}.requires_grad_()")
                self.leaves.append(name)
            else:
                self.add_input_line(f"leaf_{name} = {name}.requires_grad_()")
                self.add_input_line(f"{name} = leaf_{name} * 1")
                self.leaves.append(f"leaf_{name}")

    def arranged(self, made: str, ndim: int) -> str:
        """An input in another memory order."""
        if ndim == 4 and self.chance(0.5):
            return f"{made}.to(memory_format=torch.channels_last)"
        if ndim >= 2 and self.chance(0.25):
            return f"{made}.transpose(0, -1)"
        if ndim and self.chance(0.1):
            return f"{made}[..., ::2].clone(memory_format=torch.preserve_format)"
        if ndim and self.chance(0.05):
            return f"{made}[:1].expand({', '.join(['3', *['-1'] * (ndim - 1)])})"
        return made

    def add_input_line(self, line: str) -> bool:
        """Keep a line that makes inputs, if it runs."""
        if self.execute(line):
            self.input_lines.append(line)
            return True
        return False

    # Statements

    def add_statement(self) -> None:
        """Try one more statement, and keep it if it runs and its tensors are small."""
        kinds = [(form, kind) for form, kind, weight in KINDS for _ in range(weight)]
        form, kind = self.one_of(*kinds)
        if kind == "box" and "box" not in self.parameters:
            return
        text, names = self.filled(self.one_of(*templates(form, kind)))
        if not self.execute(text):
            return
        made = [self.values.get(name) for name in names]
        if any(isinstance(value, torch.Tensor) and not is_small(value) for value in made):
            return
        self.lines += text.splitlines()
        self.tensors += [name for name, value in zip(names, made) if isinstance(value, torch.Tensor)]

    def filled(self, template: str) -> tuple[str, list[str]]:
        """A template with its names filled in, and the variables that it defines."""
        a, b = self.tensor(), self.tensor()
        value: torch.Tensor = self.values[a]
        dim = self.random.randrange(-max(1, value.ndim), max(1, value.ndim))
        size = value.shape[dim] if value.ndim else 1
        start = self.random.randint(0, max(0, size - 1))
        order = list(range(value.ndim))
        self.random.shuffle(order)
        fields = {
            "a": a,
            "b": b,
            "same": self.one_of(*[name for name in self.tensors if self.values[name].shape == value.shape]),
            "n": b if self.chance(0.6) else self.one_of("2", "0.5", "True", "-3", "1.5", "(1 + 2j)"),
            "dim": dim,
            "other": self.random.randrange(-max(1, value.ndim), max(1, value.ndim)),
            "size": size,
            "start": start,
            "rest": size - start,
            "last": max(0, value.shape[0] - 1) if value.ndim else 0,
            "order": order,
            "wide": [self.one_of(-1, 3) if extent == 1 else -1 for extent in value.shape],
            "dtype": self.one_of("float32", *OTHER_DTYPES),
            "place": self.one_of("{}", "{}", "{}", "{}[0]", "{}[..., 1:]", "{}.T", "{}.view(-1)").format(a),
            "mask": ("...", f"{a} > 0")[value.ndim] if value.ndim < 2 else self.one_of(f"{a} > 0", f"{a}.sum(-1) > 0"),
            "value": self.one_of("0", "1.5", "-1", b, f"{b}[0]", f"{b}.sum()"),
        }
        names = [self.fresh_name() for mark in ("{new}", "{second}") if mark in template]
        fields.update(zip(("new", "second"), names))
        return template.format(**fields), names

    def result(self) -> str:
        """What the program returns: a tensor, or containers of several, arguments among them."""
        chosen = [self.tensors[-1]]
        chosen += [str(self.one_of(*self.tensors)) for _ in range(self.random.randint(1, 4))]
        if self.chance(0.15):
            chosen.append(str(self.one_of(*self.parameters)))
        if self.chance(0.15):
            form = self.one_of("{}.detach()", "{}[..., None]", "{}.shape", "{}.ndim")
            chosen.append(form.format(self.one_of(*self.tensors)))
        if len(chosen) == 1:
            return chosen[0]
        first, rest, listed = chosen[0], ", ".join(chosen[1:]), ", ".join(chosen)
        return str(
            self.one_of(
                f"({listed})", f"[{listed}]", f"{{'first': {first}, 'rest': [{rest}]}}", f"({first}, ({rest},))"
            )
        )


def made_input(sizes: list[int], dtype: str) -> str:
    """An expression for a random tensor."""
    shape = f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"
    if dtype in ("int64", "int32", "uint8"):
        return f"torch.randint(0, 5, {shape}, dtype=torch.{dtype})"
    if dtype == "bool":
        return f"(torch.randn({shape}) > 0)"
    return f"torch.randn({shape}, dtype=torch.{dtype})"


def is_small(value: torch.Tensor) -> bool:
    """Tensors that grow without end are not kept."""
    return value.numel() <= MAX_ELEMENTS and value.ndim <= MAX_DIMENSIONS
