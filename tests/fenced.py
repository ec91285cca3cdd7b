"""The code in a document, as a reader would copy it: fenced blocks, and the statements in them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Block:
    """A fenced block of a document: its language and its statements, a here-document or a \\ at the end included."""

    language: str
    statements: Sequence[str]


def blocks(document: Path, headings: Sequence[str] = ()) -> Iterator[Block]:
    """All of them, in order, or those below some headings; those in a list lose its indentation."""
    text = document.read_text()
    if headings:
        sections = re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", text, re.MULTILINE)
        text = "".join(section for heading, section in sections if heading in headings)
    for found in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        code = re.sub(rf"^{found[1]}", "", found[3], flags=re.MULTILINE)
        yield Block(found[2], _statements(code))


def indented(document: Path) -> list[str]:
    """Lines that a reader takes for code and `blocks` doesn't."""
    prose = re.sub(r"^( *)```.*?^\1```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"(?<=\n\n) {4}\S.*", prose)


def _statements(code: str) -> list[str]:
    """Lines that belong together: a here-document, or one that ends with a backslash."""
    found: list[str] = []
    lines = iter(code.splitlines())
    for line in lines:
        statement = line
        if here := re.search(r"<<'?(\w+)'?", line):
            for more in lines:
                statement += f"\n{more}"
                if more == here[1]:
                    break
        while statement.endswith("\\"):
            statement += f"\n{next(lines)}"
        if statement.strip():
            found.append(statement)
    return found
