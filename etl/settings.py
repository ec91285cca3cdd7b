"""What the operator may set, and how a wrong setting is reported. Known to `etl.app`, `etl.supervisor`, `etl.cli`,
`etl.lab` and the migrations only; everything lower takes plain arguments. Connecting to what the URLs name
happens elsewhere.

Values come from the environment (`ETL_BATCH_SIZE`) and from a TOML file (`batch_size`); the environment wins.
"""

import contextlib
import difflib
import json
import re
import socket
import ssl
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from etl import urls
from etl.errors import ConfigurationError, WrongSettings
from etl.keys import clashes

PREFIX = "ETL_"
CONFIG_VARIABLE = "ETL_CONFIG"  # names the TOML file where no --config does; the one variable that is no field

_MIB = 1024 * 1024
_NAME_LENGTH = 64  # characters of a worker's name; people read it in log lines and ledger rows
_VERIFYING = ("verify-full", "verify-ca")  # of libpq's sslmodes those that look at a certificate in any case
_DATABASE_URLS = ("database_url", "lake_database_url", "web_database_url")
_ONE_SOURCE = "an object with at least a key"
_A_ZONE = "the IANA name of a time zone, like Europe/Bucharest, or UTC"


def _redis_url(url: SecretStr) -> SecretStr:
    urls.check_redis(url.get_secret_value())
    return url


def _server_name(name: str) -> str:
    """The name is in every row, for everybody to read: so it mustn't be a URL with its password."""
    if "://" in name or re.search(":.*@", name):
        raise ValueError("must be a name and no URL: a password may be in that")
    return name


def _postgres_url(url: SecretStr) -> SecretStr:
    urls.check_postgres(url.get_secret_value())
    return url


def _ca_file(path: Path) -> Path:
    """An unusable file is reported at once and by its name: the libraries' own errors, later, name neither."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise ValueError(f"names {path}, which holds no certificate in PEM") from None
    except OSError as error:
        raise ValueError(f"names {path}, which can't be read: {error.strerror}") from None
    return path


def _http(text: str) -> str:
    if text != "off":
        _host_and_port(text)
    return text


def _web(text: str) -> str:
    try:
        _host_and_port(text)
    except ValueError:
        raise ValueError("must be host:port, like 127.0.0.1:8080 or [::1]:8080") from None
    return text


def _host_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", name):
            raise ValueError(f"has {name!r}, which is no host's name or address, without a port")
    return names


def _unset(value: object) -> object:
    """An empty variable, as Compose passes on what isn't in its `.env`, is one that isn't set."""
    return None if value == "" else value


def _no_names(value: object) -> object:
    return () if value == "" else _json(value)


def _token(token: SecretStr) -> SecretStr:
    """Any other can't be given in a header, or not by all programs."""
    text = token.get_secret_value()
    if not (text.isascii() and text.isprintable() and text == text.strip()):
        raise ValueError("must have only printable ASCII characters, and no space around them")
    return token


def _host_and_port(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    with contextlib.suppress(ValueError):  # of a port that is no number, or too large
        if parts.hostname and parts.port is not None and text == parts.netloc and "@" not in text:
            return parts.hostname, parts.port
    raise ValueError("must be host:port, like 127.0.0.1:9464 or [::1]:9464, or off")


def _json(value: object) -> object:
    """The environment has only strings: a list comes as JSON, and is a list in the file."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"isn't JSON: {error.msg.removesuffix(' at')} at line {error.lineno}, column {error.colno}"
        ) from None


def _host_name() -> str:
    """The name survives a restart, so that a worker finds its own claims again."""
    return re.sub("[^A-Za-z0-9._-]", "-", socket.gethostname())[:_NAME_LENGTH] or "worker"


def _time_zone(name: str) -> tzinfo:
    """Raises ValueError for a name that the IANA database doesn't have."""
    if name == "UTC":  # which needs no time zone database
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):  # the last of a name that is a folder's, or too long for a file's
        raise ValueError(f"must be {_A_ZONE}") from None


def _zone_name(name: str) -> str:
    _time_zone(name)
    return name


def _whole(default: int, low: int, high: int, unit: str) -> Any:
    return Field(default=default, ge=low, le=high, description=f"a whole number of {unit} from {low} to {high}")


_A_FILE_MODE = 'octal permissions like "0640", by which at least the owner may read and write'


def _file_mode(value: object) -> int:
    """As `chmod` takes it."""
    mode = int(value, 8) if isinstance(value, str) and re.fullmatch("[0-7]{3,4}", value) else value
    if not isinstance(mode, int) or mode & ~0o666 or mode & 0o600 != 0o600:
        raise ValueError(f"must be {_A_FILE_MODE}")
    return mode


class SourceSettings(BaseModel):
    """One Redis list to load from.

    `source` names the system that fills the list, and is part of a CDR's identity: two lists of one system share it.
    `take_from` is the old end. `forward_to` is a list that gets a copy of every message, for the application that
    used to consume `key`. `zone` is that of the dialler's clock, for times that it writes without an offset.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str = Field(min_length=1, description="the key of a Redis list")
    source: str = Field(default="dialler", pattern="^[A-Za-z0-9_-]+$", description="letters, digits, '_' or '-'")
    take_from: Literal["right", "left"] = Field(default="right", description="'right' or 'left'")
    forward_to: str | None = Field(default=None, min_length=1, description="the key of another Redis list")
    zone: Annotated[str, AfterValidator(_zone_name)] = Field(default="UTC", description=_A_ZONE)

    @property
    def time_zone(self) -> tzinfo:
        return _time_zone(self.zone)


_DEFAULT_SOURCES = (
    SourceSettings(key="enigma:notifications:campaigns", source="dialler"),
    SourceSettings(key="enigma:notifications:cdr", source="click2dial"),
)


class Settings(BaseModel):
    """All settings, valid. Built by hand it takes what it's given and defaults; `load` adds file and environment."""

    # A field's description completes the sentence "it must be …"; the operator reads it.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True)

    redis_url: Annotated[SecretStr, AfterValidator(_redis_url)] = Field(
        default=SecretStr("redis://127.0.0.1:8001/0"), description="a redis:// URL"
    )
    redis_ca_file: Annotated[Path, AfterValidator(_ca_file)] | None = Field(
        default=None, description="a file of CA certificates"
    )
    redis_name: (
        Annotated[
            str, Field(pattern=f"^{urls.SERVER_NAME}{{1,{urls.SERVER_NAME_LENGTH}}}$"), AfterValidator(_server_name)
        ]
        | None
    ) = Field(default=None, description=f"1 to {urls.SERVER_NAME_LENGTH} letters, digits, or any of . _ : / @ [ ] -")
    redis_cluster: bool = Field(default=False, description="true or false")
    database_url: Annotated[SecretStr, AfterValidator(_postgres_url)] = Field(
        default=SecretStr("postgresql://127.0.0.1:5432/etl"), description="a postgresql:// URL"
    )
    lake_database_url: Annotated[SecretStr, AfterValidator(_postgres_url)] | None = Field(
        default=None, description="a postgresql:// URL"
    )
    web_database_url: Annotated[SecretStr, AfterValidator(_postgres_url)] | None = Field(
        default=None, description="a postgresql:// URL"
    )
    database_ca_file: Annotated[Path, AfterValidator(_ca_file)] | None = Field(
        default=None, description="a file of CA certificates"
    )
    batch_size: int = _whole(5_000, 1, 100_000, "messages")
    linger_ms: int = _whole(200, 0, 10_000, "milliseconds")
    lease_seconds: int = _whole(60, 10, 3_600, "seconds")
    worker_name: str = Field(
        default_factory=_host_name,
        pattern=f"^[A-Za-z0-9._-]{{1,{_NAME_LENGTH}}}$",
        description=f"1 to {_NAME_LENGTH} letters, digits, '.', '_' or '-'",
    )
    max_message_bytes: int = _whole(_MIB, 1_024, 256 * _MIB, "bytes")
    oldest_days: int = _whole(3_650, 0, 36_500, "days")
    decoder: Literal["auto", "python", "compiled"] = Field(default="auto", description="'auto', 'python' or 'compiled'")
    sources: Annotated[tuple[SourceSettings, ...], BeforeValidator(_json)] = Field(
        default=_DEFAULT_SOURCES, description=f"a list of sources, each {_ONE_SOURCE}"
    )

    recall_hours: int = _whole(24, 0, 720, "hours")
    recall_bytes: int | None = Field(default=None, ge=0, description="a whole number of bytes")

    listen_patterns: Annotated[tuple[str, ...], BeforeValidator(_json)] = Field(
        default=("enigma:notifications:*",), min_length=1, description="a list of PubSub patterns, one or more"
    )
    listen_ignore: Annotated[tuple[str, ...], BeforeValidator(_json)] = Field(
        default=(), description='a list like ["agents/stats", "campaigns/dial_preview"]'
    )

    export_url: str = Field(default="./lake", min_length=1, description="a folder, or an s3://, gs:// or abfs:// URL")
    export_grace_minutes: int = _whole(60, 0, 1_440, "minutes")
    lake_history_days: int = _whole(7, 0, 36_500, "days")
    lake_table: Annotated[Literal["iceberg"] | None, BeforeValidator(_unset)] = Field(
        default=None, description="'iceberg', or nothing"
    )
    lake_file_mode: Annotated[int, BeforeValidator(_file_mode)] = Field(default=0o640, description=_A_FILE_MODE)
    keep_days: int | None = Field(default=None, ge=1, le=36_500, description="a whole number of days from 1 to 36500")

    forget_key: SecretStr | None = Field(default=None, min_length=32, description="a secret of 32 characters or more")

    http: Annotated[str, AfterValidator(_http)] = Field(default="127.0.0.1:9464", description="host:port, or off")
    web: Annotated[str, AfterValidator(_web)] = Field(default="127.0.0.1:8080", description="host:port")
    web_hosts: Annotated[tuple[str, ...], BeforeValidator(_no_names), AfterValidator(_host_names)] = Field(
        default=(), description='a list of names like ["wall.example.com"]'
    )
    web_token: Annotated[
        Annotated[SecretStr, Field(min_length=16), AfterValidator(_token)] | None, BeforeValidator(_unset)
    ] = Field(default=None, description="a secret of 16 characters or more")

    @property
    def http_address(self) -> tuple[str, int] | None:
        """Host and port of metrics and health; None if they are off."""
        return None if self.http == "off" else _host_and_port(self.http)

    @property
    def web_address(self) -> tuple[str, int]:
        """Host and port of the wall."""
        return _host_and_port(self.web)

    @property
    def web_names(self) -> set[str]:
        """The hosts by which browsers may call it, in lower case, without a port."""
        host = self.web_address[0]
        own = f"[{host}]" if ":" in host else host
        return {name.lower() for name in ("localhost", "127.0.0.1", "[::1]", own, *self.web_hosts)}

    @property
    def server(self) -> str:
        """The name by which the archive knows this Redis: `redis_name`, or host, port and database of the URL."""
        return self.redis_name or urls.server_name(self.redis_url.get_secret_value())

    @property
    def inbox_url(self) -> str:
        """`redis_url` with the CA file, for `etl.inbox`; password included."""
        url = self.redis_url.get_secret_value()
        return urls.with_options(url, {"ssl_ca_certs": self.redis_ca_file}) if self.redis_ca_file else url

    @property
    def sqlalchemy_url(self) -> str:
        """`database_url` with the CA file, for SQLAlchemy with psycopg 3; password included."""
        return f"postgresql+psycopg://{self._database}"

    @property
    def of_the_lake(self) -> "Settings":
        """The same for who moves days between Postgres and the lake: `database_url` is the keeper's."""
        return self.model_copy(update={"database_url": self.lake_database_url}) if self.lake_database_url else self

    @property
    def of_the_wall(self) -> "Settings":
        """The same for who only looks: `database_url` is that of reports."""
        return self.model_copy(update={"database_url": self.web_database_url}) if self.web_database_url else self

    @property
    def libpq_url(self) -> str:
        """`sqlalchemy_url` for libpq itself."""
        return f"postgresql://{self._database}"

    @property
    def _database(self) -> str:
        """Who names a CA wants the server's certificate to be looked at: libpq alone would take none for an answer."""
        url = self.database_url.get_secret_value()
        if self.database_ca_file:
            url = urls.with_options(url, {"sslrootcert": self.database_ca_file})
        if "sslrootcert" in urls.split(url).options:
            url = urls.with_options(url, {"sslmode": "verify-full"})
        return urls.of_libpq(url)

    @field_validator("redis_ca_file")
    @classmethod
    def _redis_has_tls(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        url = info.data.get("redis_url")
        if path and url:
            parts = urls.split(url.get_secret_value())
            if parts.scheme not in urls.TLS_SCHEMES:
                raise ValueError("goes with a rediss:// or rediss+sentinel:// URL only: others have no TLS")
            if "ssl_ca_certs" in parts.options:
                raise ValueError("is given, and ssl_ca_certs in the URL too: name the file once")
        return path

    @field_validator("database_ca_file")
    @classmethod
    def _database_has_tls(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        for url in filter(None, map(info.data.get, _DATABASE_URLS) if path else ()):
            options = urls.split(url.get_secret_value()).options
            if options.get("sslmode", ["verify-full"])[-1] not in _VERIFYING:
                raise ValueError(
                    "goes with sslmode=verify-full only, which it brings along: leave sslmode out of the URL"
                )
            if "sslrootcert" in options:
                raise ValueError("is given, and sslrootcert in the URL too: name the file once")
        return path

    @field_validator("redis_cluster")
    @classmethod
    def _cluster_is_reachable(cls, cluster: bool, info: ValidationInfo) -> bool:
        url = info.data.get("redis_url")
        if cluster and url and not url.get_secret_value().startswith(("redis://", "rediss://")):
            raise ValueError("goes with a redis:// or rediss:// URL only")
        if cluster and info.data.get("redis_name", "wrong") is None:
            raise ValueError(
                f"needs {PREFIX}REDIS_NAME beside it: nodes come and go, so give the cluster a name that stays, like"
                " dialler"
            )
        return cluster

    @field_validator("sources")
    @classmethod
    def _sources_fit_together(cls, sources: tuple[SourceSettings, ...]) -> tuple[SourceSettings, ...]:
        lists = [(source.key, source.forward_to) for source in sources]
        problems = [*clashes(lists)] if sources else ["is empty: there would be nothing to load"]
        if problems:
            raise ValueError("\n".join(problems))
        return sources

    @field_validator("listen_ignore")
    @classmethod
    def _pairs(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        for pair in pairs:
            kind, _, sub_type = pair.partition("/")
            if not kind or not sub_type:
                raise ValueError(f"has {pair!r}, which isn't a kind and a type like agents/stats")
        return pairs


_FIELD_OF = {f"{PREFIX}{field}".upper(): field for field in Settings.model_fields}
_WRONG = {
    "missing": " is missing:",
    "greater_than_equal": " is too small:",
    "less_than_equal": " is too large:",
    "string_too_short": " is empty:",
}


def load(config: Path | None, environ: Mapping[str, str]) -> Settings:
    """Settings from the TOML file `config` (or the one that ETL_CONFIG names) and from `environ`, which wins.

    Raises ConfigurationError with one line for every problem, each under the name that the operator wrote. The text
    of a value isn't quoted: it may hold a password, or be one that was pasted into the wrong place.
    """
    if config is None and environ.get(CONFIG_VARIABLE):
        config = Path(environ[CONFIG_VARIABLE])
    table = _read(config) if config else {}
    ours = [name for name in environ if name.startswith(PREFIX)]
    problems = [
        *_unknown(ours, (CONFIG_VARIABLE, *_FIELD_OF)),
        *_unknown(table, Settings.model_fields, f" in {config}"),
    ]

    environment = {field: environ[name] for name, field in _FIELD_OF.items() if name in environ}
    known = {field: value for field, value in table.items() if field in Settings.model_fields}
    try:
        settings = Settings(**(known | environment))
    except ValidationError as error:
        for each in error.errors(include_input=False, include_url=False):
            problems += _problems(each, environ, config)
    if problems:
        raise WrongSettings(problems)
    return settings


def _read(config: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(config.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError("ETL-108", f"settings file {config} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError("ETL-109", f"settings file {config} isn't UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError("ETL-110", f"settings file {config} isn't TOML: {error}") from None


def _unknown(names: Iterable[str], known: Collection[str], where: str = "") -> Iterator[ConfigurationError]:
    for name in names:
        if name not in known:
            yield ConfigurationError("ETL-101", f"{name}{where} is unknown{_meant(name, known)}")


def _meant(name: str, known: Iterable[str]) -> str:
    bare = {each.removeprefix(PREFIX).lower(): each for each in known}  # a shared prefix would make all names alike
    closest = difflib.get_close_matches(name.removeprefix(PREFIX).lower(), bare, n=1)
    return f": did you mean {bare[closest[0]]}?" if closest else ""


def _problems(error: ErrorDetails, environ: Collection[str], config: Path | None) -> Iterator[ConfigurationError]:
    """One of pydantic's errors as sentences about the setting as the operator wrote it."""
    field, *inner = error["loc"]
    variable = PREFIX + str(field).upper()
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in inner)
    name = f"{variable}{path}" if variable in environ else f"{field}{path} in {config}"
    if error["type"] == "value_error":  # one of our own validators
        for line in str(error["ctx"]["error"]).splitlines():
            yield _refused(str(field), f"{name} {line}")
    elif error["type"] == "extra_forbidden":
        yield ConfigurationError("ETL-101", f"{name} is unknown{_meant(str(inner[-1]), SourceSettings.model_fields)}")
    else:
        wrong = _WRONG.get(error["type"], "")
        yield ConfigurationError("ETL-102", f"{name}{wrong} must be {_allowed(str(field), inner)}")


def _refused(field: str, text: str) -> ConfigurationError:
    """By one of our own validators."""
    match field:
        case "redis_url" | "database_url" | "lake_database_url" | "web_database_url":
            return ConfigurationError("ETL-104", text)
        case "sources":
            return ConfigurationError("ETL-105", text)
        case "redis_ca_file" | "database_ca_file":
            return ConfigurationError("ETL-106", text)
        case "redis_name" | "redis_cluster":
            return ConfigurationError("ETL-107", text)
        case _:
            return ConfigurationError("ETL-103", text)


def _allowed(field: str, inner: list[int | str]) -> str | None:
    if not inner:
        return Settings.model_fields[field].description
    attribute = inner[-1]
    return SourceSettings.model_fields[attribute].description if isinstance(attribute, str) else _ONE_SOURCE
