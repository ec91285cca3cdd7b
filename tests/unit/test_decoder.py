"""Which decoder runs: a compiled one that is of this very source, or Python's; and that whoever asks is told why."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from etl import __version__
from etl.app.check import check
from etl.errors import ConfigurationError
from etl.findings import Finding
from etl.settings import Settings
from etl.wire import packed
from etl.wire import stamp as module
from etl.wire.packed import Packer, packer, why_none
from etl.wire.stamp import FOLDER, LIBRARY, stamp

compiled = pytest.mark.skipif(why_none() is not None, reason=f"no compiled decoder: {why_none()}")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Another place for source and library: both as they are here, as far as they are."""
    copied = shutil.copytree(FOLDER, tmp_path / "native", ignore=shutil.ignore_patterns("target"))
    monkeypatch.setattr(module, "FOLDER", copied)
    monkeypatch.setattr(packed, "_PATH", copied / LIBRARY)
    packed._library.cache_clear()
    yield copied
    packed._library.cache_clear()


def found(settings: str) -> Finding:
    nowhere = {"database_url": "postgresql://127.0.0.1:1/x", "redis_url": "redis://127.0.0.1:1/0"}
    (finding,) = (
        each for each in check(Settings.model_validate({**nowhere, "decoder": settings})) if each.about == "decoder"
    )
    return finding


@compiled
def test_given_a_library_of_this_source_then_it_decodes(folder: Path) -> None:
    assert packer() is packer("auto") is packer("compiled") is Packer
    assert packer("python") is None
    assert (found("auto").verdict, found("auto").says) == (
        "fine",
        "the compiled one takes plain CDRs, and Python the rest",
    )
    assert (found("python").verdict, found("python").says) == ("fine", "Python's, by ETL_DECODER")


@compiled
@pytest.mark.parametrize("file", ["Cargo.toml", "src/lib.rs", "src/new.rs"])
def test_given_another_source_then_the_library_is_refused(folder: Path, file: str) -> None:
    with (folder / file).open("a") as source:
        source.write("\n")

    with structlog.testing.capture_logs() as lines:
        assert packer() is None

    (line,) = lines
    assert (line["log_level"], line["event"]) == ("warning", "decoder_refused")
    assert str(line["error"]).startswith(f"the library was built from {__version__}+")
    assert found("auto").verdict == "warning"
    assert "the library was built from" in found("auto").says
    assert found("compiled").verdict == "wrong"
    with pytest.raises(ConfigurationError, match="was built from") as refusal:
        packer("compiled")
    assert refusal.value.code == "ETL-117"


@compiled
def test_given_another_release_then_the_library_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "__version__", "9.9.9")

    assert packer() is None
    assert (
        why_none() == f"the library was built from {stamp(__version__)}, and the source beside it is {stamp('9.9.9')}"
    )


def test_given_a_library_that_is_none_then_it_is_refused(folder: Path) -> None:
    (folder / LIBRARY).unlink(missing_ok=True)
    (folder / LIBRARY).write_bytes(b"not an ELF file")

    assert packer() is None
    assert "the library can't be loaded" in str(why_none())


def test_given_no_library_then_python_decodes_unless_it_is_demanded(folder: Path) -> None:
    (folder / LIBRARY).unlink(missing_ok=True)

    with structlog.testing.capture_logs() as lines:
        assert packer() is None
    assert lines == []
    assert found("auto").verdict == "fine"
    assert "cargo" in found("auto").says
    with pytest.raises(ConfigurationError, match="cargo"):
        packer("compiled")
    assert (found("compiled").verdict, found("compiled").code) == ("wrong", "ETL-117")
