"""Statements that read a place and make the answer depend on what they find.

What is read goes into `log`, which the subject returns, into the tensor `x`, or decides which way the program goes.
"""

from __future__ import annotations

import random
import textwrap

from tests.acquire.fuzz.state import Function, Instance, Kind, Mapping, Place, Scalar, ScalarSet, Sequence, Tensor, fill

SCALAR = (
    "log.append($p)",
    "if $p:\n    x = x + 1\nelse:\n    x = x - 1",
    "log.append($p == $s)",
    "log.append(($p is None, $p is True, $p is not ...))",
    "log.append(isinstance($p, (int, float)))",
    "log.append(isinstance($p, bool) or type($p) is str)",
    "log.append(type($p).__name__)",
    "log.append(str($p))",
    'log.append(f"{$p!r}:{$p}")',
    "log.append($p or $s)",
    "log.append($p and $s)",
    "log.append(not $p)",
    "log.append($p in ($s, $s, 2, 'a'))",
    "match $p:\n    case bool():\n        log.append('bool')\n    case int() | float():\n        x = x + $p\n"
    "    case str():\n        log.append('text')\n    case None:\n        x = -x\n    case _:\n        log.append('other')",
    "log.append({1: 'one', 'a': 'text', None: 'none', 0: 'zero'}.get($p))",
    "log.append(($p, $s) == ($s, $p))",
    "log.append(hash($p) == hash($s))",
    "while $p and len(log) < 40:\n    log.append($p)\n    break",
    "log.append(callable($p))",
    "if isinstance($p, float):\n    log.append(math.copysign(1.0, $p))",
    "x = x * ($p if isinstance($p, (int, float)) else 2)",
    "assert $p != $s",
    "log.append(1 if $p else $p)",
    "log.append((lambda value=$p: value)())",
    "log.append(copy.copy($p))",
)
NUMBER = (
    "x = x * $p",
    "x = x + $p",
    "log.append($p + $n)",
    "log.append($p > $n)",
    "for _ in range(min(3, int($p))):\n    x = x + 1",
    "x = torch.full_like(x, $p)",
    "x = x.clamp(min=$p)",
    "log.append(divmod($p, 2))",
    "log.append(max($p, $n))",
    "log.append(-$p)",
    "log.append(int($p))",
    "x = torch.where(x > $p, x, x * 2)",
    "x = x.sum(dim=int($p), keepdim=True)",
    "log.append([$p] * 2)",
    "log.append(sum([$p, $n]))",
    "log.append($n < $p <= $n)",
    "log.append(float($p) / 2)",
)
TEXT = (
    "x = getattr(torch, $p, torch.neg)(x)",
    "log.append($p.upper())",
    "log.append(len($p))",
    "log.append($p + 'z')",
    "log.append($p in 'abc')",
    "log.append($p[:1])",
    "x = getattr(x, $p or 'neg')()",
    'log.append(f"{$p:>6}")',
)
TENSOR = (
    "x = x + $p",
    "x = x * $p.sum()",
    "log.append($p)",
    "log.append(tuple($p.shape))",
    "log.append($p.stride())",
    "log.append(($p.dtype, $p.device, $p.requires_grad, $p.is_leaf))",
    "if $p.dtype is torch.float64:\n    x = x.double()",
    "if $p.requires_grad:\n    x = x * 2",
    "x = x.to($p.dtype)",
    "log.append($p is x)",
    "log.append($p.grad)",
    "x = x + len($p)",
    "log.append($p[0])",
    "x = torch.add(x, $p, alpha=2)",
    "log.append($p.view(-1))",
    "log.append($p.detach())",
    "log.append(($p.ndim, $p.numel(), $p.size(), $p.is_contiguous()))",
    "log.append(getattr($p, 'tag', 'none'))",
    "log.append(isinstance($p, nn.Parameter))",
    "for row in $p:\n    x = x + row",
    "log.append($p.storage_offset())",
    "if $p.is_floating_point():\n    x = x + $p.mean()",
    "x = torch.cat([x.reshape(-1)[:4], $p.reshape(-1)[:4]])",
    "log.append(type($p).__name__)",
    "log.append(torch.is_tensor($p) and $p.device.type == 'cpu')",
    "with torch.no_grad():\n    x = x + $p",
    "x = x * $p.shape[-1]",
    "a, *b = $p.shape\nlog.append((a, b))",
    "log.append(hasattr($p, 'tag'))",
    "log.append($p.T)",
    "log.append($p.data)",
)
SEQUENCE = (
    "log.append(len($p))",
    "log.append($p[0])",
    "log.append($p[-1])",
    "for item in $p:\n    log.append(item)",
    "log.append(bool($p))",
    "log.append($p[1:])",
    "log.append(list($p))",
    "log.append(tuple($p))",
    "log.append([type(item).__name__ for item in $p])",
    "for index, item in enumerate($p):\n    log.append((index, item))",
    "first, *rest = $p\nlog.append(first)\nlog.append(rest)",
    "log.append([*$p, 1])",
    "if $p:\n    x = x + len($p)",
    "for item in reversed($p):\n    log.append(item)",
    "log.append($p)",
    "log.append($p + type($p)((1,)))",
    "for item, other in zip($p, [1, 2, 3]):\n    log.append((other, item))",
    "log.append($p * 2)",
    "for item in $p:\n    if isinstance(item, torch.Tensor):\n        x = x + item\n    elif item:\n        x = x + 1",
    "log.append(isinstance($p, list))",
    "def show(*values):\n    return list(values)\nlog.append(show(*$p))",
    "log.append(next(iter($p), 'empty'))",
    "log.append(list(map(type, $p)) == [int] * len($p))",
    "for index in range(len($p)):\n    log.append($p[index])",
    "log.append(list(itertools.islice($p, 2)))",
    "log.append($p[::-1])",
    "match $p:\n    case []:\n        log.append('empty')\n    case [one]:\n        log.append(one)\n"
    "    case [one, *_]:\n        log.append((1, one))",
    "iterator = iter($p)\nlog.append(next(iterator, None))\nlog.append(list(iterator))",
    "log.append(copy.copy($p))",
    "log.append(list(filter(None, [item for item in $p if not isinstance(item, torch.Tensor)])))",
    "log.append(any(isinstance(item, int) for item in $p))",
    "log.append($p[$i])",
)
PLAIN_SEQUENCE = (
    "log.append($s in $p)",
    "log.append($p == [1, 2])",
    "log.append($p.index(1))",
    "log.append($p.count(1))",
    "log.append(sum(item for item in $p if isinstance(item, (int, float))))",
    "log.append(sorted($p, key=by_text))",
    "log.append(max($p, key=by_text))",
    "log.append(str($p))",
    "log.append(set(map(str, $p)) == {'1'})",
    "log.append($p < [1, 2])",
    "log.append(','.join(str(item) for item in $p))",
    'log.append(f"{$p}")',
    "log.append($p != $p[:])",
    "log.append(tuple($p) in {(): 1, (1, 2): 2})",
)
MAPPING = (
    "log.append(len($p))",
    "log.append($p[$k])",
    "log.append($p.get($k))",
    "log.append($p.get($k, 'none'))",
    "log.append($k in $p)",
    "log.append(list($p))",
    "for key in $p:\n    log.append(key)",
    "for key, value in $p.items():\n    log.append((key, value))",
    "log.append(list($p.values()))",
    "log.append({**$p})",
    "log.append(dict($p))",
    "log.append(bool($p))",
    "log.append($p)",
    "log.append([key for key in $p.keys() if key is not None])",
    "log.append(next(iter($p.items()), 'empty'))",
    "if $k not in $p:\n    x = x + 1",
    "log.append($p | {'z': 1})",
    "log.append({key: value for key, value in $p.items() if not isinstance(value, torch.Tensor)})",
    "try:\n    log.append($p[$k])\nexcept KeyError as error:\n    log.append(error.args)",
    "def take(**options):\n    return options\nlog.append(take(**{str(key): value for key, value in $p.items()}))",
    "log.append($p.copy())",
    "log.append(sorted(map(str, $p)))",
    "log.append($p.keys() & {'a', 'b'} == {'a'})",
    "for value in $p.values():\n    if isinstance(value, torch.Tensor):\n        x = x + value",
    "log.append(operator.itemgetter('a')($p))",
    "match $p:\n    case {'a': value}:\n        log.append(value)\n    case _:\n        log.append('no a')",
    "log.append(list(reversed($p)))",
)
SET = (
    "log.append(len($p))",
    "log.append($s in $p)",
    "log.append(sorted($p, key=repr))",
    "log.append(bool($p))",
    "log.append($p | {1})",
    "log.append($p == {1, 2})",
    "log.append($p)",
    "x = x + len($p)",
    "log.append(1 in $p)",
    "log.append($p & {1, 'a'})",
    "log.append({1} <= $p)",
    "for item in sorted($p, key=repr):\n    log.append(item)",
    "log.append(frozenset($p))",
)
FUNCTION = (
    "x = $p(x)",
    "log.append($p(x))",
    "x = $p(x) + $p(x)",
    "log.append(list(map($p, [x])))",
    "log.append(getattr($p, '__name__', 'none'))",
    "x = functools.partial($p)(x)",
    "log.append(callable($p))",
    "x = functools.reduce(lambda value, function: function(value), [$p, $p], x)",
    "log.append(getattr($p, 'tag', 'none'))",
)
OBJECT = (
    "log.append($p is $p)",
    "log.append(type($p).__name__)",
    "log.append($p is None)",
    "log.append(isinstance($p, (list, dict)))",
)
INSTANCE = (
    "log.append(sorted(vars($p)))",
    "log.append(hasattr($p, 'extra'))",
    "log.append(getattr($p, 'a', 'none'))",
    "log.append(list($p.__dict__))",
    "log.append($p.__class__.__name__)",
    "log.append(getattr($p, $s))",
    "log.append($p)",
)


def read(place: Place, dice: random.Random) -> str:
    """A statement of the subject that reads the place."""
    assert place.inside is not None
    kind = place.kind
    pool = list(_pool(kind))
    if not isinstance(kind, Scalar) and dice.random() < 0.08:
        pool = list(OBJECT)
    statement = fill(dice.choice(pool), dice, place.inside)
    if dice.random() < 0.6:
        return protected(statement, dice)
    return statement


def protected(statement: str, dice: random.Random) -> str:
    """The statement with a handler around it."""
    errors = dice.choice(("Exception", "Exception", "(TypeError, LookupError, AttributeError)", "LookupError"))
    ending = dice.choice(("", "", "\nelse:\n    log.append('else')", "\nfinally:\n    log.append('finally')"))
    return (
        f"try:\n{textwrap.indent(statement, '    ')}\n"
        f"except {errors} as error:\n    log.append(type(error).__name__){ending}"
    )


def _pool(kind: Kind) -> tuple[str, ...]:
    if isinstance(kind, Tensor):
        return TENSOR
    if isinstance(kind, Sequence):
        return SEQUENCE + PLAIN_SEQUENCE if kind.plain else SEQUENCE
    if isinstance(kind, Mapping):
        return MAPPING
    if isinstance(kind, ScalarSet):
        return SET
    if isinstance(kind, Function):
        return FUNCTION
    if isinstance(kind, Instance):
        return kind.reads + kind.reads + INSTANCE
    if kind.text.startswith("'"):
        return SCALAR + TEXT + TEXT
    if kind.text[:1].isdigit() or kind.text[:1] == "-" or kind.text in ("True", "False"):
        return SCALAR + NUMBER
    return SCALAR
