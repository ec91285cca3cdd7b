"""Metadata files of an Iceberg table, as pyiceberg reads and writes them, on the lake's own ground: with its
credentials and time limits, each whole or not there at all, and none that the books don't know before it begins."""

import io
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from pyiceberg.io import FileIO, InputFile, OutputFile
from pyiceberg.typedef import EMPTY_DICT, Properties

from etl.errors import LakeError
from etl.lake.target import Target

# Of a catalog, by which pyiceberg makes a `FileIO` of its own: the class, and what that is to work for.
PROPERTIES = ("py-io-impl", "etl.files")


class TableFiles:
    """Those of one change of a table; `written` are the names of what it wrote. Methods may raise `LakeError`, and
    what `begin` raises, which hears of each name first."""

    def __init__(self, target: Target, begin: Callable[[str], None]) -> None:
        self.target = target
        self.written: list[str] = []
        self._begin = begin

    def properties(self) -> dict[str, Any]:
        return dict(zip(PROPERTIES, (f"{__name__}.{TableIO.__name__}", self), strict=True))

    def name(self, location: str) -> str:
        """In the lake."""
        root = f"{self.target.uri}/"
        if not location.startswith(root):
            raise LakeError(
                "ETL-526",
                f"the Iceberg table has {location}, and the lake is at {self.target.uri}: was it moved?"
                " `etl lake publish --rebase` begins the table anew there",
            )
        return location.removeprefix(root)

    def read(self, location: str) -> bytes:
        name = self.name(location)
        content = self.target.read(name)
        if content is None:
            raise LakeError(
                "ETL-527",
                f"{self.target.path(name)} is missing, and the Iceberg table needs it: was Postgres set back?"
                " `etl lake publish --rebase` begins the table anew",
            )
        return content

    def write(self, location: str, content: bytes) -> None:
        name = self.name(location)
        self._begin(name)
        self.written.append(name)
        self.target.write_once(name, content)

    def remove(self, location: str) -> None:
        self.target.remove(self.name(location))


class TableIO(FileIO):
    """pyiceberg's way to `TableFiles`."""

    def __init__(self, properties: Properties = EMPTY_DICT) -> None:
        super().__init__(properties)
        self._files: Any = properties[PROPERTIES[1]]

    def new_input(self, location: str) -> InputFile:
        return _Input(location, self._files)

    def new_output(self, location: str) -> OutputFile:
        return _Output(location, self._files)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        self._files.remove(location if isinstance(location, str) else location.location)


class _Input(InputFile):
    def __init__(self, location: str, files: TableFiles) -> None:
        super().__init__(location)
        self._files = files

    def __len__(self) -> int:
        return len(self._files.read(self.location))

    def exists(self) -> bool:
        return self._files.target.exists(self._files.name(self.location))

    def open(self, seekable: bool = True) -> Any:
        return io.BytesIO(self._files.read(self.location))


class _Output(OutputFile):
    def __init__(self, location: str, files: TableFiles) -> None:
        super().__init__(location)
        self._files = files
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def exists(self) -> bool:
        return self._files.target.exists(self._files.name(self.location))

    def to_input_file(self) -> InputFile:
        return _Input(self.location, self._files)

    def create(self, overwrite: bool = False) -> Any:
        return _Stream(self)

    def complete(self, content: bytes) -> None:
        self._length = len(content)
        self._files.write(self.location, content)


class _Stream(io.BytesIO):
    """Becomes the file when it's closed, unless what wrote it failed."""

    def __init__(self, output: _Output) -> None:
        super().__init__()
        self._output = output

    def close(self) -> None:
        if not self.closed:
            self._output.complete(self.getvalue())
        super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            super().close()
        self.close()
