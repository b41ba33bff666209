"""The figures of `lipwire.training.evaluation.hearing` as tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def voice_table(report: Mapping[str, Any]) -> str:
    """A report of `measure_voice` as two tables in Markdown."""
    heads = "| | clips, speakers | r | r, 2 s and more | r, best lag | lag | movement "
    heads += "| closures | false |"
    counted = (("closures", "of_closures"), ("false", "of_shown"))
    lines = [heads, "| --- " * 9 + "|"]
    for part in ("heard", "languages", "speakers"):
        for name, row in report[part].items():
            cells = [f"{row['clips']}, {row['speakers']}"]
            cells += [_cell(row[figure]) for figure in ("r", "r_long", "r_best")]
            cells += [_cell([row[figure]], 2) for figure in ("lag", "movement")]
            cells += [f"{_cell(row[figure], 2)} of {row[of]}" for figure, of in counted]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| silence | leak | open | shut after, s |", "| --- " * 4 + "|"]
    for kind, row in report["silence"].items():
        lines.append(f"| {kind} | " + " | ".join(_cell([v], 2) for v in row.values()) + " |")
    return "\n".join(lines)


def _cell(figure: Sequence[float | None], digits: int = 3) -> str:
    value, *interval = ("–" if v is None else f"{v:.{digits}f}" for v in figure)
    return f"{value} ({interval[0]} to {interval[1]})" if set(interval) - {"–"} else value
