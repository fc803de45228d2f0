"""Classes that generated programs define: ordinary ones, with hooks of every sort, and `nn.Module`s.

Each template gives the text of a class and the `Instance` kind of its objects: attributes that are known, statements
that read and change objects of the class, and statements for rounds (patched methods, hooks, replaced submodules).
In templates `#` is the class's number.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.acquire.fuzz.state import Instance, Kind, container, fill

PARAMETERS = ("torch.arange(4.0)", "torch.ones(4)", "torch.full((2, 4), 0.5)", "torch.ones(1, 4)")


@dataclass(frozen=True)
class Template:
    """A class: its text, how objects are made, and statements; `$p` is the object."""

    text: str
    make: str
    attributes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()


PLAIN = Template(
    """
class Plain#:
    limit = $s
    table = $v

    def __init__(self):
        self.a = $A
        self.b = $B

    def scale(self, value):
        return value * 2 if self.limit else value - 1

    def total(self):
        return [self.a, self.b, self.limit]

    @property
    def both(self):
        return (self.a, self.b)

    @both.setter
    def both(self, value):
        self.a, self.b = value

    @classmethod
    def shared(cls):
        return cls.limit

    @staticmethod
    def constant():
        return $s
""",
    "Plain#()",
    ("a", "b"),
    (
        "x = $p.scale(x)", "log.append($p.total())", "log.append($p.both)", "log.append($p.shared())",
        "log.append(Plain#.shared())", "log.append($p.constant())", "log.append($p.limit)", "log.append(Plain#.limit)",
        "log.append(type($p).limit)", "log.append($p.table)", "method = $p.scale\nx = method(x)",
        "log.append(isinstance($p, Plain#))", "log.append(type($p) is Plain#)", "log.append('limit' in vars($p))",
        "x = Plain#.scale($p, x)", "log.append(Plain#().a)", "made = Plain#()\nmade.a = x\nlog.append(made)",
        "x = x + len($p.total())",
    ),
    (
        "$p.both = ($s, $s)", "Plain#.limit = $s", "$p.limit = $s", "$p.b = $v", "Plain#.table = $v",
        "$p.made = Plain#()", "type($p).limit = $s", "Plain#.count = getattr(Plain#, 'count', 0) + 1",
    ),
    (
        "$p.scale = lambda value: value * 3", "Plain#.scale = lambda self, value: value + 3",
        "$p.total = types.MethodType(lambda self: [self.b], $p)", "Plain#.both = property(lambda self: [self.b])",
        "Plain#.limit = $s", "del Plain#.limit", "$p.limit = $s", "Plain#.__getattr__ = lambda self, name: name",
        "Plain#.__len__ = lambda self: 3", "Plain#.__bool__ = lambda self: False", "Plain#.constant = staticmethod(lambda: $s)",
        "Plain#.shared = classmethod(lambda cls: [cls.limit])", "Plain#.total = lambda self: 'patched'", "Plain#.new = $s",
        "$p.__class__ = type('Other', (Plain#,), {'limit': $s})", "Plain#.__getattribute__ = object.__getattribute__",
        "Plain#.extra = property(lambda self: 'class')", "Plain#.__eq__ = lambda self, other: True",
    ),
)  # fmt: skip
FALLBACK = Template(
    """
class Fallback#:
    def __init__(self):
        self.extra = {'p': $s, 'q': $B}
        self.a = $A

    def __getattr__(self, name):
        if name.startswith('_'):
            raise AttributeError(name)
        try:
            return self.extra[name]
        except KeyError:
            raise AttributeError(name) from None
""",
    "Fallback#()",
    ("a",),
    (
        "log.append($p.p)", "log.append($p.q)", "log.append(getattr($p, 'r', 'none'))", "log.append(hasattr($p, 'q'))",
        "log.append($p.r)", "log.append($p.a)", "if hasattr($p, 'r'):\n    x = x + 1",
    ),
    ("$p.extra['p'] = $s", "$p.p = $s", "$p.extra = {'p': $s}", "$p.extra['r'] = $s", "del $p.extra['q']"),
    (
        "Fallback#.p = $s", "Fallback#.__getattr__ = lambda self, name: name", "$p.__dict__['r'] = $s",
        "Fallback#.r = property(lambda self: $s)", "del Fallback#.__getattr__",
    ),
)  # fmt: skip
SLOTS = Template(
    """
class Slots#:
    __slots__ = ('a', 'b', 'extra')
    kind = $s

    def __init__(self):
        self.a = $A
        self.b = $B
""",
    "Slots#()",
    ("a", "b"),
    (
        "log.append($p.a)", "log.append(getattr($p, 'extra', 'unset'))", "log.append($p.kind)",
        "log.append(hasattr($p, 'b'))", "made = Slots#()\nmade.extra = x\nlog.append(made)",
    ),
    ("$p.a = $s", "$p.extra = x", "$p.extra = [$s]", "del $p.b", "$p.a, $p.b = $p.b, $p.a"),
    ("$p.a = $v", "del $p.a", "Slots#.kind = $s"),
)  # fmt: skip
DATACLASS = Template(
    """
@dataclasses.dataclass
class Record#:
    a: typing.Any = dataclasses.field(default_factory=lambda: $A)
    b: typing.Any = $s
    items: list = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.items.append(self.b)
""",
    "Record#()",
    ("a", "items"),
    (
        "log.append($p.b)", "log.append($p == Record#($p.a, $p.b, $p.items))", "log.append(dataclasses.astuple(Record#(1)))",
        "log.append(Record#(x, $s))", "log.append(dataclasses.replace($p, b=$s))",
        "log.append([field.name for field in dataclasses.fields($p)])", "log.append(dataclasses.is_dataclass($p))",
        "match $p:\n    case Record#(b=1):\n        log.append('one')\n    case Record#():\n        log.append($p.items)",
    ),
    ("$p.b = $s", "$p.items.append($s)", "$p.a = x", "$p.items = [$s]"),
    ("Record#.b = $s", "$p.a = $v", "Record#.__post_init__ = lambda self: None"),
)  # fmt: skip
PROTOCOL = Template(
    """
class Box#:
    def __init__(self):
        self.items = [$s, $s]
        self.a = $A

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]

    def __setitem__(self, index, value):
        self.items[index] = value

    def __contains__(self, item):
        return item in self.items

    def __iter__(self):
        for item in self.items:
            yield item

    def __call__(self, value):
        self.items.append(len(self.items))
        return value + len(self.items)

    def __eq__(self, other):
        return self.items == getattr(other, 'items', None)

    def __hash__(self):
        return 7

    def __add__(self, other):
        return [self.a, other]

    def __enter__(self):
        self.items.append('enter')
        return self

    def __exit__(self, *error):
        self.items.append('exit')
        return self.a is None
""",
    "Box#()",
    ("items", "a"),
    (
        "log.append(len($p))", "log.append($p[0])", "log.append($s in $p)", "log.append(list($p))", "x = $p(x)",
        "log.append($p == Box#())", "log.append($p + 1)", "log.append(bool($p))", "log.append({$p: 1}.get($p))",
        "with $p as box:\n    log.append(box.items[-1])", "with $p:\n    log.append($p[9])", "first, *_ = $p\nlog.append(first)",
        "log.append([item for item in $p])", "if $p:\n    x = x * 2", "log.append(sum(1 for item in $p))",
    ),
    ("$p[0] = $s", "$p.items.append($s)", "$p.items.clear()", "$p.items = [$s, 1]"),
    (
        "Box#.__len__ = lambda self: 0", "Box#.__contains__ = lambda self, item: False", "del Box#.__len__",
        "Box#.__call__ = lambda self, value: value - 1", "Box#.__getitem__ = lambda self, index: index",
        "$p.__len__ = lambda: 5", "Box#.__bool__ = lambda self: False", "Box#.__iter__ = lambda self: iter([1])",
    ),
)  # fmt: skip
CONTAINERS = Template(
    """
class Table#(dict):
    def __missing__(self, key):
        self[key] = value = [key]
        return value


class Row#(list):
    def first(self):
        return self[0] if self else None


class Holder#:
    def __init__(self):
        self.table = Table#(a=$s)
        self.row = Row#([$s, $s])
        self.queue = collections.deque([$s, $s], maxlen=3)
        self.default = collections.defaultdict(list, a=[$s])
        self.ordered = collections.OrderedDict(a=$s, b=$s)
        self.counter = collections.Counter('aab')
        self.frozen = frozenset({$n, 'a'})
        self.bytes = bytearray(b'ab')
""",
    "Holder#()",
    (),
    (
        "log.append($p.table[$k])", "log.append($p.table.get($k))", "log.append($p.row.first())", "log.append($p.row[-1])",
        "log.append(list($p.queue))", "log.append($p.queue[0])", "log.append($p.default[$k])", "log.append(len($p.default))",
        "log.append(list($p.ordered.items()))", "log.append($p.counter['a'])", "log.append($p.counter.most_common(1))",
        "log.append($s in $p.frozen)", "log.append(len($p.row))", "log.append(dict($p.table))", "log.append($p.ordered['b'])",
        "log.append($p.counter['missing'])", "log.append(bytes($p.bytes))", "log.append([item for item in $p.row])",
        "log.append($p.ordered == {'b': 1, 'a': 1})", "log.append(len($p.queue))", "log.append(2 in $p.frozen)",
        "for item in $p.queue:\n    log.append(item)",
    ),
    (
        "$p.table[$k] = $s", "$p.row.append($s)", "$p.queue.append($s)", "$p.queue.appendleft($s)", "$p.queue.popleft()",
        "$p.default[$k].append($s)", "$p.ordered.move_to_end('a')", "$p.ordered['c'] = $s", "$p.counter.update('ab')",
        "$p.counter['a'] += 1", "$p.queue.rotate(1)", "$p.row += [$s]", "$p.table.update(b=$s)", "$p.ordered.popitem(last=False)",
        "$p.row.name = $s", "$p.bytes.append(65)", "$p.default.pop('a', None)", "$p.row.insert(0, x)", "$p.queue.append(x)",
        "$p.table['x'] = x", "$p.default['x'].append(x)", "$p.row[0] = $s", "$p.queue[0] = $s", "$p.table.setdefault('q', [])",
    ),
    (
        "$p.table = Table#(b=$s)", "Table#.__missing__ = lambda self, key: 'missing'", "Row#.first = lambda self: 'patched'",
        "$p.default.default_factory = None", "$p.queue.clear()", "$p.counter.clear()", "$p.ordered.clear()",
        "$p.row.clear()", "Row#.__getitem__ = lambda self, index: index", "$p.frozen = frozenset()",
        "$p.row.first = lambda: 'instance'",
    ),
)  # fmt: skip
HOOKED = Template(
    """
class Access#:
    def __get__(self, instance, owner):
        if instance is None:
            return 'class'
        return instance.store.get('value', $s)

    def __set__(self, instance, value):
        instance.store['value'] = value


class Hooked#:
    value = Access#()
    sets = 0

    def __init__(self):
        object.__setattr__(self, 'store', {})
        self.a = $A

    def __setattr__(self, name, value):
        type(self).sets += 1
        object.__setattr__(self, name, value)

    def __delattr__(self, name):
        self.store['deleted'] = name
        super().__delattr__(name)

    def __getattribute__(self, name):
        if name == 'answer':
            return 42
        return super().__getattribute__(name)

    @functools.cached_property
    def cached(self):
        return [self.a]
""",
    "Hooked#()",
    ("a", "store"),
    (
        "log.append($p.value)", "log.append($p.answer)", "log.append(Hooked#.sets)", "log.append(Hooked#.value)",
        "log.append($p.store)", "log.append($p.cached)",
    ),
    ("$p.value = $s", "$p.a = $s", "$p.store['value'] = $s", "del $p.a", "$p.value = x"),
    (
        "Hooked#.sets = $s", "Access#.__get__ = lambda self, instance, owner: 'patched'", "del Hooked#.__setattr__",
        "Hooked#.__getattribute__ = lambda self, name: object.__getattribute__(self, name)", "del Hooked#.__getattribute__",
        "Hooked#.value = $s",
    ),
)  # fmt: skip
INHERITED = Template(
    """
class Base#:
    rate = $s

    def step(self, value):
        return value + 1

    def describe(self):
        return ('base', self.rate)


class Middle#(Base#):
    def step(self, value):
        return super().step(value) * 2


class Mixin#:
    def describe(self):
        return ('mixin', *super().describe())


class Derived#(Mixin#, Middle#):
    def __init__(self):
        super().__init__()
        self.a = $A
""",
    "Derived#()",
    ("a",),
    (
        "x = $p.step(x)", "log.append($p.describe())", "log.append($p.rate)", "log.append(isinstance($p, Base#))",
        "log.append(issubclass(type($p), Middle#))", "log.append([base.__name__ for base in type($p).__mro__])",
        "log.append(Derived#.rate)",
    ),
    ("Base#.rate = $s", "Middle#.rate = $s", "$p.rate = $s", "Derived#.rate = $s"),
    (
        "Base#.step = lambda self, value: value - 1", "del Middle#.step", "Derived#.step = lambda self, value: -value",
        "Middle#.rate = $s", "Base#.rate = $s", "Derived#.__bases__ = (Middle#,)", "Mixin#.describe = lambda self: 'patched'",
        "Middle#.describe = lambda self: 'middle'",
    ),
)  # fmt: skip
VALUES = Template(
    """
class Colour#(enum.Enum):
    RED = 1
    BLUE = 'b'


class Point#(typing.NamedTuple):
    first: typing.Any
    second: typing.Any = $s


class Choice#:
    def __init__(self):
        self.colour = Colour#.RED
        self.point = Point#($A)
        self.modes = {Colour#.RED: $s, 'other': $s}
""",
    "Choice#()",
    (),
    (
        "log.append($p.colour is Colour#.RED)", "log.append($p.colour.value)", "log.append($p.point.first)", "log.append($p.point)",
        "first, second = $p.point\nlog.append(second)", "log.append($p.modes[$p.colour])", "log.append($p.point[1])",
        "log.append(Point#(x, 1))", "log.append($p.colour == Colour#.BLUE)", "log.append($p.point._replace(first=1))",
        "match $p.colour:\n    case Colour#.RED:\n        x = x + 1\n    case Colour#.BLUE:\n        x = x * 2",
        "log.append($p.colour.name)", "log.append(len($p.modes))", "log.append(Colour#(1))", "log.append([c.name for c in Colour#])",
    ),
    ("$p.colour = Colour#.BLUE", "$p.point = Point#(x, $s)", "$p.modes[Colour#.BLUE] = $s", "$p.point = $p.point._replace(second=$s)"),
    ("$p.colour = Colour#.BLUE", "$p.colour = Colour#.RED", "$p.point = Point#($v)", "$p.modes[$p.colour] = $s"),
)  # fmt: skip

MODULE = Template(
    """
class Net#(nn.Module):
    scale_factor = $n

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter($W)
        self.register_buffer('running', torch.zeros(4))
        self.register_parameter('absent', None)
        self.layer = nn.Linear(4, 4)
        with torch.no_grad():
            self.layer.weight.copy_(torch.arange(16.0).reshape(4, 4) / 16)
            self.layer.bias.fill_(0.5)
        self.act = nn.ReLU()
        self.blocks = nn.ModuleList([nn.Identity(), nn.Tanh()])
        self.named = nn.ModuleDict({'one': nn.Sigmoid()})
        self.a = $A
        self.b = $B
        self.calls = 0

    def helper(self, value):
        return value * self.scale_factor

    @property
    def size(self):
        return len(self.blocks)

    def forward(self, value):
        self.calls += 1
        value = value * self.weight + self.running
        if self.training:
            value = value + 1
            self.running.mul_(0.5).add_(1)
        return self.act(value)
""",
    "Net#()",
    ("a", "b"),
    (
        "x = $p(x)", "x = x + $p.weight", "x = x + $p.running", "x = $p.layer(x.to($p.layer.weight.dtype))", "x = $p.helper(x)",
        "for block in $p.blocks:\n    x = block(x)", "x = $p.named['one'](x)", "log.append($p.training)", "log.append($p.size)",
        "log.append([name for name, _ in $p.named_parameters()])", "log.append($p.weight)", "log.append($p.weight.requires_grad)",
        "log.append(type($p.act).__name__)", "log.append($p.absent is None)", "log.append(len($p.blocks))", "x = $p.blocks[0](x)",
        "log.append([type(module).__name__ for module in $p.modules()])", "log.append(list($p.state_dict()))",
        "log.append('weight' in dict($p.named_parameters()))", "x = x + sum(p.sum() for p in $p.parameters())",
        "log.append(isinstance($p.act, nn.ReLU))", "log.append(getattr($p, 'missing', 'none'))", "log.append($p.act)",
        "log.append($p.weight is $p._parameters['weight'])", "log.append(sorted($p._modules))", "log.append($p.layer.in_features)",
        "log.append([name for name, _ in $p.named_children()])", "x = F.linear(x.to($p.layer.weight.dtype), $p.layer.weight)",
        "log.append('one' in $p.named)", "log.append($p.calls)", "x = F.dropout(x, 0.5, $p.training)", "log.append($p.weight.dtype)",
        "log.append($p.get_parameter('weight'))", "log.append(hasattr($p, 'weight'))", "x = $p.blocks[-1](x)",
    ),
    (
        "with torch.no_grad():\n    $p.weight.add_(1)", "$p.running.add_(1)", "$p.running = torch.zeros(4)", "$p.calls += 1",
        "$p.running = $p.running + 1", "$p.last = x", "$p.cache = {'x': x}", "$p.running = x.detach().sum(0)", "$p.scale_factor = $n",
        "type($p).scale_factor = $n", "$p.absent = None", "$p.training = False", "$p.weight.grad = None",
    ),
    (
        "$p.train()", "$p.eval()", "$p.train($p.calls % 2 == 0)", "$p.act = nn.Tanh()", "$p.weight = nn.Parameter(torch.ones(4) * 3)",
        "$p.weight.requires_grad_(False)", "$p.running = torch.ones(4)", "$p.layer = nn.Linear(4, 4, bias=False)",
        "$p.double()", "$p.float()", "$p.layer.bias = None", "$p.blocks.append(nn.ReLU())", "$p.blocks[0] = nn.Sigmoid()",
        "del $p.blocks[-1]", "$p.named['one'] = nn.ReLU()", "$p.named['two'] = nn.ReLU()", "$p.helper = lambda value: value - 1",
        "Net#.helper = lambda self, value: value + 5", "Net#.scale_factor = $n", "$p.scale_factor = $n", "$p.act.forward = torch.neg",
        "Net#.forward = lambda self, value: value * 7", "$p.forward = lambda value: value - 7", "del $p.act",
        "Net#.size = property(lambda self: 9)", "$p.absent = nn.Parameter(torch.ones(4))", "$p.layer.weight = nn.Parameter(torch.ones(4, 4))",
        "$p.weight.data = torch.full((4,), 2.0)", "$p.act = $p.blocks[0]", "$p.weight = $p.layer.bias", "$p.half_done = True",
        "$p.register_forward_hook(lambda module, args, output: output + 1)", "$p.act.register_forward_hook(count_hook)",
        "HANDLES.append($p.register_forward_pre_hook(lambda module, args: (args[0] * 2,)))",
        "if HANDLES:\n    HANDLES.pop().remove()", "$p.act.__class__ = nn.Tanh", "$p.layer.weight.requires_grad_(False)",
        "$p.register_buffer('extra', torch.ones(4))", "$p.a = nn.ReLU()", "$p.load_state_dict($p.state_dict())",
        "$p.weight.grad = torch.ones_like($p.weight)", "$p.zero_grad()", "$p.to(torch.float64)", "$p.requires_grad_(False)",
        "$p.blocks = nn.ModuleList([nn.ReLU()])", "$p.blocks = nn.Sequential(nn.ReLU())", "$p.act = lambda value: value + 2",
        "$p._parameters.pop('weight')", "$p._modules['act'] = nn.Tanh()", "$p._buffers['running'] = torch.ones(4)",
    ),
)  # fmt: skip

HOOK_DECLARATION = """
HANDLES = []
HOOK_CALLS = []


def count_hook(module, args, output):
    HOOK_CALLS.append(type(module).__name__)
    return output * 2
"""

ORDINARY: tuple[Template, ...] = (
    PLAIN, PLAIN, FALLBACK, SLOTS, DATACLASS, PROTOCOL, CONTAINERS, HOOKED, INHERITED, VALUES,
)  # fmt: skip


def make_class(template: Template, number: int, dice: random.Random) -> tuple[str, Instance]:
    """(text of the class or classes, kind of the objects)."""
    kinds: dict[str, Kind] = {"$A": container(dice, 2), "$B": container(dice, 2)}
    text = template.text.replace("#", str(number)).replace("$W", dice.choice(PARAMETERS))
    for marker, kind in kinds.items():
        text = text.replace(marker, kind.text)
    known: dict[str, Kind] = {"a": kinds["$A"], "b": kinds["$B"]}
    attributes = tuple((name, known[name]) for name in template.attributes if name in known)

    def numbered(statements: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(statement.replace("#", str(number)) for statement in statements)

    instance = Instance(
        template.make.replace("#", str(number)),
        attributes,
        numbered(template.reads),
        numbered(template.changes),
        numbered(template.outside),
        template.make.replace("#", str(number)).removesuffix("()"),
    )
    return fill(text, dice), instance
