"""Idioms that lean on the standard library, on torch's state, or on Python's class machinery; see `scenarios.py`."""

from __future__ import annotations

from tests.acquire.fuzz.scenario import Scenario

LIBRARY_SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "Python's random numbers",
        "RNG# = random.Random(3)\nCHANCE# = $n",
        (
            "x = x * random.random()", "log.append(random.randint(0, 9))", "if random.random() < 0.5:\n    x = x + 1",
            "log.append(RNG#.choice([1, 2, 3]))", "log.append(RNG#.uniform(0, 1))", "random.seed(3)\nlog.append(random.random())",
            "if CHANCE#:\n    x = x + random.gauss(0, 1)", "order = [1, 2, 3]\nrandom.shuffle(order)\nlog.append(order)",
            "log.append(random.Random(5).random())",
        ),
        ("random.seed(5)", "RNG# = random.Random(4)", "RNG#.random()", "CHANCE# = 0", "CHANCE# = 1"),
        ("RNG#", "CHANCE#"),
    ),
    Scenario(
        "clocks",
        "STARTED# = 0.0\nCLOCK# = time.perf_counter",
        (
            "log.append(time.time() > STARTED#)", "begin = CLOCK#()\nlog.append(CLOCK#() >= begin)", "log.append(type(time.time()))",
            "if time.monotonic() < STARTED#:\n    x = x + 1",
        ),
        ("STARTED# = math.inf", "STARTED# = 0.0", "CLOCK# = lambda: 1"),
        ("STARTED#", "CLOCK#"),
    ),
    Scenario(
        "weak references",
        """
class Target#:
    value = $s


TARGET# = Target#()
KEPT# = [TARGET#]
REF# = weakref.ref(TARGET#)
TABLE# = weakref.WeakValueDictionary(a=TARGET#)
BY_OBJECT# = weakref.WeakKeyDictionary({TARGET#: $s})
""",
        (
            "target = REF#()\nlog.append('gone' if target is None else target.value)", "log.append(REF#() is TARGET#)",
            "found = TABLE#.get('a')\nlog.append(found is None)", "log.append(BY_OBJECT#.get(TARGET#, 'none'))",
            "log.append('a' in TABLE#)", "made = weakref.ref(TARGET#)\nlog.append(made() is TARGET#)", "REF#().value = x",
        ),
        (
            "TARGET# = Target#()\nKEPT#.append(TARGET#)", "TARGET#.value = $s", "REF# = weakref.ref(TARGET#)", "TARGET# = None",
            "BY_OBJECT#[TARGET#] = $s", "TABLE#['a'] = TARGET#", "TABLE#.clear()",
        ),
        ("TARGET#", "REF#"),
    ),
    Scenario(
        "functools.lru_cache",
        """
SIZE# = $n
MADE# = []


@functools.lru_cache(maxsize=2)
def table#(n, scale=1):
    MADE#.append(n)
    return [n, SIZE#, scale]


@functools.cache
def mask#(n):
    return torch.ones(n) * SIZE#
""",
        (
            "log.append(table#(2))", "log.append(table#($n))", "x = x + mask#(4)", "log.append(table#(1) is table#(1))",
            "log.append(mask#(2))", "log.append(table#(3, scale=2))", "table#(5)[1] = $s",
        ),
        ("SIZE# = $n", "table#.cache_clear()", "table#(7)", "table#(8)", "mask#.cache_clear()", "mask#(4).add_(1)", "table#(2)"),
        ("SIZE#",),
    ),
    Scenario(
        "partial functions",
        "def combine#(a, b=$n, *, c=$n):\n    return a * b + c\nPART# = functools.partial(combine#, b=$n)\nWHOLE# = functools.partial(PART#, c=$n)",
        (
            "x = PART#(x)", "x = WHOLE#(x)", "log.append(WHOLE#.keywords)", "log.append(PART#.func is combine#)",
            "x = functools.partial(combine#, x)()", "log.append(WHOLE#.args)", "x = WHOLE#(x, b=2)",
        ),
        (
            "PART# = functools.partial(combine#, b=$n)", "WHOLE#.keywords['c'] = $n", "combine#.__kwdefaults__ = {'c': $n}",
            "WHOLE# = functools.partial(combine#, b=2, c=$n)", "PART#.keywords['b'] = $n", "PART#.tag = $s",
        ),
        ("PART#", "WHOLE#"),
    ),
    Scenario(
        "classes made inside",
        "CLASSES# = []\nBASE_RATE# = $n\nclass Outer#:\n    rate = $n\n    def run(self, value):\n        return value * self.rate",
        (
            "class Local#(Outer#):\n    rate = BASE_RATE#\nx = Local#().run(x)",
            "class Local#:\n    def __init__(self, value):\n        self.value = value\n    def twice(self):\n        return self.value * 2\nx = Local#(x).twice()",
            "Made# = type('Made#', (Outer#,), {'rate': $n})\nlog.append(Made#.rate)\nx = Made#().run(x)",
            "class Local#(Outer#):\n    def run(self, value):\n        return super().run(value) + 1\nx = Local#().run(x)",
            "log.append(Outer#().run($n))", "class Local#(Outer#):\n    pass\nlog.append(Local#())", "class Local#(Outer#):\n    pass\nCLASSES#.append(Local#)",
            "Pair# = collections.namedtuple('Pair#', 'a b')\nlog.append(Pair#(1, $s).b)",
            "@dataclasses.dataclass\nclass Local#:\n    a: int = $n\nlog.append(Local#().a)",
        ),
        ("BASE_RATE# = $n", "Outer#.rate = $n", "Outer#.run = lambda self, value: value + 9"),
        ("BASE_RATE#",),
    ),
    Scenario(
        "generators",
        """
STEP# = $n
SOURCE# = [1, 2, 3]


def stream#(limit):
    for item in SOURCE#:
        received = yield item * 2 if STEP# else item
        if received:
            SOURCE#.append(received)
        if item == limit:
            return 'end'


def delegating#():
    result = yield from stream#(2)
    yield result
""",
        (
            "for item in stream#(2):\n    x = x + item", "log.append(list(delegating#()))", "log.append(sum(stream#(9)))",
            "g = stream#(9)\nnext(g)\nlog.append(g.send($n))\ng.close()", "log.append([a for a in stream#(1) if a])",
            "pairs = zip(stream#(9), stream#(9))\nlog.append(list(pairs))", "log.append(max(stream#(9), default='none'))",
            "a, b, *c = (item for item in SOURCE#)\nlog.append((a, b, c))", "log.append(any(item > 1 for item in SOURCE#))",
            "log.append({k: v for k, v in enumerate(stream#(9))})", "log.append(list(itertools.chain(stream#(1), SOURCE#))[:6])",
        ),
        ("STEP# = $n", "SOURCE#[0] = $n", "SOURCE# = [2]", "SOURCE#.clear()", "SOURCE#.append(4)", "del SOURCE#[3:]"),
        ("STEP#", "SOURCE#"),
    ),
    Scenario(
        "exceptions",
        """
LIMIT# = $n
SEEN# = []


class Failure#(ValueError):
    def __init__(self, code, *rest):
        super().__init__(code, *rest)
        self.code = code


def risky#(value):
    if LIMIT#:
        raise Failure#(LIMIT#, value)
    return 'fine'
""",
        (
            "try:\n    log.append(risky#($n))\nexcept Failure# as failure:\n    log.append(failure.code)",
            "try:\n    risky#(1)\nexcept (KeyError, Failure#) as failure:\n    SEEN#.append(failure)\n    log.append(str(failure))",
            "try:\n    try:\n        risky#(2)\n    except ValueError as error:\n        raise RuntimeError('outer') from error\nexcept RuntimeError as error:\n    log.append(type(error.__cause__).__name__)",
            "try:\n    risky#(3)\nfinally:\n    SEEN#.append('finally')", "log.append(len(SEEN#))",
            "try:\n    x = x @ torch.ones(3, 3)\nexcept RuntimeError:\n    log.append('shapes')",
            "try:\n    assert not LIMIT#, 'limit'\nexcept AssertionError as error:\n    log.append(error.args)",
            "def nested():\n    try:\n        return risky#(0)\n    except Failure#:\n        return 'failed'\n    finally:\n        log.append('left')\nlog.append(nested())",
        ),
        ("LIMIT# = $n", "LIMIT# = 0", "SEEN#.clear()", "Failure#.__str__ = lambda self: 'patched'", "del Failure#.__str__"),
        ("LIMIT#",),
    ),
    Scenario(
        "class as a context manager",
        """
class Scope#:
    depth = 0
    swallow = $n

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        type(self).depth += 1
        return self

    def __exit__(self, kind, error, traceback):
        Scope#.depth -= 1
        return bool(self.swallow) and kind is ValueError


STACK# = contextlib.ExitStack()
""",
        (
            "with Scope#($s) as scope:\n    log.append((scope.name, Scope#.depth))",
            "with Scope#('a'), Scope#('b'):\n    x = x + Scope#.depth",
            "with Scope#('c'):\n    raise ValueError($n)",
            "with contextlib.ExitStack() as stack:\n    stack.enter_context(Scope#('d'))\n    log.append(Scope#.depth)",
            "with contextlib.suppress(ValueError):\n    with Scope#('e'):\n        raise ValueError",
        ),
        ("Scope#.swallow = $n", "Scope#.depth = $n", "Scope#.__exit__ = lambda self, *error: False"),
    ),
    Scenario(
        "keys with methods of their own",
        """
STRICT# = $n


class Key#:
    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return hash(self.name)

    def __eq__(self, other):
        return isinstance(other, Key#) and self.name == other.name and not STRICT#

    def __lt__(self, other):
        return self.name < other.name if STRICT# else other.name < self.name


BY_KEY# = {Key#('a'): $s, Key#('b'): $s}
KEYS# = [Key#('b'), Key#('a'), Key#('c')]
""",
        (
            "log.append(BY_KEY#.get(Key#('a')))", "log.append(KEYS#[0] in BY_KEY#)", "log.append(Key#('c') in KEYS#)",
            "BY_KEY#[Key#('c')] = $s\nlog.append(len(BY_KEY#))", "log.append(KEYS#[0] == Key#('b'))",
            "log.append([key.name for key in sorted(KEYS#)])", "log.append(len({Key#('a'), Key#('a')}))",
            "log.append(KEYS#.index(Key#('a')))", "log.append(max(KEYS#).name)", "log.append(BY_KEY#[KEYS#[1]])",
            "log.append(KEYS#.count(KEYS#[2]))", "BY_KEY#.pop(Key#('a'), None)", "log.append(hash(KEYS#[0]) == hash('b'))",
        ),
        ("STRICT# = $n", "STRICT# = 0", "KEYS#[0].name = 'a'", "BY_KEY#.clear()", "KEYS#.reverse()", "BY_KEY#[Key#('a')] = $s"),
        ("STRICT#",),
    ),
    Scenario(
        "frozen and slotted data classes",
        """
@dataclasses.dataclass(frozen=True)
class Frozen#:
    a: int = $n
    b: typing.Any = dataclasses.field(default=$s, compare=False)


@dataclasses.dataclass
class Ordered#:
    __slots__ = ('a', 'b')
    a: typing.Any
    b: typing.Any


CONFIG# = Frozen#()
PAIR# = Ordered#($n, $s)
""",
        (
            "x = x * CONFIG#.a", "log.append(CONFIG# == Frozen#())", "log.append(dataclasses.replace(CONFIG#, a=$n))",
            "log.append(hash(CONFIG#) == hash(Frozen#()))", "CONFIG#.a = 3", "log.append(dataclasses.asdict(CONFIG#))",
            "log.append(PAIR#.b)", "PAIR#.b = x", "log.append(PAIR# == Ordered#(1, 2))", "log.append({CONFIG#: 1}.get(Frozen#()))",
            "log.append(repr(CONFIG#))", "log.append(Ordered#(x, $s))",
        ),
        ("CONFIG# = Frozen#($n)", "PAIR#.a = $n", "PAIR# = Ordered#($n, $n)", "object.__setattr__(CONFIG#, 'a', $n)", "del PAIR#.b"),
        ("CONFIG#", "PAIR#"),
    ),
    Scenario(
        "enumerations",
        """
class Mode#(enum.Enum):
    FAST = 'fast'
    SLOW = 'slow'

    @property
    def factor(self):
        return FACTORS#[self]


class Flags#(enum.IntFlag):
    READ = 1
    WRITE = 2


class Level#(enum.IntEnum):
    LOW = 1
    HIGH = 2


FACTORS# = {Mode#.FAST: $n, Mode#.SLOW: $n}
MODE# = Mode#.FAST
FLAGS# = Flags#.READ
LEVEL# = Level#.LOW
""",
        (
            "x = x * MODE#.factor", "log.append(MODE# is Mode#.FAST)", "log.append(Flags#.WRITE in FLAGS#)", "log.append(FLAGS# | Flags#.WRITE)",
            "log.append(MODE#.value)", "log.append(Mode#('slow'))", "log.append(Mode#['FAST'].name)", "log.append(list(Mode#))",
            "if MODE# == Mode#.SLOW:\n    x = x + 1", "MODE# = Mode#.SLOW", "FLAGS# |= Flags#.WRITE", "log.append(LEVEL# > Level#.LOW)",
            "x = x + LEVEL#", "log.append(LEVEL# + 1)", "log.append({MODE#: 1})", "x = x[..., :LEVEL#]",
        ),
        (
            "MODE# = Mode#.SLOW", "MODE# = Mode#.FAST", "FACTORS#[Mode#.FAST] = $n", "FLAGS# = Flags#.READ | Flags#.WRITE",
            "FLAGS# = Flags#(0)", "LEVEL# = Level#.HIGH", "LEVEL# = 1", "FLAGS# = 1",
        ),
        ("MODE#", "FLAGS#", "LEVEL#"),
    ),
    Scenario(
        "devices and meta data",
        "DEVICE# = 'cpu'\nHELD# = torch.ones(4)\nDTYPE# = torch.float32",
        (
            "log.append(HELD#.device.type)", "log.append(torch.zeros(2, dtype=DTYPE#))", "x = x.to(DTYPE#)", "log.append(HELD#.shape)",
            "x = x + HELD#.to(DTYPE#)" , "log.append((HELD#.dtype, HELD#.stride(), HELD#.requires_grad, HELD#.is_contiguous()))",
            "x = x + torch.ones(4, device=DEVICE#)", "if HELD#.is_contiguous():\n    x = x + 1", "log.append(HELD#.is_floating_point())",
            "log.append(HELD#.device == torch.device(DEVICE#))", "log.append(HELD#.dim() * HELD#.element_size())",
        ),
        (
            "HELD# = torch.ones(4, device='meta')", "HELD# = torch.ones(4)", "DTYPE# = torch.float64", "DTYPE# = torch.int64",
            "HELD# = torch.ones(2, 4)", "HELD# = torch.ones(8)[::2]", "HELD#.requires_grad_(True)", "HELD# = HELD#.double()",
            "HELD# = torch.ones(4, dtype=torch.int64)", "DEVICE# = torch.device('cpu')", "DEVICE# = 'meta'",
        ),
        ("DEVICE#", "HELD#", "DTYPE#"),
    ),
    Scenario(
        "modules beside each other",
        """
class Block#(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width, bias=False)
        nn.init.constant_(self.inner.weight, 0.25)
        self.register_buffer('steps', torch.zeros(()), persistent=False)
        self.drop = nn.Dropout(0.5)

    def forward(self, value):
        self.steps += 1
        return self.drop(self.inner(value.float()))


STACK# = nn.Sequential(Block#(4), Block#(4))
""",
        (
            "x = STACK#(x)", "x = STACK#[0](x)", "log.append(STACK#[1].steps)", "log.append([name for name, _ in STACK#.named_buffers()])",
            "x = STACK#[0].inner.weight.sum() + x", "log.append(STACK#.training)", "log.append(STACK#[0].drop.p)", "log.append(len(STACK#))",
            "log.append(sum(p.numel() for p in STACK#.parameters()))", "STACK#[0].steps = torch.zeros(())",
        ),
        (
            "STACK#.eval()", "STACK#.train()", "STACK#[1] = nn.Identity()", "STACK#[0].inner = nn.Linear(4, 4)", "STACK#[0].drop.p = 0.0",
            "STACK#.append(nn.ReLU())", "STACK#[0].eval()", "STACK#[0].inner.weight = nn.Parameter(torch.ones(4, 4))", "STACK#[0].forward = torch.neg",
            "STACK#[0].steps.add_(5)", "STACK#.requires_grad_(False)", "del STACK#[1]", "STACK#[0].inner.weight.data = torch.ones(4, 4)",
            "Block#.forward = lambda self, value: value * 2", "STACK#.double()", "STACK#.insert(0, nn.Tanh())",
        ),
    ),
    Scenario(
        "lazily filled properties",
        """
class Settings#:
    def __init__(self):
        self._values = {'a': $s}
        self.loads = 0

    @functools.cached_property
    def loaded(self):
        self.loads += 1
        return dict(self._values)

    def __getattr__(self, name):
        if name.startswith('__') or name == '_values':
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f'no {name}') from None


SETTINGS# = Settings#()
""",
        (
            "log.append(SETTINGS#.loaded)", "log.append(SETTINGS#.a)", "log.append(getattr(SETTINGS#, 'b', 'none'))", "log.append(SETTINGS#.loads)",
            "log.append(SETTINGS#.loaded is SETTINGS#.loaded)", "SETTINGS#.loaded['z'] = x", "SETTINGS#._values['b'] = $s",
        ),
        (
            "SETTINGS# = Settings#()", "SETTINGS#.__dict__.pop('loaded', None)", "SETTINGS#._values['a'] = $s", "SETTINGS#._values['b'] = $s",
            "SETTINGS#.a = $s", "Settings#.a = $s", "SETTINGS#._values = {}", "SETTINGS#.loads = $n",
        ),
        ("SETTINGS#",),
    ),
    Scenario(
        "identity and hashing",
        "class Thing#:\n    pass\nTHINGS# = [Thing#(), Thing#()]\nIDS# = {id(THINGS#[0])}\nHELD# = torch.ones(4)\nTENSOR_IDS# = {id(HELD#): $s}\nBY_TENSOR# = {HELD#: $s}",
        (
            "log.append(id(THINGS#[0]) in IDS#)", "log.append(id(THINGS#[0]) == id(THINGS#[1]))", "log.append(TENSOR_IDS#.get(id(HELD#)))",
            "log.append(hash(THINGS#[0]) == hash(THINGS#[0]))", "memo = {id(thing): 1 for thing in THINGS#}\nlog.append(len(memo))",
            "log.append(THINGS#[0] in {THINGS#[0]: 1})", "IDS#.add(id(THINGS#[1]))\nlog.append(len(IDS#))", "log.append({HELD#: 1}[HELD#])",
            "log.append(id(x) == id(x))", "log.append(hash(HELD#) == id(HELD#))", "log.append(BY_TENSOR#.get(HELD#))",
            "log.append(HELD# in BY_TENSOR#)", "BY_TENSOR#[HELD#] = $s", "log.append(BY_TENSOR#[HELD#])", "BY_TENSOR#.setdefault(HELD#, []).append(1)",
        ),
        ("THINGS#.reverse()", "THINGS#[0] = Thing#()", "THINGS#[1] = THINGS#[0]", "IDS#.clear()", "HELD# = torch.ones(4)", "TENSOR_IDS#[id(HELD#)] = $s"),
        ("HELD#",),
    ),
    Scenario(
        "copies",
        "ORIGINAL# = {'a': [1, $s], 'b': {$k: $s}}\nclass Part#:\n    def __init__(self):\n        self.items = [$s]\nPART# = Part#()",
        (
            "made = copy.deepcopy(ORIGINAL#)\nmade['a'].append(2)\nlog.append(made)", "made = copy.copy(ORIGINAL#)\nmade['c'] = x\nlog.append(made)",
            "log.append(copy.deepcopy(PART#))", "made = copy.copy(PART#)\nmade.items.append(x)\nlog.append(made)", "log.append(copy.deepcopy([PART#, PART#]))",
        ),
        ("ORIGINAL#['a'].append($s)", "PART#.items.append($s)", "ORIGINAL# = {'a': [], 'b': {}}", "PART# = Part#()", "ORIGINAL#['b']['z'] = $s"),
        ("ORIGINAL#", "PART#"),
    ),
)
