"""Numbers as the tables show them."""

from __future__ import annotations


def format_seconds(seconds: float | None) -> str:
    """Three significant digits with a fitting unit: `14.8 us`, `10.2 ms`, `3.51 s`; `-` for None."""
    if seconds is None:
        return "-"
    unit, scale = "us", 1e-6
    if seconds >= 1e-3:
        unit, scale = "ms", 1e-3
    if seconds >= 1.0:
        unit, scale = "s", 1.0
    amount = seconds / scale
    digits = 2 if amount < 10 else 1 if amount < 100 else 0
    return f"{amount:.{digits}f} {unit}"


def format_ratio(numerator: float | None, denominator: float | None) -> str:
    """How many times one time is another; `-` where either is missing."""
    if numerator is None or denominator is None:
        return "-"
    return f"{numerator / denominator:.2f}"


def format_error(error: float | None) -> str:
    """A relative error with two digits; `0` when the results are equal; `-` for None."""
    if error is None:
        return "-"
    return "0" if error == 0 else f"{error:.1e}"


def format_bytes(count: int | None) -> str:
    """Bytes in GiB or MiB."""
    if count is None:
        return "-"
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
