"""Small programs whose `result` must be the same natively and interpreted: (name, first version, source)."""

PROGRAMS = [
    (
        "arithmetic",
        (3, 10),
        "result = [7 // 2, 7 % 3, 2 ** 10, -3, +4, ~5, 1 << 4, 255 >> 2, 6 & 3, 6 | 3, 6 ^ 3, 1.5 / 2]",
    ),
    (
        "in_place",
        (3, 10),
        "a = [1]; b = a; a += [2]; c = 5; c -= 3; c *= 4; c //= 3; c **= 2; result = (a, b is a, c)",
    ),
    (
        "comparison_chain",
        (3, 10),
        "result = [1 < 2 < 3, 1 < 2 > 3, 1 == 1.0 != 2, 'a' in 'abc', 4 not in (1, 2), None is None]",
    ),
    (
        "conditional",
        (3, 10),
        "result = [x and y or z for x in (0, 1) for y in (0, 2) for z in (0, 3)] + [1 if [] else 2]",
    ),
    (
        "while_else",
        (3, 10),
        """
result = []
n = 0
while n < 10:
    n += 1
    if n % 2: continue
    if n == 8: break
    result.append(n)
else:
    result.append('never')
for i in range(3): pass
else: result.append('else')
""",
    ),
    (
        "arguments",
        (3, 10),
        """
def f(a, b=2, /, c=3, *rest, d, e=5, **others): return a, b, c, rest, d, e, others
result = [f(1, d=4), f(1, 2, 3, 4, 5, d=6, z=7), f(*[1, 2], **{'d': 3, 'c': 9})]
for bad in [lambda: f(), lambda: f(1), lambda: f(1, d=1, a=2) and f(1, b=2, d=1, c=1, **{'c': 2}), lambda: f(1, 2, 3, d=1, **{'d': 2})]:
    try: bad(); result.append('fine')
    except TypeError as error: result.append(str(error))
""",
    ),
    (
        "closures",
        (3, 10),
        """
def counter():
    count = 0
    def add(n=1):
        nonlocal count
        count += n
        return count
    def peek(): return count
    return add, peek
add, peek = counter()
add(); add(5)
functions = [lambda: i for i in range(3)]
def unbound():
    def g(): return late
    try: g()
    except NameError as error: text = str(error)
    late = 1
    return text, g()
result = peek(), add.__closure__[0].cell_contents, [f() for f in functions], unbound()
""",
    ),
    (
        "unbound_local",
        (3, 10),
        """
def f(flag):
    if flag: x = 1
    return x
try: f(0)
except UnboundLocalError as error: result = (f(1), str(error))
""",
    ),
    (
        "classes",
        (3, 10),
        """
class Meta(type):
    def __new__(meta, name, bases, names, **keywords):
        names['tag'] = keywords.get('tag')
        return super().__new__(meta, name, bases, names)
    def __init__(cls, name, bases, names, **keywords): super().__init__(name, bases, names)
    @classmethod
    def __prepare__(meta, name, bases, **keywords): return {'prepared': name}
    def __call__(cls, *args):
        made = super().__call__(*args)
        made.via = 'meta'
        return made
class Base(metaclass=Meta, tag=1):
    def __init_subclass__(cls, **keywords): cls.seen = True
    def __init__(self, x): self.x = x
    def who(self): return 'base', __class__.__name__
class Child(Base, tag=2):
    def who(self): return ('child',) + super().who()
c = Child(3)
result = c.x, c.via, c.who(), Child.tag, Child.seen, Base.prepared, Child.__mro__[1] is Base, c.who.__qualname__
""",
    ),
    (
        "descriptors",
        (3, 10),
        """
class Descriptor:
    def __set_name__(self, owner, name): self.name = name
    def __get__(self, obj, owner=None): return ('get', self.name, obj is None)
    def __set__(self, obj, value): obj.__dict__['_' + self.name] = value
    def __delete__(self, obj): obj.__dict__['deleted'] = self.name
class C:
    d = Descriptor()
    @property
    def p(self): return 'p'
    @p.setter
    def p(self, value): self.stored = value
    @p.deleter
    def p(self): self.gone = True
    @classmethod
    def k(cls): return cls.__name__
    @staticmethod
    def s(x): return x
    def __getattr__(self, name):
        if name == 'magic': return 42
        raise AttributeError(name)
c = C()
c.d = 5; c.p = 6; del c.d; del c.p
try: c.nothing
except AttributeError as error: missing = str(error)
result = c.d, C.d, c.p, c.k(), c.s(1), c.magic, missing, getattr(c, 'none', 'default'), hasattr(c, 'magic'), sorted(vars(c).items())
""",
    ),
    (
        "operators_of_classes",
        (3, 10),
        """
class N:
    def __init__(self, v): self.v = v
    def __add__(self, o): return N(self.v + o.v) if isinstance(o, N) else NotImplemented
    def __radd__(self, o): return ('radd', o)
    def __iadd__(self, o): self.v += 100; return self
    def __eq__(self, o): return isinstance(o, N) and self.v == o.v
    def __lt__(self, o): return self.v < o.v
    def __hash__(self): return hash(self.v)
    def __bool__(self): return self.v != 0
    def __len__(self): return 3
    def __getitem__(self, k): return ('item', k)
    def __setitem__(self, k, v): self.last = (k, v)
    def __delitem__(self, k): self.last = ('del', k)
    def __contains__(self, k): return k == self.v
    def __neg__(self): return N(-self.v)
    def __call__(self, *a, **k): return a, k
    def __repr__(self): return f'N({self.v})'
    def __format__(self, spec): return 'formatted ' + spec
    def __index__(self): return self.v
    def __enter__(self): return self
    def __exit__(self, *exc): return exc[0] is KeyError
class M(N):
    def __radd__(self, o): return 'child first'
a, b = N(1), N(2)
i = N(0); i += b
a[1] = 2; kept = a.last; del a[3]
with a as entered: raise KeyError
try: a < 'x'
except AttributeError as error: text = str(error)
try: object() + object()
except TypeError as error: text += str(error)
result = (repr(a + b), 5 + a, i.v, a == N(1), a != b, a < b, a > b, not N(0), len(a), a[2:3], kept, a.last, 1 in a, 2 in a,
          (-a).v, a(1, x=2), f'{a} {a!r} {a:spec}', [10, 20, 30][a], sorted([b, a])[0].v, a + M(1), text, {a: 1}[N(1)], entered is a)
""",
    ),
    (
        "iteration",
        (3, 10),
        """
class It:
    def __init__(self, n): self.n = n
    def __iter__(self): return self
    def __next__(self):
        if not self.n: raise StopIteration
        self.n -= 1
        return self.n
class Seq:
    def __getitem__(self, i):
        if i > 3: raise IndexError
        return i * i
first, *middle, last = It(5)
result = list(It(3)), [x for x in Seq()], first, middle, last, {x: y for x, y in zip(It(2), Seq())}, sum(It(4)), max(It(4)), \\
    2 in Seq(), 4 in Seq(), dict(enumerate(It(2))), sorted(It(3), key=lambda x: -x), list(map(lambda x: x + 1, It(3))), [*It(2), *Seq()]
""",
    ),
    (
        "unpacking_errors",
        (3, 10),
        """
result = []
for source in ['a, b = 1, 2, 3', 'a, b = [1]', 'a, *b, c = [1]', 'a, b = 5', 'a, b = {}', '[*1]', '(lambda: 0)(*1)', '(lambda: 0)(**1)', '{**1}']:
    try: exec(source)
    except Exception as error: result.append((type(error).__name__, str(error)))
""",
    ),
    (
        "exceptions",
        (3, 10),
        """
import sys
log = []
def f(n):
    try:
        try:
            if n == 0: raise KeyError('k')
            if n == 1: return 'returned'
            if n == 2: 1 / 0
        except KeyError as error:
            log.append(('caught', repr(error), sys.exc_info()[0].__name__))
            raise ValueError('v') from error
        else: log.append('else')
        finally: log.append(('finally', n))
    except ValueError as error:
        log.append((repr(error.__cause__), repr(error.__context__), error.__suppress_context__))
    except ZeroDivisionError:
        try: raise TypeError('inner')
        except TypeError as inner: log.append(repr(inner.__context__))
        log.append(sys.exc_info()[0].__name__)
    return n
result = [f(n) for n in range(4)], log, sys.exc_info()[0]
""",
    ),
    (
        "reraise",
        (3, 10),
        """
import traceback
def a(): raise ValueError('deep')
def b():
    try: a()
    except ValueError: raise
def c():
    try: b()
    finally: pass
try: c()
except ValueError as error:
    result = [(entry.name, entry.lineno, entry.line) for entry in traceback.extract_tb(error.__traceback__)], error.__context__
""",
    ),
    (
        "contexts",
        (3, 10),
        """
def chain(error):
    names = []
    while error is not None:
        names.append(type(error).__name__)
        error = error.__context__
    return names
def f():
    try: raise KeyError
    except KeyError:
        try: raise IndexError
        except IndexError:
            try: [][0]
            finally: {}['missing']
try: f()
except Exception as error: result = chain(error)
""",
    ),
    (
        "generators",
        (3, 10),
        """
log = []
def g():
    received = None
    try:
        while True:
            try: received = yield ('got', received)
            except KeyError as error: log.append(repr(error)); yield 'handled'
    finally: log.append('closed')
def outer():
    value = yield from inner()
    log.append(value)
    return 'outer'
def inner():
    x = yield 1
    y = yield x
    return ('inner', y)
gen = g()
steps = [next(gen), gen.send(1), gen.throw(KeyError('k')), next(gen)]
gen.close()
o = outer(); steps += [next(o), o.send('a')]
try: o.send('b')
except StopIteration as stop: steps.append(stop.value)
def bad(): raise StopIteration; yield
try: next(bad())
except RuntimeError as error: steps.append(str(error))
def context():
    try: raise KeyError('a')
    except KeyError: yield
c = context(); next(c)
try: c.throw(ValueError('b'))
except ValueError as error: steps.append(repr(error.__context__))
result = steps, log, list(x * 2 for x in range(3)), type(gen).__name__, gen.__name__, g.__qualname__
""",
    ),
    (
        "coroutines",
        (3, 10),
        """
import asyncio
log = []
class Manager:
    async def __aenter__(self): await asyncio.sleep(0); return 'entered'
    async def __aexit__(self, *exc): log.append(exc[0]); return True
async def numbers(n):
    try:
        for i in range(n):
            await asyncio.sleep(0)
            yield i
    finally: log.append('cleaned')
async def work(n): await asyncio.sleep(0); return n * 2
async def main():
    async with Manager() as m: log.append(m); raise KeyError
    async for x in numbers(2): log.append(x)
    found = [x async for x in numbers(3) if x]
    gen = numbers(5)
    await gen.__anext__(); await gen.aclose()
    return found, await asyncio.gather(work(1), work(2)), {await work(i) for i in range(2)}
result = asyncio.run(main()), log
""",
    ),
    (
        "pattern_matching",
        (3, 10),
        """
from dataclasses import dataclass
@dataclass
class P:
    x: int
    y: int
def m(v):
    match v:
        case 0 | 1: return 'small'
        case str() as s if len(s) > 2: return s
        case [1, *rest]: return rest
        case {'k': x, **others}: return x, others
        case P(0, y): return 'p', y
        case P(x=a, y=b): return a, b
        case (a, b): return 'pair'
        case None: return 'none'
        case int(n): return n
        case _: return 'other'
result = [m(v) for v in (0, 1, 'abc', 'ab', [1, 2, 3], {'k': 1, 'z': 2}, P(0, 5), P(1, 2), (7, 8), None, 99, {})]
""",
    ),
    (
        "formatting",
        (3, 10),
        "x, w = 3.14159, 10; result = f'{x:>{w}.2f}|{x!r:8}|{\"é\"!a}|{x=}|{{}}' f'{w:#x}'",
    ),
    (
        "imports",
        (3, 10),
        """
import os.path, collections.abc as abc
from math import *
from os import path as p, sep
try: from os import nothing_of_the_kind
except ImportError as error: text = type(error).__name__
try: import no_such_module_at_all
except ModuleNotFoundError as error: text += error.name
result = os.path is p, abc.__name__, floor(2.5), sep, text
""",
    ),
    (
        "namespaces",
        (3, 10),
        """
def f(a):
    b = 2
    return sorted(locals()), sorted(dir())[:1], vars() == locals(), eval('a + b'), 'f' in globals()
exec('made = 5')
names = {}
exec('x = [i for i in range(3)]\\ndef g(): return x', names)
def shadow():
    global later
    later = 1
    del later
    try: later
    except NameError as error: return str(error)
result = f(1), made, names['g'](), eval('made * 2', {'made': 4}), shadow(), type('T', (), {}).__module__ == __name__
""",
    ),
    (
        "comprehension_scopes",
        (3, 10),
        """
x = 'outer'
class C:
    y = [1, 2]
    z = [v for v in y]
    w = [x for v in y]
def f(n): return [[i * j for i in range(n)] for j in range(n)], {k: (lambda: k)() for k in 'ab'}, [y := 5, y ** 2]
result = C.z, C.w, x, f(3)
""",
    ),
    (
        "subclassing_builtins",
        (3, 10),
        """
class D(dict):
    def __missing__(self, key): return key * 2
class L(list):
    def append(self, x): super().append(x + 1)
class I(int):
    def __add__(self, o): return 'added'
l = L(); l.append(1); l += [5]
result = D()[4], l, I(1) + 1, 1 + I(1), isinstance(I(1), int), sorted(D(a=1).items())
""",
    ),
    (
        "callbacks",
        (3, 10),
        """
import functools, itertools, operator
class K:
    def __init__(self, v): self.v = v
    def __lt__(self, o): return self.v < o.v
result = [list(filter(lambda x: x % 2, range(6))), functools.reduce(lambda a, b: a * b, [1, 2, 3]), functools.partial(lambda a, b: a - b, 5)(3),
          [k.v for k in sorted([K(2), K(1)])], [list(g) for _, g in itertools.groupby([1, 1, 2], key=lambda x: x)],
          list(iter(lambda c=[3]: c.append(c[-1] - 1) or c[-1], 0)), operator.itemgetter(1)([5, 6]), min([3, 1], key=lambda x: -x)]
""",
    ),
    (
        "enum_and_dataclass",
        (3, 10),
        """
import enum, dataclasses, collections
class Color(enum.Enum):
    RED = 1
    BLUE = enum.auto()
    @property
    def low(self): return self.name.lower()
@dataclasses.dataclass(order=True)
class A:
    x: int = 1
    y: list = dataclasses.field(default_factory=list)
T = collections.namedtuple('T', 'a b')
result = Color.RED.low, Color(2).name, [c.value for c in Color], A() == A(), A(1) < A(2), repr(A(3)), T(1, b=2)._asdict(), T.__module__ == __name__
""",
    ),
    (
        "text_of_classes_derived_from_containers",
        (3, 10),
        """
import collections
class Item:
    def __repr__(self): return 'item'
class Table(dict):
    def __repr__(self): return 'table'
class Row(tuple):
    def __str__(self): return 'row'
class Name(str):
    def __repr__(self): return 'name'
T = collections.namedtuple('T', 'a b')
t, row = T(1, Item()), Row([Item(), 2])
result = [repr(t), str(t), f'{t}', '%s' % (t,), '%s and %r' % t, '%r %r' % row, '%s' % (row,), '%(a)s' % Table(a=Item()),
          '%s' % Table(), '%s' % [t], repr((t, row)), '{} {a[0]}'.format(t, a=[row]),
          str(Name('x')), '%s' % Name('x'), '%r' % Name('x'), f'{Name("x")}', repr([Name('x')]), repr(row)]
try: '%s' % t
except TypeError as e: result.append(str(e))
""",
    ),
    (
        "exception_groups",
        (3, 11),
        """
log = []
def f(group):
    try: raise group
    except* ValueError as caught: log.append([repr(e) for e in caught.exceptions])
    except* TypeError as caught: log.append('type'); raise KeyError('new')
f(ExceptionGroup('g', [ValueError(1), ExceptionGroup('n', [ValueError(2)])]))
for group in [ExceptionGroup('g', [ValueError(1), TypeError(2), OSError(3)]), ExceptionGroup('h', [OSError(1)])]:
    try: f(group)
    except BaseExceptionGroup as left: log.append(repr(left))
f(ValueError('naked'))
result = log
""",
    ),
    (
        "type_parameters",
        (3, 12),
        """
def first[T: int](values: list[T]) -> T: return values[0]
class Box[T]:
    def get(self, x: T) -> T: return x
type Pair[A] = tuple[A, A]
result = first([1]), first.__type_params__[0].__bound__, Box[int]().get(2), str(Pair[int].__origin__), Pair.__value__.__name__, Box.__type_params__[0].__module__ == __name__
""",
    ),
    (
        "deletion",
        (3, 10),
        """
class C: pass
c = C(); c.x = 1; d = {1: 2}; l = [1, 2, 3]
del c.x, d[1], l[0:1]
def f():
    y = 1
    del y
    try: y
    except UnboundLocalError: return 'gone'
result = vars(c), d, l, f()
""",
    ),
    (
        "recursion",
        (3, 10),
        """
def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
def forever(): return forever()
try: forever()
except RecursionError: caught = True
result = fibonacci(12), caught
""",
    ),
    (
        "decorators_and_wraps",
        (3, 10),
        """
import functools, inspect
def twice(f):
    @functools.wraps(f)
    def inner(*args, **kwargs): return f(*args, **kwargs), f(*args, **kwargs)
    return inner
@twice
def g(a: int, *, b='x') -> str:
    "doc"
    return f'{a}{b}'
result = g(1, b='y'), g.__name__, g.__doc__, str(inspect.signature(g)), g.__wrapped__.__annotations__['a'] is int, g.__wrapped__.__code__.co_argcount
""",
    ),
    (
        "frames",
        (3, 10),
        """
import sys, inspect
def outer(): mine = 1; return inner()
def inner():
    frame = sys._getframe()
    return frame.f_code.co_name, frame.f_back.f_code.co_name, frame.f_back.f_locals['mine'], frame.f_lineno - frame.f_code.co_firstlineno, inspect.isframe(frame)
def g(): x = 5; yield x
gen = g(); next(gen)
result = outer(), gen.gi_frame.f_locals, gen.gi_code is g.__code__
""",
    ),
    (
        "close_in_handler",
        (3, 10),
        """
log = []
def g():
    try:
        try: 1 / 0
        except ZeroDivisionError: yield 1
        finally: log.append('inner')
        log.append('not reached')
    finally: log.append('outer')
def swallow():
    try: 1 / 0
    except ZeroDivisionError:
        try: yield 1
        except GeneratorExit: log.append('swallowed')
    log.append('after')
for make in (g, swallow):
    it = make(); next(it); it.close()
    it = make(); next(it)
    try: it.throw(GeneratorExit())
    except BaseException as error: log.append(type(error).__name__)
result = log
""",
    ),
    (
        "names_made_by_exec",
        (3, 10),
        """
import sys
def f():
    x = 1
    exec('y = x + 1')
    names = locals()
    return 'y' in names, names['x']
def g(x):
    sys._getframe().f_locals['x'] = 5
    return x
class C:
    sys._getframe().f_locals['z'] = 7
result = f(), g(1), C.z
""",
    ),
    (
        "lines_after_reraise",
        (3, 10),
        """
class Manager:
    def __enter__(self): return self
    def __exit__(self, *_): pass
def f():
    with Manager():
        1 / 0
        pass
def g():
    try:
        1 / 0
    except ZeroDivisionError as error:
        {}['a']
        pass
def lines(function):
    try: function()
    except Exception as error:
        frame = error.__traceback__.tb_next.tb_frame
        return frame.f_lineno - function.__code__.co_firstlineno, frame.f_back.f_code.co_name
result = lines(f), lines(g)
""",
    ),
    (
        "cycle_of_contexts",
        (3, 11),
        """
class A(Exception): pass
class B(Exception): pass
def f():
    try: raise A
    except A as a:
        try: raise B
        except B as b:
            a.__context__ = b
            raise b
try: f()
except B as b: error = b
result = type(error.__context__).__name__, error.__context__.__context__ is error
""",
    ),
    (
        "builtins_are_inherited",
        (3, 10),
        """
space = {'__builtins__': {'marker': 3}, 'make': type(lambda: 0)}
exec("def f(): return marker\\ng = make(f.__code__, {})", space)
result = space['g'](), '__builtins__' in space['g'].__globals__
""",
    ),
    (
        "throw_before_start",
        (3, 10),
        """
def g(): yield 1
try: g().throw(KeyError('k'))
except KeyError as error:
    entry = error.__traceback__.tb_next
    result = entry.tb_frame.f_code.co_name, entry.tb_lineno
""",
    ),
    (
        "exit_thrown_into_handlers",
        (3, 10),
        """
seen = []
def g():
    try: raise ValueError
    except ValueError:
        try: raise KeyError
        except KeyError:
            try: yield 1
            except GeneratorExit as error:
                seen.append((type(error.__context__).__name__, type(error.__context__.__context__).__name__))
                seen.append((yield 2))
            try: yield 3
            finally: seen.append('finally')
    yield 4
g1 = g(); g2 = g(); g3 = g()
result = [next(g1), g1.throw(GeneratorExit), g1.send('sent'), next(g1), seen]
next(g2)
try: g2.close()
except RuntimeError as error: result.append(str(error))
next(g3), g3.throw(GeneratorExit), g3.send(None), g3.close()
def returns():
    try: 1 / 0
    except ZeroDivisionError:
        try: yield
        except GeneratorExit: return 5
g4 = returns(); next(g4)
try: g4.throw(GeneratorExit)
except StopIteration as stop: result.append(stop.value)
async def c():
    try: raise ValueError
    except ValueError:
        try: await Once()
        except GeneratorExit: await Once()
class Once:
    def __await__(self): yield 6
c1 = c(); c1.send(None)
result.append(c1.throw(GeneratorExit))
try: c1.close()
except BaseException as error: result.append(repr(error))
""",
    ),
    (
        "hooks_that_raise",
        (3, 10),
        """
result = []
class Fallback:
    def __getattr__(self, name): raise LookupError(name)
class Both:
    def __getattribute__(self, name): raise AttributeError('first')
    def __getattr__(self, name): raise KeyError(name)
class Nameless:
    def __getattr__(self, name): raise AttributeError()
    @property
    def value(self): raise AttributeError()
    @property
    def inner(self): return (1).missing
for cls, name in [(Fallback, 'a'), (Both, 'b'), (Nameless, 'c'), (Nameless, 'value'), (Nameless, 'inner')]:
    obj = cls()
    try: getattr(obj, name)
    except Exception as error:
        result.append((repr(error), error.__context__, getattr(error, 'name', 0), getattr(error, 'obj', 0) is obj))
""",
    ),
    (
        "frames_that_have_ended",
        (3, 10),
        """
import sys
def innermost(): return sys._getframe()
def inner(): return innermost()
def outer():
    frame = inner()
    names = []
    while frame is not None and len(names) < 4:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names
def g():
    yield sys._getframe()
def suspended():
    it = g()
    return next(it), it
frame, it = suspended()
result = outer(), frame.f_back is None
""",
    ),
]
