"""What tests are called: by the behaviour that they prove, and so shortly that a report has them on one line."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
LONGEST = 70  # characters


@pytest.mark.parametrize("room", sorted({path.parent for path in TESTS.rglob("test_*.py")}), ids=lambda room: room.name)
def test_no_name_of_a_test_is_longer_than_70_characters(room: Path) -> None:
    names = [
        node.name
        for path in room.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]

    assert names
    assert [name for name in names if len(name) > LONGEST] == []
