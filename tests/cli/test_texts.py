"""Numbers as the tables show them."""

from __future__ import annotations

import pytest

from thunder.cli.texts import format_error, format_ratio, format_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (14.8e-6, "14.8 us"),
        (5e-7, "0.50 us"),
        (256e-6, "256 us"),
        (10.2e-3, "10.2 ms"),
        (3.5, "3.50 s"),
        (100.0, "100 s"),
    ],
)
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_ratios_and_errors():
    assert format_ratio(3.0, 2.0) == "1.50"
    assert format_ratio(None, 2.0) == format_ratio(1.0, None) == "-"
    assert (format_error(None), format_error(0.0), format_error(3.44e-7)) == ("-", "0", "3.4e-07")
