"""What random programs have shown to go wrong, each as a small program; the comment names the seed it was found with.

Seeds belong to the generator as it was then: the same number gives another program today.
"""

from __future__ import annotations

import pytest
import torch

import thunder
from tests.acquire.cases import Case, run
from thunder.errors import DataDependentError, UnsupportedError

KEY = """
STRICT = 0
class Key:
    def __init__(self, name): self.name = name
    def __hash__(self): return hash(self.name)
    def __eq__(self, other): return isinstance(other, Key) and self.name == other.name and not STRICT
KEYS = [Key('b'), Key('a')]
TABLE = {Key('a'): 1}
"""
TARGET = """
class Target:
    value = 1
TARGET = Target()
KEPT = [TARGET]
REF = weakref.ref(TARGET)
NAMED = weakref.WeakValueDictionary(a=TARGET)
BY_OBJECT = weakref.WeakKeyDictionary({TARGET: 1})
"""
CACHED = """
SIZE = 2
@functools.lru_cache(maxsize=2)
def table(n, scale=1): return [n, SIZE, scale]
@functools.cache
def mask(n): return torch.ones(n) * SIZE
"""
SHOWN = """
@dataclasses.dataclass
class Held:
    name: str
    held: object = None
HELD = Held('a')
ITEMS = [HELD, [1, HELD]]
ITEMS.append(ITEMS)
TABLE = {'items': (ITEMS, HELD)}
TABLE['self'] = TABLE
"""
ASKED = """
class Asked:
    def __init__(self, value): self.value = value
    def __bool__(self): return self.value
    def __eq__(self, other): return self.value == other
    def __iter__(self): return iter([1] * self.value)
    def __repr__(self): return str(self.value)
A, B, D = Asked(True), Asked(True), {}
ITEMS = [A, D]
"""
CASES = [
    # 2091344: an object that holds itself, in a list.
    *(
        Case(f"the text of what holds itself: {text}", SHOWN + f"def subject(x):\n    HELD.held = ITEMS\n    return {text}", ("", "HELD.name = 'b'", "ITEMS.append(2)", "ITEMS.pop(0)"))
        for text in ("repr(ITEMS)", "str(ITEMS)", "repr(HELD)", "f'{ITEMS!r} {ITEMS}'", "'%s' % [ITEMS]", "repr((ITEMS, {'a': HELD}))", "ascii(ITEMS)", "'{0[0]}'.format(ITEMS)", "'%s %r' % (ITEMS, HELD)", "repr(TABLE)")
    ),
    # 3000236: what C code asks of each item.
    *(
        Case(f"items asked by C code: {text}", ASKED + f"def subject(x): return {text}", ("", "A.value = False", "D[1] = 2", "ITEMS.pop()", "A.value = True"))
        for text in (
            "any(ITEMS), any(item for item in ITEMS), all([A, 1])",
            "list(filter(None, [A, D])), list(filter(bool, ITEMS)), next(filter(None, [D, 3]))",
            "list(itertools.filterfalse(None, ITEMS)), list(itertools.compress('ab', [A, D]))",
            "list(map(bool, ITEMS)), list(map(len, [D, ITEMS])), list(map(str, [D, A])), list(map(list, [D, A]))",
            "list(map(D.get, [1])), list(map(vars, [A])), list(map(getattr, [A], ['value']))",
            "list(map(operator.attrgetter('value'), [A])), list(map(operator.methodcaller('get', 1), [D]))",
            "list(itertools.takewhile(bool, ITEMS)), len(list(itertools.groupby([D, A], bool))), math.prod(map(len, [D]))",
            "list(itertools.chain.from_iterable([D, A])), operator.countOf([A, 1], True), operator.indexOf([B, A, False, 0], A)",
            "list(map(torch.sin, [x, x])), functools.reduce(torch.add, [x, x]), sum(map(torch.numel, [x]))",
        )
    ),
    # 200: a kernel refuses what shapes allow, the program catches it, and changes a tensor in place.
    Case("an error of a kernel, caught", "B = torch.zeros(4)\ndef subject(x):\n    B.add_(1)\n    try:\n        x = torch.where(x > 1j, x, x * 2)\n    except Exception as error:\n        x = x - 1\n    B.mul_(2)\n    return x + B", ("", "", "")),
    # 500318: the computation has drawn random numbers when it raises.
    Case("random numbers before an error", "def subject(x):\n    noise = torch.rand(4)\n    try:\n        x = torch.where(x > 1j, x, x)\n    except Exception:\n        x = -x\n    return x + noise", ("torch.manual_seed(3)", "")),
    # 510516: the arguments that a partial holds.
    Case("keywords of a partial", "def f(a, b=1): return a * b\nP = functools.partial(f, b=2)\ndef subject(x): return P(x)", ("", "P.keywords['b'] = 3", "P = functools.partial(f, b=5)", "P.keywords.clear()")),
    Case("arguments of a partial", "ITEMS = [1]\ndef f(items, a): return a * len(items)\nP = functools.partial(f, ITEMS)\ndef subject(x): return P(x)", ("", "ITEMS.append(2)", "P = functools.partial(f, [1, 2, 3])")),
    # Weak references (scenario "weak references", seeds 4, 5 and 9).
    Case("weak reference", TARGET + "def subject(x):\n    target = REF()\n    return 'gone' if target is None else (target.value, target is TARGET)", ("", "TARGET.value = 2", "TARGET = Target()\nKEPT.append(TARGET)", "REF = weakref.ref(TARGET)")),
    Case("a tensor kept behind a weak reference", TARGET + "def subject(x):\n    REF().value = x\n    return REF().value", ("", "", "TARGET.value = 3")),
    Case("tables of weak references", TARGET + "def subject(x): return NAMED.get('a') is TARGET, 'a' in NAMED, BY_OBJECT.get(TARGET)", ("", "BY_OBJECT[TARGET] = 2", "NAMED.clear()")),
    # functools.lru_cache (scenario "functools.lru_cache", seeds 3, 8 and 10).
    Case("a cache", CACHED + "def subject(x): return table(2), table(2) is table(2)", ("", "SIZE = 3", "table.cache_clear()", "table(7); table(8)", "table(2).append(1)")),
    Case("a cache of tensors", CACHED + "def subject(x): return x + mask(4), mask(4)", ("", "mask(4).add_(1)", "SIZE = 5", "mask.cache_clear()")),
    Case("a cache asked with a tensor", CACHED + "@functools.lru_cache\ndef twice(value): return value * SIZE\ndef subject(x): return twice(x) + 1", ("", "SIZE = 3"), ("torch.ones(4)", "torch.zeros(4)")),
    # Keys with methods of their own (scenario of that name, seeds 10, 12, 23 and 57).
    Case("keys found by __eq__", KEY + "def subject(x): return TABLE.get(Key('a')), Key('a') in TABLE, Key('b') in KEYS", ("", "STRICT = 1", "STRICT = 0", "TABLE[KEYS[1]] = 2")),
    Case("equal members", KEY + "def subject(x): return len({Key('a'), Key('a')}), len({Key('a'): 1, Key('a'): 2}), len({Key(n) for n in 'aa'})", ("", "STRICT = 1")),
    Case("index and count", KEY + "def subject(x): return KEYS.index(Key('a')), KEYS.count(KEYS[0])", ("", "KEYS.reverse()", "KEYS[0].name = 'c'")),
    Case("hash of a method's answer", KEY + "def subject(x): return hash(KEYS[0]) == hash('b'), hash(KEYS[0]) == hash(KEYS[1])", ("", "KEYS[0].name = 'a'")),
    Case("keys that are data classes", "@dataclasses.dataclass(frozen=True)\nclass Config: size: int = 1\nC = Config()\ndef subject(x): return {C: 1}.get(Config()), hash(C) == hash(Config())", ("", "object.__setattr__(C, 'size', 2)")),
    # Addresses, and tensors as keys (scenario "identity and hashing", seeds 1, 8, 17 and 21).
    Case("tensors as keys", "T = torch.ones(4)\nBY = {T: 1}\ndef subject(x):\n    found = BY.get(T), T in BY, hash(T) == id(T)\n    BY[T] = [x]\n    return found, BY[T]", ("", "T = torch.ones(4)", "BY[T] = 2")),
    Case("tables by address", "T = torch.ones(4)\nclass A: pass\nO = A()\nIDS = {id(T): 1, id(O): 2}\ndef subject(x): return IDS.get(id(T)), IDS.get(id(O)), id(x) == id(x)", ("", "IDS[id(T)] = 3", "KEEP = O\nO = A()")),
    # 530277: a key that was assigned without being read, and then deleted, may be missing at the next call.
    Case("assigned and deleted", "D = {'k': 1, 'l': 2}\nclass A: pass\nO = A()\nO.a = 1\ndef subject(x):\n    D['k'] = 2\n    del D['k']\n    O.a = x\n    del O.a", ("", "", "D['k'] = 3", "O.a = 1")),
    Case("assigned, deleted and assigned", "D = {'k': 1, 'l': 2}\ndef subject(x):\n    D['k'] = 2\n    del D['k']\n    D['k'] = x", ("", "del D['k']", "D['m'] = 1")),
    # 165: the error is another one than that of `item()`.
    Case("numbers of tensors that hold several", "def ask(read, x):\n    try: return read(x)\n    except Exception as error: return type(error).__name__\ndef subject(x): return [ask(read, x) for read in (int, float, bool, torch.Tensor.item)]", ("", "", ""), ("torch.ones(4)", "torch.arange(4)", "torch.ones(0)")),
    # Python's random numbers (scenario of that name, seed 55): the seed of the shared generator.
    Case("seeds inside of the program", "def subject(x):\n    random.seed(3)\n    try:\n        return x * random.random()\n    except Exception:\n        return x", ("", "random.seed(9)", "")),
    # 1003444, 2006904: attributes of tensors.
    Case("an attribute named as a method", "T = torch.ones(4)\ndef subject(x):\n    T.new = T\n    vars(T).update(extra=1)\n    return T.new is T, T.extra", ("", "")),
    # 2016871, 2022202: content that is equal, and yet another.
    Case("a variable and its list", "def make():\n    kept = [1]\n    def subject(x):\n        nonlocal kept\n        log = [copy.copy(kept)]\n        kept = log\n        kept[0] = 3\n        return log\n    return subject, lambda: kept\nsubject, get = make()", ("", "", "")),
    Case("True and 1 in a set", "S = {'a', True}\ndef subject(x):\n    log = [S | {1}]\n    S.symmetric_difference_update({1, 2})\n    S.symmetric_difference_update({1, 2})\n    return log", ("", "")),
    # 2003079: keys that have become equal.
    Case("keys that become equal", KEY + "STRICT = 1\nTABLE[Key('a')] = 2\ndef subject(x): return TABLE.pop(Key('a'), None), len(TABLE)", ("", "STRICT = 0", "")),
    # 2015087: tensors within lists that are compared.
    Case("lists of tensors compared", "T = torch.ones(2)\nL = [1, T]\ndef subject(x):\n    L.insert(1, True)\n    return L != L[:], T in L, L == L", ("", "")),
    # 2034899: a method put into a class derived from list.
    Case("an item through a method", "class Row(list):\n    def first(self): return self[0]\nR = Row([5])\ndef subject(x): return R.first()", ("", "Row.__getitem__ = lambda self, index: index")),
    # 2041887: a tensor that is the default of a parameter, and no argument.
    Case("an attribute of a default", "def subject(x, kept=torch.ones(4)):\n    kept.tag = [0.0]\n    return kept.tag", ("", "del subject.__defaults__[0].tag", "subject.__defaults__[0].tag = 3")),
    Case("a counter on a default", "T = torch.ones(4)\ndef subject(x, kept=T):\n    kept.tag = getattr(kept, 'tag', 0) + 1\n    return kept is T, [kept], {T: 1}.get(kept), kept.grad is None", ("", "del T.tag", "T.tag = 3", "T.requires_grad_(True)", "T.grad = torch.ones(4)")),
    Case("an attribute of a default deleted", "T = torch.ones(4)\nT.tag = 1\ndef subject(x, *, kept=T):\n    if hasattr(kept, 'tag'): del kept.tag\n    return kept", ("", "", "T.tag = 3")),
    # 2045461: what the program puts into a class, and reads from it.
    Case("a dict put into a class", "class A: table = 1\nclass B(A): pass\na = B()\ndef subject(x):\n    A.table = {'b': torch.ones(4, requires_grad=True), 'x': [x]}\n    a.table['x'].append(1)\n    return a.table, A.table is a.table, B.table", ("", "B.table = {'x': []}", "del B.table")),
    Case("a list put into a class by type", "class A: table = 1\na = A()\ndef subject(x):\n    type.__setattr__(A, 'table', [x])\n    return a.table", ("", "")),
    # 2069947: the tensors that a partial holds.
    Case("tensors of a partial", "T = torch.ones(4)\ndef program(bound, x, kept=None): return hasattr(bound, 'tag'), getattr(kept, 'tag', 0), bound is x, bound is T, kept is T\nsubject = functools.partial(program, T, kept=T)", ("", "T.tag = 1", "T.tag = [1]", "del T.tag", ""), "T"),
    Case("an attribute of a tensor of a partial", "T = torch.ones(4)\ndef program(bound, x, kept=None):\n    bound.tag = [1]\n    return kept.tag is bound.tag, bound\nsubject = functools.partial(program, T, kept=T)", ("", "T.tag = 1", "")),
    # 2049502: the cache is asked when what was read before is as it was.
    Case("a cache behind a tensor", "MADE = []\n@functools.lru_cache\ndef table(n):\n    MADE.append(n)\n    return [n]\n@functools.lru_cache\ndef nothing(n): MADE.append(n)\ndef subject(x, y):\n    kind = y.dtype\n    return table(1), nothing(2), kind", ("", "table.cache_clear(); nothing.cache_clear()", "", "table.cache_clear(); nothing.cache_clear()", ""), ("torch.ones(4), torch.ones(4)", "torch.ones(4), {1}", "torch.ones(4), torch.ones(4)", "torch.ones(4), torch.ones(5)", "torch.ones(4), torch.ones(4)")),
    # 2064263: which item of a set comes first.
    Case("an item of a set", "S = {'b', -1.0, False}\ndef subject(x, s): return s.pop(), len(s)", ("", "S.add(5)", "", ""), "torch.ones(4), S"),
    # 2078125: the first that is done with globals is to delete one.
    Case("a global deleted first", "G = 1\ndef subject(x):\n    global G\n    del G\n    G = [x]\n    return G", ("", "", "globals().pop('G')", "G = 2")),
    # 2082268: C code finds the items of an object by `__len__` and `__getitem__`.
    Case("items from the end", "class Box:\n    def __init__(self): self.items = [3, 'b']\n    def __len__(self): return len(self.items)\n    def __getitem__(self, index): return self.items[index]\nB = Box()\ndef subject(x): return list(reversed(B)), next(reversed(B))", ("", "B.items = [1, 1]", "B.items.append(2)", "Box.__reversed__ = lambda self: iter('ab')")),
    # 2094429: the same with a slot.
    Case("a slot assigned and deleted", "class S: __slots__ = ('a', 'b')\no = S()\no.a = 1\ndef subject(x):\n    o.a = 2\n    del o.a\n    o.b = x\n    return hasattr(o, 'a')", ("", "", "o.a = 3", "del o.b")),
    # 2040134, 2043465: containers that hold themselves, compared and shown.
    Case("lists that hold themselves", "L = [1]\nL.append(L)\ndef subject(x): return str(L), f'{L}', L[1] is L, 1 in L", ("", "L[0] = 2")),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::thunder.errors.SharpEdgeWarning")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_as_in_plain_python(case):
    assert not run(case).refusals


@pytest.mark.parametrize("leaving", ["Local", "Local()", "[{'made': Local}]"])
def test_a_class_that_the_program_makes_may_not_leave_it(leaving):
    namespace = {}
    exec(f"def subject(x):\n    class Local:\n        rate = 2\n    return x * Local.rate, {leaving}", namespace)
    with pytest.raises(UnsupportedError, match="Local, a class that the program makes"):
        thunder.jit(namespace["subject"], executors=["eager"])(torch.ones(2))


def test_a_class_that_stays_inside():
    def subject(x):
        class Local:
            def __init__(self, value):
                self.value = value

            def twice(self):
                return self.value * 2

        return Local(x).twice()

    compiled = thunder.jit(subject, executors=["eager"])
    for _ in range(2):
        assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 2.0))
    assert thunder.cache_misses(compiled) == 1


def test_attributes_of_tensors_that_the_program_makes():
    def program(x):
        shared = [x.shape[0]]
        left, right = x * 2, (x + 1).t()
        left.tag, right.tag, right.other = shared, shared, left
        return left, right

    compiled = thunder.jit(program, executors=["eager"])
    for _ in range(2):
        left, right = compiled(torch.ones(2, 3))
        assert left.tag == [2] and left.tag is right.tag and right.other is left


@pytest.mark.parametrize(
    "decision",
    ["str(x) == 'a'", "len(str(x))", "f'{x}' in {'a': 1}", "str([x])[:3]", "sorted([str(x), str(x + 1)])", "'t' in repr(x)"],
)
def test_a_text_of_a_tensor_decides_nothing(decision):
    namespace = {}
    exec(f"def subject(x):\n    return x if {decision} else -x", namespace)
    with pytest.raises(DataDependentError):
        thunder.jit(namespace["subject"], executors=["eager"])(torch.ones(2))


def test_a_text_of_a_tensor_that_nobody_reads():
    def subject(x):
        message = f"{x!r:>8} of " + str([x])
        try:
            raise ValueError(message)
        except ValueError:
            return x * 2

    assert torch.equal(thunder.jit(subject, executors=["eager"])(torch.ones(2)), torch.full((2,), 2.0))
