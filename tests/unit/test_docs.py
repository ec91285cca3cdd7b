"""What the documents promise about the repository: links and paths lead somewhere, commands and settings exist, and
docs/design.md says where things are done. What they say of the schema is looked at in tests/integration/test_schema.py,
what they say of errors in tests/unit/test_errors.py.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from etl.settings import CONFIG_VARIABLE, PREFIX, Settings, SourceSettings
from etl.wire.faults import Reason
from tests.command_line import in_shell, understood

ROOT = Path(__file__).parents[2]
# What is installed or made, and nobody's text.
NOT_OURS = ("dist", "build")
DATA = ("tests/fixtures", "tests/benchmarks/results.json", "tests/faults/results.json", "tests/faults/soak.json")
TEXTS = {
    ".md",
    ".py",
    ".lua",
    ".toml",
    ".yml",
    ".yaml",
    ".sql",
    ".service",
    ".timer",
    ".crontab",
    ".env",
    ".acl",
    ".mako",
}
# Made when the wheel is built, from migrations/, and from ops/ and two files at the top.
IN_THE_WHEEL = ("etl/migrations", "etl/files")

VARIABLES = [PREFIX + name.upper() for name in Settings.model_fields]

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"(?<![\w./@{}%-])(?:docs|ops|etl|tests|migrations)/[\w./@*-]*\w(?:\*|/)?")
_MODULE = re.compile(r"`(etl(?:\.\w+)+)`")
_VARIABLE = re.compile(r"\bETL_[A-Z_]+[A-Z]\b")


def files(*suffixes: str) -> list[Path]:
    """Of the repository, without what begins with a dot, but for what CI runs."""
    found = [path for path in ROOT.rglob("*") if path.is_file() and _is_ours(path.relative_to(ROOT))]
    return sorted(
        path for path in (*found, ROOT / ".ci/run") if path.exists() and (path.suffix in suffixes or not suffixes)
    )


def _is_ours(path: Path) -> bool:
    hidden = any(part.startswith((".", "__pycache__")) for part in path.parts)
    return not hidden and path.parts[0] not in NOT_OURS


def documents() -> list[Path]:
    return files(".md")


def texts() -> list[Path]:
    named = ("Makefile", "Dockerfile", "run")
    ours = [path for path in files() if path.suffix in TEXTS or path.name in named]
    return [path for path in ours if not str(path.relative_to(ROOT)).startswith(DATA)]


def anchors(document: Path) -> set[str]:
    """Of its headings, as a forge makes them."""
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> Iterator[str]:
    for target in _LINK.findall(
        re.sub(r"```.*?```|^ {4}.*?$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    ):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (document.parent / path).resolve() if path else document
        if not place.exists() or (anchor and anchor not in anchors(place)):
            yield f"{document.relative_to(ROOT)}: {target}"


def cited_paths(text: str) -> set[str]:
    return {found.rstrip("/") for found in _PATH.findall(text)}


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    assert len(documents()) > 15
    assert [broken for document in documents() for broken in broken_links(document)] == []


def test_every_path_that_anything_cites_exists() -> None:
    missing = [
        f"{text.relative_to(ROOT)}: {path}"
        for text in texts()
        for path in sorted(cited_paths(text.read_text()))
        if not path.startswith(IN_THE_WHEEL) and not any(ROOT.glob(path))
    ]
    assert missing == []


def test_every_module_that_anything_cites_exists() -> None:
    assert [broken for text in texts() for broken in _unknown_modules(text)] == []


def _unknown_modules(text: Path) -> Iterator[str]:
    for dotted in _MODULE.findall(text.read_text()):
        path = Path(dotted.replace(".", "/"))
        places = (path, path.with_suffix(".py"))
        # The last name may be something in a module.
        holders = (path.parent / "__init__.py", path.parent.with_suffix(".py"))
        named = any(path.name in (ROOT / each).read_text() for each in holders if (ROOT / each).is_file())
        if not any((ROOT / each).exists() for each in places) and not named:
            yield f"{text.relative_to(ROOT)}: {dotted}"


# -- what one types


def commands() -> dict[str, str]:
    """Lines of code that begin with etl, and where they are."""
    found = {}
    for document in documents():
        text = document.read_text()
        fenced = "".join(re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL))
        indented = re.findall(r"^ {4,}(etl .+)$", text, re.MULTILINE)
        for line in [*indented, *re.findall(r"(?:^|\s|/)(etl [a-z].+)$", fenced, re.MULTILINE)]:
            found[re.split(r"\s+#|\s+&&|\s{3,}", line)[0]] = str(document.relative_to(ROOT))
    return found


def test_every_command_line_would_be_understood() -> None:
    assert len(commands()) > 20
    for line, where in commands().items():
        try:
            understood(in_shell(line))
        except Exception as error:
            pytest.fail(f"{where}: {line}: {error}")


def test_the_page_of_settings_has_each_of_them_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)

    assert [row for row in rows if not row.startswith(PREFIX)] == [*SourceSettings.model_fields]
    assert sorted(row for row in rows if row.startswith(PREFIX)) == sorted(VARIABLES)


def test_no_document_names_a_setting_that_there_is_not() -> None:
    for document in documents():
        assert set(_VARIABLE.findall(document.read_text())) <= {CONFIG_VARIABLE, *VARIABLES}, document.name


def test_the_reasons_of_dead_letters_are_those_of_the_code() -> None:
    text = (ROOT / "docs/operating.md").read_text()
    (section,) = re.findall(r"^## Dead letters\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)

    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [str(reason) for reason in Reason]


@pytest.mark.parametrize("name", ["report", "wall"])
def test_a_picture_of_the_documents_is_small(name: str) -> None:
    picture = (ROOT / f"docs/{name}.png").read_bytes()

    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 200_000


# -- where things are done

QUESTIONS = (
    "a lease runs out",
    "a duplicate is recognised",
    "a day is dropped",
    "a phone number is masked",
    "a gap is computed",
)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_design_says_in_which_file_it_is_done(question: str) -> None:
    page = ROOT / "docs/design.md"
    (row,) = re.findall(rf"^\| {question} \|(.+)\|(.+)\|$", page.read_text(), re.MULTILINE)
    places = [(page.parent / target).resolve() for target in _LINK.findall(row[0])]
    functions = re.findall(r"`(\w+)`", row[1])

    assert places
    assert functions
    code = "\n".join(place.read_text() for place in places)
    for function in functions:
        assert re.search(rf"(def|FUNCTION|VIEW) ([\w{{}}]+\.)?{function}\b", code), function
