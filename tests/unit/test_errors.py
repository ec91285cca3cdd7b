"""Each of our errors has a code, which docs/errors.md explains: read from the source, so that none is left out."""

import ast
import importlib
import pickle
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from etl.errors import ConfigurationError, EtlError, WrongSettings
from etl.lab.servers.process import ServerExited

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/errors.md"
CODE = re.compile(r"ETL-\d{3}")
VARIABLE = "…"  # what differs, on the page and here
# Whose sentences about a setting get their code in settings.py, and the codes that these have.
VALIDATORS = ("settings.py", "urls.py", "keys.py")
OF_SETTINGS = tuple(f"ETL-{number}" for number in range(102, 108))


class Section(NamedTuple):
    messages: list[str]
    explained: str


class Raised(NamedTuple):
    """`text` is None where the code isn't written out."""

    where: str
    error: type[EtlError]
    code: str | None
    text: str


def page() -> dict[str, Section]:
    found = {}
    for code, body in re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        assert code not in found, code
        messages = re.findall(r"^ {4}(.+)$", body, re.MULTILINE)
        found[code] = Section(messages, re.sub(r"^ {4}.+$", "", body, flags=re.MULTILINE).strip())
    return found


def sources() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in sorted((ROOT / "etl").rglob("*.py"))}


def kinds() -> dict[str, type[EtlError]]:
    """`EtlError` and what is made of it, wherever it's defined."""
    found: dict[str, type[EtlError]] = {EtlError.__name__: EtlError}
    for path in (ROOT / "etl/errors.py", *SOURCES):
        for node in ast.walk(SOURCES[path]):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) in found for base in node.bases):
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                found[node.name] = getattr(importlib.import_module(module), node.name)
    return found


SOURCES = sources()
KINDS = kinds()


def raised() -> Iterator[Raised]:
    """Wherever the code makes one of our errors: one that makes up its own text gets its code where it's defined."""
    for path, source in SOURCES.items():
        for node in ast.walk(source):
            if isinstance(node, ast.ClassDef) and node.name in KINDS:
                for call in ast.walk(node):
                    if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
                        yield _of(path, KINDS[node.name], call)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                kind = KINDS.get(node.func.id)
                if kind and kind.__init__ is EtlError.__init__:
                    yield _of(path, kind, node)


def _of(path: Path, kind: type[EtlError], call: ast.Call) -> Raised:
    code, text = call.args
    literal = str(code.value) if isinstance(code, ast.Constant) else None
    return Raised(f"{path.relative_to(ROOT)}:{call.lineno}", kind, literal, skeleton(text))


def skeleton(text: ast.expr) -> str:
    if isinstance(text, ast.Constant):
        return str(text.value)
    if isinstance(text, ast.JoinedStr):
        parts = (str(each.value) if isinstance(each, ast.Constant) else VARIABLE for each in text.values)
        return re.sub(f"{VARIABLE}+", VARIABLE, "".join(parts))
    return VARIABLE


def fits(message: str, text: str) -> bool:
    """Whether a line of the page is one of what the code may say."""
    return re.fullmatch(re.escape(text).replace(VARIABLE, ".*"), message) is not None


RAISED = [each for each in raised() if each.error is not WrongSettings]  # which has those of its problems


def test_every_error_is_raised_with_a_code_that_is_written_out() -> None:
    assert len(RAISED) > 80
    assert [each for each in RAISED if not CODE.fullmatch(each.code or "")] == []


def test_every_code_is_on_the_page_with_the_words_of_its_error() -> None:
    sections = page()
    unknown = [
        f"{each.where}: {each.code}: {each.text}"
        for each in RAISED
        if not any(fits(message, each.text) for message in sections.get(each.code or "", Section([], "")).messages)
    ]
    assert unknown == []


def test_no_message_on_the_page_is_one_that_nobody_says() -> None:
    texts = defaultdict(list)
    for each in RAISED:
        texts[each.code].append(each.text)
    for code, section in page().items():
        assert code in texts, f"{code} is raised nowhere"
        for message in section.messages:
            assert any(fits(message, text) for text in texts[code]), f"{code}: {message}"


def test_the_codes_on_the_page_are_in_order_and_explained() -> None:
    sections = page()

    assert list(sections) == sorted(sections)
    assert [code for code, section in sections.items() if not section.messages or len(section.explained) < 20] == []


def test_no_code_has_two_meanings() -> None:
    texts: dict[str | None, set[str]] = defaultdict(set)
    for each in RAISED:
        if each.text != VARIABLE:  # a sentence of its setting's own: see below
            texts[each.code].add(each.text)
    assert {code: found for code, found in texts.items() if len(found) > 1} == {}


def test_the_exit_code_on_the_page_is_that_of_the_error() -> None:
    sections = page()
    for each in RAISED:
        section = sections[each.code or ""]
        exit_code = 2 if issubclass(each.error, ConfigurationError) else 1
        stated = re.match(r"Exit code (\d)\.", section.explained)
        assert stated is None or stated[1] == str(exit_code), each


def test_every_sentence_about_a_setting_is_on_the_page() -> None:
    messages = [message for code, section in page().items() if code in OF_SETTINGS for message in section.messages]
    said = [each for name in VALIDATORS for each in _sentences(SOURCES[ROOT / "etl" / name])]

    assert len(said) > 20
    assert [each for each in said if not any(fits(message, f"{VARIABLE} {each}") for message in messages)] == []


def _sentences(source: ast.Module) -> Iterator[str]:
    for node in ast.walk(source):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "ValueError" and node.args:
            said = node.args[0]
        elif isinstance(node, ast.Yield) and isinstance(node.value, ast.JoinedStr):
            said = node.value
        else:
            continue
        if (text := skeleton(said)) != VARIABLE:
            yield text


@pytest.mark.parametrize(
    "error",
    [
        EtlError("ETL-402", "there is no dead letter 1"),
        WrongSettings([ConfigurationError("ETL-101", "a is unknown"), ConfigurationError("ETL-102", "b must be c")]),
        ServerExited("redis", Path("log"), "its last\nwords"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_begins_each_line_with_a_code_and_can_be_sent(error: EtlError) -> None:
    lines = str(error).splitlines()

    assert [line.partition(": ")[2] for line in lines] == error.text.splitlines()
    assert all(CODE.fullmatch(line.partition(": ")[0]) for line in lines)
    assert lines[0].startswith(error.code)
    sent = pickle.loads(pickle.dumps(error))
    assert (type(sent), str(sent), sent.code) == (type(error), str(error), error.code)
