"""From a number to a program.

`generate(seed)` always gives the same program for the same seed and version of the generator.  Saved reproducers are
therefore texts (`regressions/`), not seeds.
"""

from __future__ import annotations

import random
from collections.abc import Sequence as SequenceOf

from tests.acquire.fuzz.classes import HOOK_DECLARATION, MODULE, ORDINARY, make_class
from tests.acquire.fuzz.library_scenarios import LIBRARY_SCENARIOS
from tests.acquire.fuzz.program import GeneratedProgram, Round
from tests.acquire.fuzz.reading import protected, read
from tests.acquire.fuzz.scenario import Scenario, numbered
from tests.acquire.fuzz.scenarios import SCENARIOS
from tests.acquire.fuzz.state import (
    TENSORS,
    Function,
    Instance,
    Kind,
    Place,
    Scalar,
    Tensor,
    changed_scalar,
    container,
    fill,
    places,
)
from tests.acquire.fuzz.writing import change_inside, change_outside

FRAMES = ("function", "closure", "module", "method", "decorated", "partial", "callable")
FRAME_WEIGHTS = (6, 4, 6, 2, 1, 1, 1)
HELPERS = (
    "def helper#(value, option=$s, *, bias=$n):\n    return value + bias if option else value - bias",
    "def make_helper#():\n    count = 0\n    def helper#(value):\n        nonlocal count\n        count += 1\n"
    "        return value + count\n    return helper#\nhelper# = make_helper#()",
    "def helper#(value, seen=[]):\n    seen.append(len(seen))\n    return value * len(seen)",
    "@torch.no_grad()\ndef helper#(value):\n    return value * 2",
    "helper# = lambda value: value * $n",
    "RATE# = $n\ndef helper#(value):\n    return value * RATE#",
    "def helper#(value, *values, **options):\n    return value + len(values) + len(options)",
)
ALL_SCENARIOS = SCENARIOS + LIBRARY_SCENARIOS
CONTEXTS = ("torch.no_grad()", "torch.autocast('cpu', dtype=torch.bfloat16)", "default_dtype(torch.float64)")
RETURNS = (
    "return x, log", "return x, log", "return [x, log]", "return {'x': x, 'log': log}", "return log",
    "return types.SimpleNamespace(x=x, log=log)", "return collections.OrderedDict(x=x, log=tuple(log))", "return (log, x, x)",
    "return x, log, $p", "return log, $p", "return $p, {'nested': [$p, (x, log)]}",
)  # fmt: skip


def generate(seed: int) -> GeneratedProgram:
    """The program that belongs to a number."""
    return _Generator(seed).program()


class _Generator:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self.declarations: list[str] = []
        self.epilogue: list[str] = []
        self.global_names: list[str] = []
        self.roots: list[Place] = []
        self.arguments: list[Kind] = []
        self.scenarios: list[tuple[int, Scenario]] = []
        self.contexts: list[str] = []
        self.numbers = 0

    def number(self) -> int:
        self.numbers += 1
        return self.numbers - 1

    # State ------------------------------------------------------------------------------------------------------
    def declare(self) -> None:
        dice = self.dice
        if dice.random() < 0.5:
            self.declarations.append(HOOK_DECLARATION)
        for _ in range(dice.choice((0, 1, 1, 2, 3))):
            shared = tuple((root.inside, root.kind) for root in self.roots if root.inside)
            self.declare_global(container(dice, 3, shared))
        if dice.random() < 0.6:
            self.declare_instance()
        if dice.random() < 0.3:
            self.declare_helper()
        if dice.random() < 0.25:
            self.declare_module()
        for _ in range(dice.choice((0, 1, 1, 2))):
            self.declare_scenario(dice.choice(ALL_SCENARIOS))

    def declare_global(self, kind: Kind, name: str | None = None) -> str:
        name = name or f"G{self.number()}"
        self.declarations.append(f"{name} = {kind.text}")
        self.global_names.append(name)
        self.roots.append(Place(kind, name, name, f"{name} = $value", f"{name} = $value"))
        return name

    def declare_instance(self) -> None:
        text, kind = make_class(self.dice.choice(ORDINARY), self.number(), self.dice)
        self.declarations.append(text)
        name = self.declare_global(kind)
        if self.dice.random() < 0.3:
            self.declare_global(container(self.dice, 2, ((name, kind),)))

    def declare_module(self) -> None:
        text, kind = self.module_class()
        self.declarations.append(text)
        self.declare_global(kind)

    def module_class(self) -> tuple[str, Instance]:
        if HOOK_DECLARATION not in self.declarations:
            self.declarations.append(HOOK_DECLARATION)
        return make_class(MODULE, self.number(), self.dice)

    def declare_helper(self) -> None:
        number = self.number()
        self.declarations.append(fill(self.dice.choice(HELPERS).replace("#", str(number)), self.dice))
        name = f"helper{number}"
        self.global_names.append(name)
        self.roots.append(Place(Function(name), name, name, f"{name} = $value", f"{name} = $value"))

    def declare_scenario(self, scenario: Scenario) -> None:
        number = self.number()
        if scenario.declarations:
            self.declarations.append(fill(numbered(scenario.declarations, number), self.dice))
        self.global_names += [numbered(name, number) for name in scenario.global_names]
        self.scenarios.append((number, scenario))
        self.contexts += scenario.contexts

    # The subject ------------------------------------------------------------------------------------------------
    def signature(self, receiver: str = "") -> str:
        """Parameters beside `x`, whose arguments `call_arguments` makes."""
        dice = self.dice
        parameters = [receiver, "x"] if receiver else ["x"]
        for _ in range(dice.choice((0, 0, 1, 2))):
            shared = tuple((root.outside, root.kind) for root in self.roots if root.outside)
            kind = container(dice, 2, shared)
            name = f"p{self.number()}"
            self.arguments.append(kind)
            parameters.append(name)
            self.roots.append(Place(kind, inside=name, assign_inside=f"{name} = $value"))
        if dice.random() < 0.3:
            kind = container(dice, 2)
            name = f"d{self.number()}"
            parameters.append(f"{name}={kind.text}")
            self.roots.append(Place(kind, inside=name, assign_inside=f"{name} = $value"))
        self.takes_rest = dice.random() < 0.2
        if self.takes_rest:
            parameters.append("*rest")
        if dice.random() < 0.3:
            if not self.takes_rest:
                parameters.append("*")
            parameters.append(f"flag={(default := Scalar(fill('$s', dice))).text}")
            self.roots.append(Place(default, inside="flag", assign_inside="flag = $value"))
            self.takes_flag = True
        else:
            self.takes_flag = False
        self.takes_options = dice.random() < 0.2
        if self.takes_options:
            parameters.append("**options")
        return ", ".join(parameters)

    def frame(self) -> str:
        kind = self.dice.choices(FRAMES, FRAME_WEIGHTS)[0]
        return str(getattr(self, f"frame_{kind}")())

    def frame_function(self) -> str:
        return f"def subject({self.signature()}):\n    BODY"

    def frame_closure(self) -> str:
        dice, lines, names = self.dice, [], []
        for _ in range(dice.randint(1, 2)):
            kind = container(dice, 2)
            name = f"c{self.number()}"
            names.append(name)
            lines += [
                f"    {name} = {kind.text}",
                f"    def set_{name}(value):\n        nonlocal {name}\n        {name} = value",
                f"    def get_{name}():\n        return {name}",
            ]
            self.roots.append(Place(kind, name, f"get_{name}()", f"{name} = $value", f"set_{name}($value)"))
        made = ", ".join(["subject", *(f"set_{name}, get_{name}" for name in names)])
        signature = self.signature()
        lines += [f"    def subject({signature}):", f"        nonlocal {', '.join(names)}", "        BODY", f"    return {made}"]
        self.epilogue.append(f"{made} = make_subject()")
        return "def make_subject():\n" + "\n".join(lines)

    def frame_module(self) -> str:
        text, kind = self.module_class()
        self.declarations.append(text)
        self.roots.append(Place(kind, "self", "subject"))
        self.roots.append(Place(kind, "self", "subject"))
        self.epilogue.append("subject = Model()")
        return f"class Model({kind.class_name}):\n    def forward({self.signature('self')}):\n        BODY"

    def frame_method(self) -> str:
        text, kind = make_class(self.dice.choice(ORDINARY), self.number(), self.dice)
        self.declarations.append(text)
        self.roots.append(Place(kind, "self", "owner"))
        self.epilogue.append("owner = Owner()\nsubject = owner.run")
        return f"class Owner({kind.class_name}):\n    def run({self.signature('self')}):\n        BODY"

    def frame_decorated(self) -> str:
        self.declarations.append(
            "def decorated(function):\n    calls = []\n    @functools.wraps(function)\n"
            "    def wrapper(*args, **kwargs):\n        calls.append(len(args))\n        return function(*args, **kwargs)\n"
            "    wrapper.calls = calls\n    return wrapper"
        )
        return f"@decorated\ndef subject({self.signature()}):\n    BODY"

    def frame_partial(self) -> str:
        kind = container(self.dice, 2)
        name = self.declare_global(kind)
        self.roots.append(Place(kind, inside="bound", assign_inside="bound = $value"))
        self.epilogue.append(f"subject = functools.partial(unbound, {name})")
        return f"def unbound(bound, {self.signature()}):\n    BODY"

    def frame_callable(self) -> str:
        text, kind = make_class(self.dice.choice(ORDINARY), self.number(), self.dice)
        self.declarations.append(text)
        self.roots.append(Place(kind, "self", "subject"))
        self.epilogue.append("subject = Subject()")
        return f"class Subject({kind.class_name}):\n    def __call__({self.signature('self')}):\n        BODY"

    def body(self) -> list[str]:
        dice = self.dice
        found = [place for root in self.roots if root.inside for place in places(root)]
        statements = []
        for number, scenario in self.scenarios:
            for _ in range(dice.choice((1, 1, 2))):
                statement = fill(numbered(dice.choice(scenario.body), number), dice)
                statements.append(protected(statement, dice) if dice.random() < 0.5 else statement)
        for _ in range(dice.randint(1, 6) if found else 0):
            # Rather a whole than one of its many parts, or small values would be all that is read.
            place = dice.choice(found) if dice.random() < 0.5 else dice.choice([p for p in self.roots if p.inside])
            if dice.random() < 0.65:
                statement = read(place, dice)
                if "self(" not in statement:  # endless recursion ends where Python's stack does
                    statements.append(statement)
            else:
                statement = change_inside(place, dice)
                if statement:
                    statements.append(protected(statement, dice) if dice.random() < 0.6 else statement)
                    if dice.random() < 0.4 and "self(" not in (statement := read(place, dice)):
                        statements.append(statement)
        dice.shuffle(statements)
        if self.takes_rest_or_options():
            statements.append(dice.choice(self.takes_rest_or_options()))
        return statements

    def takes_rest_or_options(self) -> list[str]:
        found = []
        if self.takes_rest:
            found += ["log.append(rest)", "log.append(len(rest))", "for value in rest:\n    log.append(value)"]
        if self.takes_options:
            found += ["log.append(options)", "log.append(options.get('flavour', 'none'))", "log.append(sorted(options))",
                      "for name, value in options.items():\n    log.append((name, value))"]  # fmt: skip
        return found

    # The rounds -------------------------------------------------------------------------------------------------
    def rounds(self) -> list[Round]:
        dice = self.dice
        found = [place for root in self.roots if root.outside for place in places(root)]
        roots = [root for root in self.roots if root.outside]
        fixed = self.call_arguments()
        made = []
        for index in range(dice.randint(3, 6)):
            changes: list[str] = []
            if index:
                for _ in range(dice.choice((0, 1, 1, 1, 2))):
                    changes += self.change(found, roots)
            arguments = fixed if dice.random() < 0.6 else self.call_arguments()
            contexts: SequenceOf[str] = self.contexts or CONTEXTS
            context = dice.choice(contexts) if dice.random() < (0.3 if self.contexts else 0.06) else None
            after = ("backward(result)",) if dice.random() < 0.15 else ()
            made.append(Round(tuple(changes), arguments, context, after))
        return made

    def change(self, found: list[Place], roots: list[Place]) -> list[str]:
        dice = self.dice
        if self.scenarios and (not found or dice.random() < 0.4):
            number, scenario = dice.choice(self.scenarios)
            return [fill(numbered(dice.choice(scenario.outside), number), dice)] if scenario.outside else []
        if not found:
            return []
        place = dice.choice(found) if dice.random() < 0.6 else dice.choice(roots)
        statement = change_outside(place, dice)
        if not statement:
            return []
        # A change that fails (an item is gone) is no change; both worlds fail alike.
        return [f"with contextlib.suppress(Exception):\n    {statement.replace(chr(10), chr(10) + '    ')}"]

    def call_arguments(self) -> str:
        dice = self.dice
        tensors = [root.outside for root in self.roots if root.outside and isinstance(root.kind, Tensor)]
        x = dice.choice(tensors) if tensors and dice.random() < 0.3 else dice.choice(TENSORS[:6])
        arguments = [str(x)]
        names = [root.outside for root in self.roots if root.outside and root.outside.isidentifier()]
        for kind in self.arguments:
            if names and dice.random() < 0.35:
                arguments.append(str(dice.choice(names)))
            elif isinstance(kind, Scalar) and dice.random() < 0.4:
                arguments.append(changed_scalar(kind.text, dice))
            else:
                arguments.append(kind.text)
        if self.takes_rest and len(arguments) == 1 + len(self.arguments):
            arguments += [container(dice, 1).text for _ in range(dice.randint(0, 2))]
        keywords = []
        if self.takes_flag and dice.random() < 0.6:
            keywords.append(f"flag={fill('$s', dice)}")
        if self.takes_options:
            keywords += [f"{name}={fill('$v', dice)}" for name in dice.sample(("flavour", "size", "mode"), dice.randint(0, 2))]
        return ", ".join([*arguments, *keywords])

    def program(self) -> GeneratedProgram:
        self.takes_rest = self.takes_flag = self.takes_options = False
        self.declare()
        frame = self.frame()
        body = self.body()
        readable = [root.inside for root in self.roots if root.inside]
        returned = self.dice.choice(RETURNS if readable else RETURNS[:8])
        returned = returned.replace("$p", str(self.dice.choice(readable)) if readable else "")
        return GeneratedProgram(
            seed=self.seed,
            declarations=tuple(self.declarations),
            frame=frame,
            body=tuple(body),
            returned=returned,
            epilogue=tuple(self.epilogue),
            global_names=tuple(dict.fromkeys(self.global_names)),
            rounds=tuple(self.rounds()),
        )


