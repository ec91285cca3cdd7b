"""Which URLs name a lake, and what becomes of the secrets in them. Nothing is connected to."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from etl.errors import ConfigurationError
from etl.lake.target import Target

SECRET = "hunter2"
IN_THE_ROOT = "cdrs/dialed_on=2015-02-19/part-0.parquet"


@pytest.mark.parametrize(
    ("url", "root", "remembered"),
    [
        ("/srv/lake", "/srv/lake", "/srv/lake"),
        ("/srv/lake?a=b", "/srv/lake?a=b", "/srv/lake?a=b"),
        ("file:///srv/lake/", "/srv/lake", "file:///srv/lake/"),
        ("s3://bucket", "bucket", "s3://bucket"),
        ("s3://bucket/calls/", "bucket/calls", "s3://bucket/calls/"),
        (
            "s3://bucket/calls?region=eu-west-1&scheme=http&endpoint_override=store:9000",
            "bucket/calls",
            "s3://bucket/calls",
        ),
        (f"s3://bucket/calls?access_key=me&secret_key={SECRET}", "bucket/calls", "s3://bucket/calls"),
        ("gs://anonymous@bucket/calls", "bucket/calls", "gs://anonymous@bucket/calls"),
        ("gs://anonymous@bucket?scheme=http&endpoint_override=store:9000", "bucket", "gs://anonymous@bucket"),
        (
            "abfs://calls@account.dfs.core.windows.net/lake",
            "calls/lake",
            "abfs://calls@account.dfs.core.windows.net/lake",
        ),
        (
            f"abfs://:{SECRET}@account.dfs.core.windows.net/calls",
            "calls",
            "abfs://account.dfs.core.windows.net/calls",
        ),
    ],
)
def test_given_an_url_then_it_is_a_place_and_remembered_without_secrets(url: str, root: str, remembered: str) -> None:
    target = Target(url)

    assert target.path(IN_THE_ROOT) == f"{root}/{IN_THE_ROOT}"
    assert target.url == remembered


def test_given_a_relative_path_then_it_is_remembered_as_an_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert Target("./lake").url == str(tmp_path / "lake")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"ftp://me:{SECRET}@host/lake", "ftp://"),
        ("lake:calls", "lake://"),
        ("s3://", "bucket"),
        ("s3:///calls", "bucket"),
        ("s3:bucket", "bucket"),
        ("gs://", "bucket"),
        ("abfs://", "bucket"),
        (f"s3://bucket?secret={SECRET}", "secret"),
        ("s3://bucket?scheme=ftp", "scheme"),
        (f"s3://bucket?secret_key={SECRET}", "access_key"),
        (f"s3://me:{SECRET}@bucket/calls", "AWS_SECRET_ACCESS_KEY"),
        (f"gs://me:{SECRET}@bucket/calls", "username"),
        (f"gs://bucket?secret={SECRET}", "secret"),
        (f"file://me:{SECRET}@host/lake", "password"),
        (f"s3://[me:{SECRET}", "IPv6"),
    ],
)
def test_given_an_url_of_no_place_then_the_error_says_why_without_secrets(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^ETL-111: ETL_EXPORT_URL names no place: ") as raised:
        Target(url)

    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert SECRET not in str(raised.value)


def test_given_links_in_circles_then_each_file_is_found_once(tmp_path: Path) -> None:
    (tmp_path / "cdrs" / "day").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "one").write_bytes(b"1")
    lake = tmp_path / "lake"
    lake.mkdir()
    (lake / "two").write_bytes(b"22")
    (lake / "cdrs").symlink_to(tmp_path / "elsewhere")
    for name in ("around", "again"):
        (lake / name).symlink_to(".")
    (lake / "nowhere").symlink_to(tmp_path / "nothing")
    (lake / "itself").symlink_to("itself")
    (tmp_path / "elsewhere" / "up").symlink_to(lake)
    found = {file.name: file.bytes for file in Target(str(lake)).files()}
    assert found == {"two": 2, "cdrs/one": 1}


def test_given_a_file_that_was_put_there_late_then_its_time_is_now(tmp_path: Path) -> None:
    place = Target(str(tmp_path))
    place.write("old", b"x", "aside")
    os.utime(tmp_path / "old", (0, 0))
    assert place.files()[0].changed_at > datetime(2020, 1, 1, tzinfo=UTC)
