"""The results as the Markdown tables of docs/conformance.md."""

from __future__ import annotations

from .results import Comparison


def totals_table(results: list[Comparison]) -> str:
    """One row for each version."""
    lines = [
        "| version | modules run to the end | pass natively | of these pass interpreted | | frames interpreted |",
        "|---|---|---|---|---|---|",
    ]
    for version in _versions(results):
        own = [result for result in results if result.version == version]
        finished = sum(result.interpreted_seconds is not None for result in own)
        native = sum(result.native_passed for result in own)
        interpreted = sum(result.interpreted_passed for result in own)
        share = interpreted / native if native else 0.0
        lines.append(
            f"| {version} | {finished} of {len(own)} | {native} | {interpreted} | {share:.2%} | {_frames(own)} |"
        )
    return "\n".join(lines)


def modules_table(results: list[Comparison]) -> str:
    """One row for each module, one column for each version: tests that pass interpreted, `/` natively if not all."""
    versions = _versions(results)
    cells = {(result.module, result.version): _cell(result) for result in results}
    modules = dict.fromkeys(result.module for result in results)
    lines = ["| module | " + " | ".join(versions) + " |", "|---" * (len(versions) + 1) + "|"]
    for module in modules:
        row = [cells.get((module, version), "") for version in versions]
        lines.append(f"| `{module}` | " + " | ".join(row) + " |")
    return "\n".join(lines)


def missing_tests(results: list[Comparison]) -> str:
    """One row for each test that passes natively only: its module, its name, the versions."""
    versions: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for test in result.missing:
            name = test.removeprefix(f"test.{result.module}.")
            versions.setdefault((result.module, name), []).append(result.version)
    lines = ["| test | on |", "|---|---|"]
    lines += [f"| `{module}` `{name}` | {', '.join(found)} |" for (module, name), found in versions.items()]
    return "\n".join(lines)


def _versions(results: list[Comparison]) -> list[str]:
    return list(dict.fromkeys(result.version for result in results))


def _cell(result: Comparison) -> str:
    if result.interpreted_seconds is None:
        return f"{result.interpreted_passed}/{result.native_passed}, cut off"
    if result.missing:
        return f"{result.interpreted_passed}/{result.native_passed}"
    return str(result.native_passed)


def _frames(results: list[Comparison]) -> str:
    counted = [result for result in results if result.share is not None]
    interpreted = sum(result.interpreted_frames for result in counted)
    total = interpreted + sum(result.native_frames for result in counted)
    return f"{interpreted / total:.2%} ({len(counted)} modules)" if total else "not counted"
