"""Statements that change a place: as side effects of the subject, or between its calls."""

from __future__ import annotations

import random
import re

from tests.acquire.fuzz.state import (
    Function,
    Instance,
    Kind,
    Mapping,
    Place,
    Scalar,
    ScalarSet,
    Sequence,
    Tensor,
    changed_scalar,
    container,
    fill,
)

SEQUENCE = (
    "$p.append($s)",
    "$p.append($v)",
    "$p.extend([$s, $s])",
    "$p.insert(0, $s)",
    "$p.insert(1, $s)",
    "$p.pop()",
    "$p.pop(0)",
    "$p[0] = $s",
    "$p[-1] = $s",
    "del $p[0]",
    "$p.clear()",
    "$p.reverse()",
    "$p[1:] = [$s]",
    "$p[:] = $p[1:]",
    "$p += [$s]",
    "$p *= 2",
    "$p[0], $p[-1] = $p[-1], $p[0]",
    "$p.sort(key=by_text)",
    "$p.remove($s)",
    "$p.append($p[0])",
    "$p.append($p)",
    "$p[0] += 1",
    "operator.setitem($p, 0, $s)",
)
MAPPING = (
    "$p[$k] = $s",
    "$p[$k] = $v",
    "$p.update({$k: $s, 'a': $s})",
    "$p.update(a=$s)",
    "$p.pop($k, None)",
    "$p.pop($k)",
    "$p.setdefault($k, $s)",
    "$p.setdefault($k, []).append($s)",
    "del $p[$k]",
    "$p.popitem()",
    "$p.clear()",
    "$p[$k] = $p.pop($k, $s)",
    "$p |= {$k: $s}",
    "$p[next(iter($p))] = $s",
    "moved = $p.pop(next(iter($p)))\n$p['moved'] = moved",
    "$p[$k] = $p",
    "$p[$k] = $p.get($k, 0) + 1",
    "for key in list($p):\n    $p[key] = $s",
)
SET = (
    "$p.add($n)",
    "$p.add('a')",
    "$p.discard(1)",
    "$p.update({1, 'b'})",
    "$p.clear()",
    "$p.remove(1)",
    "$p |= {3}",
    "$p -= {1}",
    "$p.symmetric_difference_update({1, 2})",
)
TENSOR = (
    "with torch.no_grad():\n    $p.add_(1)",
    "with torch.no_grad():\n    $p.mul_(2)",
    "with torch.no_grad():\n    $p[0] = 3",
    "with torch.no_grad():\n    $p.copy_($t)",
    "$p.zero_()",
    "$p.tag = $s",
    "$p.tag = [$s]",
    "with torch.no_grad():\n    $p.view(-1)[1:].add_(1)",
    "$p.grad = None",
)
TENSOR_INSIDE = (
    "with torch.no_grad():\n    $p.add_(x.sum().to($p.dtype))",
    "with torch.no_grad():\n    $p.copy_(x)",
    "$p.detach().add_(1)",
    "old = $p.clone()\nwith torch.no_grad():\n    $p.sub_(1)\nlog.append(old)",
    "torch.add($p, 1, out=$p)",
)
TENSOR_OUTSIDE = (
    "$p.requires_grad_(True)",
    "$p.requires_grad_(False)",
    "$p.data = $p.data.double()",
    "$p.data = torch.zeros(2, 4)",
    "$p.grad = torch.ones_like($p)",
    "$p.unsqueeze_(0)",
    "$p.data = $p.data.clone()",
)
FUNCTION_OUTSIDE = (
    "$p.tag = $s",
    "$p.__defaults__ = ($s,)",
    "$p.__code__ = (lambda value, option=1: value * 3).__code__",
    "$p.__kwdefaults__ = {'bias': $n}",
    "$p.__defaults__ = None",
)
FUNCTIONS = (
    "torch.relu", "torch.neg", "F.gelu", "(lambda value: value + 1)", "(lambda value: value * 2)", "abs",
    "functools.partial(torch.add, other=1)", "functools.partial(torch.mul, other=2)", "torch.Tensor.sin", "nn.ReLU()",
    "nn.Identity()", "operator.neg",
)  # fmt: skip
INSTANCE = (
    "$p.extra = $s",
    "$p.extra = $v",
    "setattr($p, 'a', $s)",
    "$p.a = $s",
    "del $p.extra",
    "del $p.a",
    "$p.__dict__['extra'] = $s",
    "$p.a, $p.extra = $s, $s",
    "$p.a += 1",
    "vars($p).update(extra=$s)",
    "$p.new = $p",
)
STORED = (
    "$p.append(x)",
    "$p.append(log)",
    "$p.append([x, $s])",
    "$p.insert(0, x)",
    "kept = {'x': x, 's': $s}\n$p.append(kept)\nlog.append(kept)",
    "$p.append((x, [$s]))",
)
STORED_IN_MAPPING = (
    "$p[$k] = x",
    "$p['log'] = log",
    "$p[$k] = [x]",
    "kept = [x, $s]\n$p[$k] = kept\nlog.append(kept)",
    "$p[tuple(x.shape)] = x",
    "if 'cached' not in $p:\n    $p['cached'] = x * 2\nlog.append($p['cached'])",
)


def change_inside(place: Place, dice: random.Random) -> str | None:
    """A statement of the subject that changes the place, or None when nothing suits."""
    kind = place.kind
    if place.assign_inside and (isinstance(kind, (Scalar, Function)) or dice.random() < 0.15):
        return place.assign_inside.replace("$value", _new_value(kind, dice, inside=True))
    if place.inside is None:
        return None
    pool = _pool(kind)
    if isinstance(kind, Sequence) and kind.mutable and not kind.plain:
        pool += STORED
    elif isinstance(kind, Mapping):
        pool += STORED_IN_MAPPING
    elif isinstance(kind, Tensor):
        pool += TENSOR_INSIDE
    return fill(dice.choice(pool), dice, place.inside) if pool else None


def change_outside(place: Place, dice: random.Random) -> str | None:
    """A statement of a round that changes the place, or None when nothing suits."""
    kind = place.kind
    if place.assign_outside and (isinstance(kind, Scalar) or dice.random() < 0.3):
        return place.assign_outside.replace("$value", _new_value(kind, dice))
    if place.outside is None:
        return None
    pool = _pool(kind)
    if isinstance(kind, Tensor):
        pool += TENSOR_OUTSIDE
    elif isinstance(kind, Function):
        pool += FUNCTION_OUTSIDE
    elif isinstance(kind, Instance):
        pool += kind.outside + kind.outside
    if place.outside.endswith(")"):  # a call cannot be the target of `+=`
        pool = tuple(template for template in pool if not re.match(r"\$p \S= ", template))
    return fill(dice.choice(pool), dice, place.outside) if pool else None


def _new_value(kind: Kind, dice: random.Random, *, inside: bool = False) -> str:
    """What a place of this kind is assigned: mostly the like of what it held."""
    if inside and dice.random() < 0.25:
        return dice.choice(("x", "log", "[x]", "x.detach()", "len(log)", "type(x)", "x.shape"))
    if isinstance(kind, Scalar):
        return changed_scalar(kind.text, dice) if dice.random() < 0.93 else container(dice, 1).text
    if isinstance(kind, Function):
        return dice.choice(FUNCTIONS)
    if isinstance(kind, Tensor):
        return fill("$t", dice)
    if dice.random() < 0.75 and not kind.text.isidentifier():
        return kind.text  # equal, yet another object
    return container(dice, 2).text


def _pool(kind: Kind) -> tuple[str, ...]:
    if isinstance(kind, Sequence):
        return SEQUENCE if kind.mutable else ()
    if isinstance(kind, Mapping):
        return MAPPING
    if isinstance(kind, ScalarSet):
        return SET
    if isinstance(kind, Tensor):
        return TENSOR
    if isinstance(kind, Instance):
        return kind.changes + kind.changes + INSTANCE
    return ()
