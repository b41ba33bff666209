"""Tables as Markdown, CSV or LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lipwire.engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text, and what stands below."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    foot: tuple[str, ...] = ()


def to_markdown(found: Sequence[Table]) -> str:
    """Tables under headings, notes below each."""
    parts = []
    for table in found:
        lines = [
            f"### {table.title}",
            "",
            "| " + " | ".join(table.head) + " |",
            "|" + " --- |" * len(table.head),
        ]
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
        parts.append("\n".join([*lines, "", *(f"- {note}" for note in table.foot)]).rstrip())
    return "\n\n".join(parts) + "\n"


def to_csv(found: Sequence[Table]) -> str:
    """Tables below each other, a blank line between; notes begin with #."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for number, table in enumerate(found):
        out.write("\n" * bool(number) + f"# {table.title}\n")
        writer.writerows([table.head, *table.rows])
        out.writelines(f"# {note}\n" for note in table.foot)
    return out.getvalue()


_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "→": r"$\to$",
    "–": "--",
    "é": r"\'e",
    "…": r"\dots{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)


def to_latex(found: Sequence[Table]) -> str:
    """A `table` environment each; needs no package."""
    parts = []
    for table in found:
        body = [" & ".join(map(_tex, row)) + r" \\" for row in table.rows]
        lines = [
            r"\begin{table}",
            rf"\caption{{{_tex(table.title)}}}",
            rf"\begin{{tabular}}{{{'l' * 2}{'r' * (len(table.head) - 2)}}}",
            r"\hline",
            " & ".join(map(_tex, table.head)) + r" \\",
            r"\hline",
            *body,
            r"\hline",
            r"\end{tabular}",
            *(rf"\par\footnotesize {_tex(note)}" for note in table.foot),
            r"\end{table}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


WRITERS = {".md": to_markdown, ".csv": to_csv, ".tex": to_latex}


def write_tables(found: Sequence[Table], path: Path) -> None:
    """As Markdown, CSV or LaTeX, by the file's suffix.

    Raises:
        ConfigError: another suffix, or it cannot be written.
    """
    if path.suffix not in WRITERS:
        raise ConfigError(f"{path}: must end in one of {', '.join(WRITERS)}")
    try:
        path.write_text(WRITERS[path.suffix](found), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
