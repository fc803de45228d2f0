"""Small idioms of real programs, whole: caches, counters, registries, linked objects, hooks, torch's global state.

Each has declarations, statements of the subject and statements for rounds; `#` is its number.
"""

from __future__ import annotations

from tests.acquire.fuzz.scenario import Scenario

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "cache of tensors",
        "CACHE# = {}",
        (
            "key = (tuple(x.shape), x.dtype)\nif key not in CACHE#:\n    CACHE#[key] = x * 2\nlog.append(CACHE#[key])",
            "try:\n    kept = CACHE#['x']\nexcept KeyError:\n    kept = CACHE#['x'] = x.detach() + 1\nx = x + kept",
            "CACHE#.setdefault('all', []).append(x)\nlog.append(CACHE#['all'])",
            "previous = CACHE#.get('last')\nCACHE#['last'] = x\nif previous is not None:\n    x = x + previous.sum()",
        ),
        ("CACHE#.clear()", "CACHE#['x'] = torch.ones(4)", "CACHE#.pop('last', None)", "CACHE#['last'] = CACHE#.get('x')"),
    ),
    Scenario(
        "counter",
        "COUNT# = 0\nSTEPS# = {'n': 0}",
        (
            "COUNT# += 1\nif COUNT# % 2:\n    x = x + COUNT#",
            "STEPS#['n'] += 1\nlog.append(STEPS#['n'])",
            "COUNT# = COUNT# + len(log)\nlog.append(COUNT#)",
        ),
        ("COUNT# = $n", "STEPS#['n'] = $n", "del STEPS#['n']", "COUNT# = None"),
        ("COUNT#",),
    ),
    Scenario(
        "deleted global",
        "FLAG# = $s",
        ("log.append('FLAG#' in globals())\ntry:\n    log.append(FLAG#)\nexcept NameError:\n    log.append('unset')",
         "del FLAG#", "FLAG# = [x]\nlog.append(FLAG#)", "globals()['FLAG#'] = $s"),
        ("FLAG# = $s", "globals().pop('FLAG#', None)", "FLAG# = None"),
        ("FLAG#",),
    ),
    Scenario(
        "shadowed builtin",
        "ITEMS# = [1, 2, 3]",
        ("log.append(sum(ITEMS#))", "log.append(max(ITEMS#))", "log.append(abs(ITEMS#[0]))"),
        ("globals()['sum'] = len", "globals().pop('sum', None)", "globals()['max'] = min", "ITEMS#.append($n)"),
    ),
    Scenario(
        "key and value cache",
        """
class Cache#:
    def __init__(self):
        self.keys = []
        self.seen = 0

    def update(self, key, layer):
        self.seen += key.shape[-1] if layer == 0 else 0
        if len(self.keys) <= layer:
            self.keys.append(key)
        else:
            self.keys[layer] = torch.cat([self.keys[layer], key], dim=-1)
        return self.keys[layer]


CACHE# = Cache#()
""",
        (
            "log.append(CACHE#.update(x.reshape(-1), 0))",
            "for layer in range(2):\n    x = x + CACHE#.update(x.reshape(-1), layer).sum()\nlog.append(CACHE#.seen)",
            "made = Cache#()\nmade.update(x.reshape(-1), 0)\nlog.append(made)",
            "CACHE# = Cache#()\nlog.append(CACHE#.update(x.reshape(-1), 0))",
        ),
        ("CACHE# = Cache#()", "CACHE#.keys.clear()", "CACHE#.seen = $n", "Cache#.update = lambda self, key, layer: key * 2"),
        ("CACHE#",),
    ),
    Scenario(
        "stored and returned",
        "KEPT# = []\nINDEX# = {}",
        (
            "made = [x, {'n': $s}]\nKEPT#.append(made)\nINDEX#['made'] = made\nlog.append(made)",
            "made = {}\nmade['self'] = made\nKEPT#.append(made)\nlog.append(made)",
            "made = (x, [$s])\nINDEX#['made'] = made\nKEPT#.append(made[1])\nlog.append(made)",
            "a = []\nb = [a, a]\nKEPT#.append(b)\na.append(x)\nlog.append(a)",
            "made = set()\nKEPT#.append(made)\nmade.add(len(KEPT#))\nlog.append(made)",
            "made = collections.OrderedDict(x=x)\nINDEX#['made'] = made\nlog.append(made)\nmade['y'] = made['x']",
        ),
        ("KEPT#.clear()", "INDEX#.clear()", "INDEX#['made'] = KEPT#"),
    ),
    Scenario(
        "linked objects",
        """
class Node#:
    def __init__(self, value, following=None):
        self.value = value
        self.following = following


HEAD# = Node#($s)
""",
        (
            "HEAD# = Node#(x, HEAD#)\nlog.append(HEAD#)",
            "node = HEAD#\nwhile node is not None and len(log) < 30:\n    log.append(node.value)\n    node = node.following",
            "HEAD#.following = Node#(x)\nHEAD#.following.following = HEAD#.following if False else None",
            "HEAD#.value, last = x, HEAD#.value\nlog.append(last)",
        ),
        ("HEAD# = Node#($s)", "HEAD# = Node#($s, Node#(2))", "HEAD#.following = None", "HEAD#.following = Node#($s)"),
        ("HEAD#",),
    ),
    Scenario(
        "callbacks",
        "CALLBACKS# = [torch.relu]\nEVENTS# = []\ndef notify#(value, events=EVENTS#):\n    events.append($s)\n    return value * 2",
        (
            "for callback in CALLBACKS#:\n    x = callback(x)",
            "def local(value):\n    return value + len(EVENTS#)\nCALLBACKS#.append(notify#)\nx = local(x)",
            "x = notify#(x)",
            "x = notify#(x, [])",
            "for callback in list(CALLBACKS#):\n    x = callback(x)\n    EVENTS#.append(len(CALLBACKS#))",
        ),
        (
            "CALLBACKS#.append(notify#)", "CALLBACKS#.append(lambda value: value + $n)", "CALLBACKS#.clear()",
            "notify#.__defaults__ = ([],)", "notify# = torch.neg", "EVENTS#.clear()", "CALLBACKS#[0] = torch.neg",
        ),
        ("notify#",),
    ),
    Scenario(
        "registry",
        "class One#:\n    size = 1\nclass Two#:\n    size = 2\nREGISTRY# = {'one': One#, 'two': Two#}\nCHOICE# = 'one'",
        (
            "made = REGISTRY#[CHOICE#]()\nx = x * made.size\nlog.append(made)",
            "log.append(isinstance(REGISTRY#[CHOICE#](), One#))",
            "REGISTRY#[CHOICE#].size += 1",
            "log.append(One# is REGISTRY#.get('one'))",
        ),
        (
            "CHOICE# = 'two'", "CHOICE# = 'one'", "REGISTRY#['one'] = Two#", "One#.size = $n", "One# = Two#",
            "CHOICE# = 'three'", "One#.__init__ = lambda self: setattr(self, 'size', 5)",
        ),
        ("CHOICE#", "One#"),
    ),
    Scenario(
        "mutable default",
        "def gather#(value, found=[], *, by={}):\n    found.append($s)\n    by[len(found)] = value\n    return found",
        ("log.append(gather#($s))", "log.append(gather#(x, []))", "log.append(len(gather#(1)))", "gather#(x, by={})"),
        (
            "gather#.__defaults__[0].clear()", "gather#.__defaults__ = ([],)", "gather#.__kwdefaults__ = {'by': {}}",
            "gather#.__defaults__[0].append(9)", "gather#.__kwdefaults__['by'].clear()", "gather#.__kwdefaults__['by'] = {9: 9}",
        ),
    ),
    Scenario(
        "closure",
        """
def make_accumulate#():
    total = $s
    history = []

    def accumulate(value, keep=True):
        nonlocal total
        total = (total, $s) if not isinstance(total, tuple) else $s
        if keep:
            history.append(value)
        return history

    def reset(value):
        nonlocal total
        total = value

    return accumulate, reset, lambda: total


accumulate#, reset#, total# = make_accumulate#()
""",
        (
            "log.append(accumulate#(x))", "log.append(accumulate#($s))\nlog.append(total#())", "reset#($s)",
            "log.append(total#())", "mine, undo, ask = make_accumulate#()\nmine(x)\nlog.append(ask())",
        ),
        ("reset#($s)", "accumulate#($s)", "accumulate#, reset#, total# = make_accumulate#()", "accumulate#.__defaults__ = (False,)"),
        ("accumulate#", "reset#", "total#"),
    ),
    Scenario(
        "exception after a change",
        "LOG# = []\nLIMIT# = $n\nclass Stop#(Exception):\n    pass",
        (
            "LOG#.append($s)\nif LIMIT#:\n    raise Stop#(LIMIT#)",
            "LOG#.append(x)\nlog.append(LOG#[LIMIT#])",
            "try:\n    LOG#.append($s)\n    raise Stop#($s)\nexcept Stop# as stop:\n    log.append(stop.args)\nfinally:\n    LOG#.append('f')",
            "with contextlib.suppress(Stop#):\n    LOG#.append(1)\n    if LIMIT#:\n        raise Stop#\nLOG#.append(2)",
            "LOG#.append(x)\nx = x @ torch.ones(3, 3)",
        ),
        ("LIMIT# = $n", "LOG#.clear()", "LIMIT# = 0", "LIMIT# = 5"),
        ("LIMIT#",),
    ),
    Scenario(
        "generator over changing state",
        "QUEUE# = [$s, $s, 3]\ndef drain#(queue):\n    while queue:\n        yield queue.pop()",
        (
            "for item in drain#(QUEUE#):\n    log.append(item)",
            "log.append(list(drain#(QUEUE#))[:2])",
            "pending = drain#(QUEUE#)\nlog.append(next(pending, None))\nQUEUE#.append(x)",
            "log.append(sum(1 for item in QUEUE# if item is not None))",
            "for index, item in enumerate(QUEUE#):\n    if index < 2:\n        QUEUE#.append(item)",
        ),
        ("QUEUE#.append($s)", "QUEUE# = [$s]", "QUEUE#.extend(['a', 1])"),
        ("QUEUE#",),
    ),
    Scenario(
        "swap",
        "LEFT# = [$s]\nRIGHT# = [$s]\nPAIR# = [LEFT#, RIGHT#]",
        (
            "LEFT#, RIGHT# = RIGHT#, LEFT#\nlog.append(LEFT#)",
            "PAIR#[0], PAIR#[1] = PAIR#[1], PAIR#[0]",
            "log.append(PAIR#[0] is LEFT#)",
            "if LEFT# is RIGHT#:\n    x = x + 1\nelse:\n    LEFT#.append($s)",
            "LEFT#.append($s)\nlog.append(PAIR#[0])",
            "log.append(LEFT# == RIGHT#)",
        ),
        ("LEFT# = RIGHT#", "LEFT# = [$s]", "PAIR#[0] = RIGHT#", "PAIR#.reverse()", "LEFT#.append($s)", "RIGHT#.append($s)"),
        ("LEFT#", "RIGHT#"),
    ),
    Scenario(
        "environment",
        "os.environ['FUZZ_MODE'] = 'fast'",
        (
            "log.append(os.environ.get('FUZZ_MODE', 'none'))",
            "log.append(os.environ['FUZZ_MODE'])",
            "log.append('FUZZ_MODE' in os.environ)",
            "if os.getenv('FUZZ_MODE') == 'fast':\n    x = x * 2",
            "log.append(int(os.environ.get('FUZZ_LEVEL', '3')))",
        ),
        (
            "os.environ['FUZZ_MODE'] = 'slow'", "os.environ.pop('FUZZ_MODE', None)", "os.environ['FUZZ_LEVEL'] = '7'",
            "os.environ['FUZZ_MODE'] = 'fast'", "os.environ['FUZZ_LEVEL'] = 'x'",
        ),
    ),
    Scenario(
        "environment is set",
        "",
        ("os.environ['FUZZ_SET'] = str($n)\nlog.append(os.environ['FUZZ_SET'])", "os.environ.setdefault('FUZZ_SET', 'd')",
         "os.environ.pop('FUZZ_SET', None)"),
        ("os.environ['FUZZ_SET'] = 'outside'", "os.environ.pop('FUZZ_SET', None)"),
    ),
    Scenario(
        "torch's state",
        "GRADIENTS# = True",
        (
            "log.append(torch.get_default_dtype())", "log.append(torch.is_grad_enabled())", "log.append(torch.tensor(1.5))",
            "x = x + torch.zeros(4)", "log.append(torch.is_autocast_enabled('cpu'))", "x = (x + torch.ones(4)).float() @ torch.ones(4, 4)",
            "with torch.set_grad_enabled(GRADIENTS#):\n    x = x + torch.ones(4, requires_grad=True)",
            "with torch.no_grad():\n    log.append(torch.is_grad_enabled())\n    x = x + 1",
            "if torch.is_inference_mode_enabled():\n    x = x + 1", "log.append(torch.get_autocast_dtype('cpu'))",
            "with torch.autocast('cpu', dtype=torch.bfloat16):\n    x = torch.ones(4, 4) @ torch.ones(4)",
            "log.append(torch.full((4,), 2.5).dtype)", "with torch.enable_grad():\n    log.append(x * torch.ones(4, requires_grad=True))",
            "log.append(torch.arange(3.0))", "with torch.inference_mode():\n    log.append(torch.is_inference_mode_enabled())",
            "@torch.no_grad()\ndef quiet(value):\n    return value * 2\nlog.append(quiet(x))",
            "log.append(torch.finfo(torch.get_default_dtype()).bits)",
        ),
        ("GRADIENTS# = not GRADIENTS#", "torch.set_default_dtype(torch.float64)", "torch.set_default_dtype(torch.float32)"),
        ("GRADIENTS#",),
        ("torch.no_grad()", "torch.autocast('cpu', dtype=torch.bfloat16)", "default_dtype(torch.float64)", "torch.inference_mode()",
         "torch.autocast('cpu', dtype=torch.float16)", "torch.enable_grad()", "torch.device('cpu')"),
    ),
    Scenario(
        "random numbers",
        "",
        ("x = x + torch.rand(4)", "x = F.dropout(x, 0.5)", "torch.manual_seed(3)\nlog.append(torch.randn(2))",
         "log.append(torch.rand_like(x.float()))"),
        ("torch.manual_seed(5)",),
    ),
    Scenario(
        "module of functions",
        """
library# = types.ModuleType('library#')
library#.rate = $n
library#.settings = {'a': $s}


def _scale#(value):
    return value * library#.rate


library#.scale = _scale#
""",
        (
            "x = library#.scale(x)", "log.append(library#.rate)", "log.append(library#.settings['a'])", "library#.rate = $s",
            "library#.settings['a'] = $s", "log.append(hasattr(library#, 'extra'))", "library#.extra = [x]",
        ),
        (
            "library#.scale = lambda value: value + $n", "library#.rate = $n", "library#.settings = {'a': $s}", "del library#.rate",
            "library#.extra = $s", "library#.settings['a'] = $s", "library#.__getattr__ = lambda name: name",
        ),
    ),
    Scenario(
        "same argument twice",
        "SHARED# = [$s]\ndef both#(a, b):\n    a.append($s)\n    return (a is b, len(b))",
        ("log.append(both#(SHARED#, SHARED#))", "log.append(both#(SHARED#, log))", "log.append(both#([], SHARED#))"),
        ("SHARED# = [$s]", "SHARED#.append($s)"),
        ("SHARED#",),
    ),
    Scenario(
        "views of a buffer",
        "BUFFER# = torch.zeros(2, 4)\nROW# = BUFFER#[0]",
        (
            "BUFFER#[0] = x.detach().sum()\nlog.append(ROW#)", "x = x + ROW#\nBUFFER#.add_(1)\nx = x + ROW#",
            "ROW#.add_(1)\nlog.append(BUFFER#)", "log.append(BUFFER#[1])", "BUFFER#.mul_(2)",
            "view = BUFFER#.view(-1)\nview[:4] += 1\nlog.append(view)", "log.append(BUFFER#.t())",
        ),
        ("BUFFER# = torch.zeros(2, 4)", "ROW# = BUFFER#[1]", "ROW# = torch.zeros(4)", "BUFFER# = BUFFER#.double()", "ROW# = BUFFER#"),
        ("BUFFER#", "ROW#"),
    ),
    Scenario(
        "sorted in place",
        "RANKED# = [(3, 'c'), (1, 'a'), (2, 'b')]\nORDER# = {'reverse': False}",
        ("RANKED#.sort(key=lambda pair: pair[0], **ORDER#)\nlog.append(RANKED#[0])", "log.append(sorted(RANKED#, **ORDER#))",
         "log.append(min(RANKED#, key=lambda pair: pair[1]))", "log.append(dict(RANKED#))"),
        ("RANKED#.append((0, 'z'))", "ORDER#['reverse'] = True", "RANKED#.reverse()", "RANKED#[0] = (9, 'q')"),
    ),
    Scenario(
        "context manager",
        """
ACTIVE# = []


@contextlib.contextmanager
def active#(value):
    ACTIVE#.append(value)
    try:
        yield len(ACTIVE#)
    finally:
        ACTIVE#.pop()
""",
        ("with active#($s) as depth:\n    x = x + depth\n    log.append(ACTIVE#[-1])", "with active#(x):\n    log.append(list(ACTIVE#))",
         "with active#(1), active#(2) as depth:\n    x = x * depth",
         "try:\n    with active#($s):\n        raise ValueError($s)\nexcept ValueError:\n    log.append(len(ACTIVE#))"),
        ("ACTIVE#.append($s)", "ACTIVE#.clear()"),
    ),
    Scenario(
        "objects as keys",
        "class Key#:\n    pass\nKEYS# = [Key#(), Key#()]\nBY_KEY# = {KEYS#[0]: $s, KEYS#[1]: $s}\nMEMBERS# = {KEYS#[0]}",
        ("log.append(BY_KEY#[KEYS#[0]])", "log.append(list(BY_KEY#.values()))", "BY_KEY#[KEYS#[1]] = $s", "log.append(KEYS#[1] in MEMBERS#)",
         "for key in BY_KEY#:\n    log.append(key in MEMBERS#)", "made = Key#()\nBY_KEY#[made] = x", "log.append(KEYS#.index(KEYS#[1]))",
         "MEMBERS#.add(KEYS#[1])", "log.append(BY_KEY#.get(Key#()))", "log.append(len(BY_KEY#))"),
        ("BY_KEY#[KEYS#[0]] = $s", "KEYS#.reverse()", "KEYS#[0] = Key#()", "MEMBERS#.clear()", "BY_KEY#.pop(KEYS#[1], None)"),
    ),
    Scenario(
        "lazily made attribute",
        "class Lazy#:\n    pass\nLAZY# = Lazy#()",
        ("if not hasattr(LAZY#, 'mask'):\n    LAZY#.mask = torch.ones(4) * $n\nx = x * LAZY#.mask",
         "LAZY#.mask = getattr(LAZY#, 'mask', 0)\nlog.append(LAZY#.mask)", "LAZY#.__dict__.setdefault('log', []).append(len(LAZY#.__dict__))",
         "log.append(vars(LAZY#))"),
        ("LAZY# = Lazy#()", "LAZY#.__dict__.clear()", "LAZY#.mask = torch.zeros(4)", "LAZY#.log = [$s]"),
        ("LAZY#",),
    ),
    Scenario(
        "memoised function",
        "SIZE# = $s\n@functools.lru_cache(None)\ndef table#(n):\n    return [n, SIZE#]\nMEMO# = {}\ndef memo#(n):\n"
        "    if n not in MEMO#:\n        MEMO#[n] = [n, SIZE#]\n    return MEMO#[n]",
        ("log.append(memo#($n))", "log.append(memo#(len(log)))"),
        ("SIZE# = $s", "MEMO#.clear()", "MEMO#[1] = $s"),
        ("SIZE#",),
    ),
    Scenario(
        "gradients",
        "LEAF# = torch.ones(4, requires_grad=True)",
        ("x = x + LEAF#", "log.append(LEAF#.grad)", "if LEAF#.grad is not None:\n    x = x + LEAF#.grad", "LEAF#.grad = None",
         "x = x * LEAF#.detach()", "log.append(torch.autograd.grad((LEAF# * 3).sum(), LEAF#)[0])", "if LEAF#.grad is not None:\n    LEAF#.grad.zero_()"),
        ("LEAF#.grad = None", "LEAF#.grad = torch.ones(4)", "LEAF#.requires_grad_(False)", "LEAF#.requires_grad_(True)",
         "(LEAF# * 2).sum().backward()", "LEAF# = torch.ones(4, requires_grad=True)"),
        ("LEAF#",),
    ),
)
