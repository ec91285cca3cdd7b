"""A folder as the lake's place, on a file system with hard links and on one without: what is published is never written
to again, nor replaced by anything else."""

import errno
import os
from pathlib import Path

import pytest

from etl.errors import LakeError
from etl.lake import layout, verify
from etl.lake.target import Draft, Target
from tests.lake import (
    CALLS,
    DAY,
    assert_agrees,
    assert_comes_right,
    export,
    export_and_prune,
    file,
    in_file,
    in_postgres,
    load,
    prune,
    refs,
    restore,
    revision_file,
    revisions,
    with_lake,
)
from tests.world import Archive, cdr

NAME = layout.revision(CALLS, DAY, 1, "0" * 64)


@pytest.fixture(params=["links", "no links"], autouse=True)
def has_links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file system has hard links."""
    if request.param == "links":
        return True

    def refuse(source: str, _to: str) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), source)

    monkeypatch.setattr(os, "link", refuse)
    return False


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(str(tmp_path / "lake"))


def write(draft: Draft, content: bytes) -> None:
    Path(draft.place).write_bytes(content)


def publish(target: Target, content: bytes) -> None:
    with target.draft(layout.attempt(CALLS, DAY)) as draft:
        write(draft, content)
        target.publish(draft, NAME)


def files(target: Target) -> dict[str, bytes]:
    return {each.name: Path(target.path(each.name)).read_bytes() for each in target.files()}


def test_a_day_lives_its_whole_life(archive: Archive, tmp_path: Path, has_links: bool) -> None:
    with_lake(archive, tmp_path / "lake")
    load(archive, cdr(1), cdr(2))
    export_and_prune(archive)
    load(archive, cdr(3), cdr(2, hold_time=5))
    export_and_prune(archive)
    assert refs(in_file(archive)) == ["1", "2", "3"]
    assert len(revisions(archive)) == 2
    assert file(archive).samefile(revision_file(archive)) == has_links
    assert file(archive).read_bytes() == revision_file(archive).read_bytes()

    revision_file(archive).unlink()
    assert restore(archive).rows == 3
    assert refs(in_postgres(archive)) == ["1", "2", "3"]
    assert export(archive, force=True).what == "unchanged"
    assert prune(archive).what == "dropped"
    assert_agrees(archive)
    assert_comes_right(archive)


def test_what_is_published_stays_whatever_comes_under_its_name(target: Target) -> None:
    publish(target, b"first")
    publish(target, b"first")
    with pytest.raises(LakeError, match="another file has this name"):
        publish(target, b"other")
    assert files(target) == {NAME: b"first"}


def test_a_draft_that_somebody_swept_comes_to_nothing(target: Target) -> None:
    with target.draft(name := layout.attempt(CALLS, DAY)) as draft:
        write(draft, b"late")
        target.remove(name)
        publish(target, b"in time")
        write(draft, b"later")
        with pytest.raises(LakeError, match="No such file"):
            target.publish(draft, layout.revision(CALLS, DAY, 2, "1" * 64))
    assert files(target) == {NAME: b"in time"}


def test_no_two_drafts_have_one_name(target: Target) -> None:
    with target.draft(name := layout.attempt(CALLS, DAY)) as draft:
        write(draft, b"first")
        with pytest.raises(LakeError, match="File exists"), target.draft(name):
            pytest.fail("it was opened")
        assert Path(draft.place).read_bytes() == b"first"
        target.publish(draft, NAME)
    assert files(target) == {NAME: b"first"}


def test_what_has_been_published_is_not_what_the_copy_was_written_to(target: Target, has_links: bool) -> None:
    publish(target, b"first")
    plain = layout.plain(CALLS, DAY)
    target.copy(NAME, plain, layout.attempt(CALLS, DAY))
    assert target.is_same(NAME, plain) == has_links
    target.duplicate(NAME, plain, layout.attempt(CALLS, DAY))
    assert not target.is_same(NAME, plain)
    Path(target.path(plain)).write_bytes(b"whoever writes there")
    assert files(target) == {NAME: b"first", plain: b"whoever writes there"}

    target.copy(NAME, plain, layout.attempt(CALLS, DAY))
    target.copy(NAME, plain, layout.attempt(CALLS, DAY))
    assert files(target) == {NAME: b"first", plain: b"first"}


def test_given_any_damaged_byte_then_a_footer_is_read_or_it_is_said(archive: Archive, tmp_path: Path) -> None:
    with_lake(archive, tmp_path / "lake")
    load(archive, cdr(1), cdr(2))
    export(archive)
    content = revision_file(archive).read_bytes()
    target = Target(str(tmp_path / "damaged"))
    damaged = tmp_path / "damaged" / "r.parquet"
    damaged.parent.mkdir()
    refused = 0
    for place in range(0, len(content), 3):
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            with target.fetched("r.parquet") as path:
                verify.footer(path, "r.parquet", CALLS)
        except LakeError:
            refused += 1
    assert refused > 100
