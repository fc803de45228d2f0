"""Statements of random programs, as templates.

`EXPRESSIONS` define a new variable; `STATEMENTS` stand as they are, one or more lines. Both are lists by kind, one
template a line. Names in braces are filled in:

    {a} {b}          tensors that exist                 {same}     one of {a}'s shape
    {mask}           a mask or a simple index of {a}    {n}        a tensor or a number
    {dim} {other}    dimensions of {a}                  {size}     the length of {a} in {dim}
    {start} {rest}   a place in {dim}, and what is left {last}     the last index of {a}'s first dimension
    {order}          a permutation of {a}'s dimensions  {wide}     a shape that {a} expands to
    {dtype}          a dtype                            {place}    {a}, or a view of it
    {value}          something to assign to {a}
    {new} {second}   fresh variables

What PyTorch refuses for a given tensor is dropped while a program grows, so a template need not fit every tensor.
"""

from __future__ import annotations

EXPRESSIONS: dict[str, str] = {
    "pointwise": """
        {a}.sin()
        torch.tanh({a})
        -{a}
        {a}.abs()
        torch.sigmoid({a})
        F.relu({a})
        F.gelu({a})
        {a}.clamp(-1, 1)
        {a}.square()
        {a}.sign()
        torch.exp(-{a}.abs())
        ~{a}
        {a} ** 2
        torch.logical_not({a})
        {a}.clone()
        torch.nan_to_num({a})
        {a}.round()
        {a}.contiguous()
    """,
    "binary": """
        {a} + {n}
        {a} - {n}
        {a} * {n}
        {n} - {a}
        {a} > {n}
        {a} == {n}
        torch.where({a} > 0, {a}, {n})
        torch.maximum({a}, torch.as_tensor({n}))
        torch.add({a}, {n}, alpha=2)
        {a} / (1 + torch.as_tensor({n}).abs())
        {a}.lerp({b}, 0.3)
        torch.atan2({a}, torch.as_tensor({n}))
        {a} // 2
        {a} % 3
        {a} & {n}
        torch.bitwise_or({a}, torch.as_tensor({n}))
        torch.logical_xor({a}, torch.as_tensor({n}))
    """,
    "view": """
        {a}.transpose({dim}, {other})
        {a}[{start}:]
        {a}.view(-1)
        {a}.unsqueeze({dim})
        {a}.permute({order})
        {a}.squeeze()
        {a}.squeeze({dim})
        {a}.reshape(-1)
        {a}.select({dim}, {start})
        {a}.narrow({dim}, {start}, {rest})
        {a}[..., ::2]
        {a}[..., {start}]
        {a}[None]
        {a}.expand({wide})
        {a}.T
        {a}.diagonal()
        {a}.flatten()
        {a}.unfold({dim}, 2, 1)
        {a}.movedim({dim}, {other})
        {a}.view_as({b})
        {a}.swapaxes({dim}, {other})
        {a}.detach()
        {a}[:]
        {a}.as_strided(({size},), (1,))
        {a}.mT
        {a}.real
        torch.view_as_real({a})
        {a}.unflatten({dim}, (-1, 1))
        {a}.T[{start}:]
        {a}.view(torch.int32)
        {a}.expand_as({b})
        {a}.chunk(2, {dim})[0]
        {a}.split([{start}, {rest}], {dim})[1]
        {a}.unbind({dim})[{start}]
    """,
    "index": """
        {a}[torch.tensor([0, {last}, 0])]
        {a}[[{last}, 0]]
        {a}.index_select({dim}, torch.tensor([0, 0]))
        {a}[..., torch.tensor([0])]
        {a}.gather({dim}, torch.zeros_like({a}, dtype=torch.int64))
        {a}[torch.tensor([[0], [{last}]]), ...]
        {a}[:, torch.tensor(0)]
        {a}[torch.tensor([0]), None]
        torch.take_along_dim({a}, {a}.argsort({dim}), {dim})
        {a}.take(torch.tensor([0]))
        {a}[0, [0, 0]]
        {a}.flip({dim})
        {a}.roll(1, {dim})
        {a}.repeat_interleave(2, {dim})
        torch.tril({a})
    """,
    "reduce": """
        {a}.sum()
        {a}.sum({dim})
        {a}.mean({dim}, keepdim=True)
        {a}.amax({dim})
        {a}.cumsum({dim})
        {a}.any({dim})
        {a}.argmax({dim})
        {a}.softmax({dim})
        {a}.prod({dim})
        {a}.float().std()
        {a}.max({dim})[0]
        {a}.sort({dim})[0]
        {a}.norm()
        {a}.logsumexp({dim})
        {a}.all()
        F.layer_norm({a}, {a}.shape[-1:])
        {a}.count_nonzero()
        {a}.diff(dim={dim})
        {a}.min()
    """,
    "combine": """
        {a} @ {b}
        {a} @ {b}.mT
        torch.cat([{a}, {b}], {dim})
        torch.stack([{a}, {a}], {dim})
        F.linear({a}, {b})
        torch.einsum('...i,...i->...', {a}, {b})
        torch.outer({a}.reshape(-1), {b}.reshape(-1))
        torch.broadcast_tensors({a}, {b})[0]
        torch.addcmul({a}, {b}, {b})
        torch.vstack([{a}, {a}])
        sum([{a}, {b}])
        torch.stack([v * i for i, v in enumerate([{a}, {a}])])
    """,
    "create": """
        torch.zeros_like({a})
        torch.ones({a}.shape)
        {a}.new_full({a}.shape, 2)
        torch.arange({a}.numel())
        torch.full_like({a}, 0.5, dtype=torch.float32)
        torch.tensor([1.0, 2.0, 3.0])
        torch.tensor(2)
        torch.empty_like({a}).fill_(1)
        torch.linspace(0, 1, {a}.ndim + 1)
        torch.eye(3)
        torch.zeros({a}.size(), dtype={a}.dtype)
        torch.zeros(0, 3)
    """,
    "out": """
        torch.sin({a}, out={same})
        torch.add({a}, 1, out={same})
        torch.mul({a}, {b}, out=torch.empty(0, dtype={a}.dtype))
        torch.neg({a}, out=torch.empty(0, dtype={a}.dtype))
        torch.sum({a}, 0, out=torch.empty(0, dtype={a}.dtype))
        torch.add({a}, {a}, out={same}.view({a}.shape))
        torch.cat([{a}, {a}], out=torch.empty(0, dtype={a}.dtype))
    """,
    "layout": """
        {a}.contiguous(memory_format=torch.channels_last)
        {a}.to(memory_format=torch.channels_last)
        {a}.clone(memory_format=torch.contiguous_format)
        torch.empty_like({a}).copy_({a})
        {a}.mT.contiguous()
        torch.empty_strided({a}.shape, {a}.stride()).copy_({a})
        torch.empty_like({a}.T).copy_({a}.T)
    """,
    "convert": """
        {a}.to(torch.{dtype})
        {a}.type_as({b})
        {a}.to({b})
        {a}.float()
        {a}.double()
    """,
    "gradient": """
        {a}.detach().clone().requires_grad_()
        {a}.detach()
        {a}.clone().requires_grad_({a}.is_floating_point())
    """,
    "python": """
        {a} * 2 if {a}.shape[0] > 2 else {a}.sin()
        {a}.sin() if {a}.is_contiguous() else {a}
        {a} if {a}.requires_grad else {a} + 1
        (lambda v: v + {a})({a}.shape[0])
        {a}.float() if not {a}.is_floating_point() else {a}.cos()
        sum({a}.unbind(0))
        torch.cat([row.reshape(-1) for row in {a}])
        {a} * {a}.numel() / max(1, {a}.dim())
        [{a}, {a}.sin()][1]
        dict(k={a}, j={b})['k']
    """,
    "box": """
        box['b'][0] + 1
        next(iter(box.values()))
        box[1][0] + 1
        box[0]
    """,
}

STATEMENTS: dict[str, str] = {
    "write": """
        {place}.add_({n})
        {place}.mul_({n})
        {place}.zero_()
        {place}.fill_(0.5)
        {place}.sub_({n}, alpha=2)
        {place}.sin_()
        {place}.clamp_(min=0)
        {place}.neg_()
        {place}.copy_(torch.as_tensor({n}))
        {place}.tanh_()
        {place}.masked_fill_({a} > 0, 1.0)
        {a} += {n}
        {a} *= {n}
        {a} -= {n}
        {a}.transpose_({dim}, 0)
        {a}.unsqueeze_({dim})
        {a}.squeeze_()
        {a}.t_()
        {place}.index_fill_(0, torch.tensor([0]), 2)
        {place}.cumsum_({dim})
        F.relu({place}, inplace=True)
        {place}.lerp_(torch.as_tensor({n}), 0.5)
        {place}.addcmul_({a}, torch.as_tensor({n}))
        {a}.detach().mul_(2)
        {place}.index_add_(0, torch.tensor([0]), {place}[:1])
    """,
    "assign": """
        {a}[0] = {value}
        {a}[-1] = {value}
        {a}[:1] = {value}
        {a}[..., 0] = {value}
        {a}[...] = {value}
        {a}[::2] = {value}
        {a}[:, 0] = {value}
        {a}[None] = {value}
        {a}[torch.tensor([0, {last}])] = {value}
        {a}[[0, {last}]] = {value}
        {a}[torch.tensor([[0], [{last}]])] = {value}
        {a}[..., torch.tensor([0])] = {value}
        {a}[:, [0, 0]] = {value}
        {a}[1:, ..., -1] = {value}
        {a}[{mask}] = 0.5
        {a}[{mask}] = {b}.sum()
        {a}[0] += {value}
        {a}[:1] *= {value}
        {a}[[0, {last}]] += {value}
    """,
    "gradient": """
        {a}.detach_()
        with torch.no_grad():|    {new} = {a} * 2
        with torch.no_grad():|    {new} = {a}.mul_(0.5)
        with torch.no_grad():|    {new} = {a}[..., None]
        with torch.enable_grad():|    {new} = {a} * 3
    """,
    "python": """
        for row in {a}:|    row.mul_(0.5)
        for index in range({a}.shape[0]):|    {a}[index] = index
        {new}, {second} = {a}.chunk(2, {dim})
        {new}, *rest = {a}, {b}
        try:|    {new} = {a}.sum() / len({a})|finally:|    {second} = {b} + 1
    """,
    "box": """
        box['b'][0].add_(1)
        box['b'].append({a})
        box['b'] = {a}
        box['c'] = {a}
        box[1][0].add_(1)
        box[1] = {a}
        box.append({a})
    """,
}

KINDS: tuple[tuple[str, str, int], ...] = (
    ("expression", "pointwise", 2),
    ("expression", "binary", 2),
    ("expression", "view", 4),
    ("statement", "write", 6),
    ("statement", "assign", 3),
    ("expression", "index", 2),
    ("expression", "reduce", 2),
    ("expression", "combine", 2),
    ("expression", "create", 2),
    ("expression", "out", 2),
    ("expression", "layout", 2),
    ("expression", "convert", 2),
    ("expression", "gradient", 1),
    ("statement", "gradient", 1),
    ("expression", "python", 2),
    ("statement", "python", 1),
    ("expression", "box", 1),
    ("statement", "box", 1),
)
"""Kinds of lines with their weights."""


def templates(form: str, kind: str) -> list[str]:
    """The templates of a kind; in those of several lines a bar separates the lines."""
    if form == "expression":
        return ["{new} = " + line.strip() for line in EXPRESSIONS[kind].strip().splitlines()]
    return [line.strip().replace("|", "\n") for line in STATEMENTS[kind].strip().splitlines()]
