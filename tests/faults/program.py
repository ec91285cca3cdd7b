"""How a process that was forked becomes an `etl` of its own."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from etl import cli


def become_etl(arguments: list[str], environment: dict[str, str], log: str, prepare: Callable[[], None]) -> NoReturn:
    """`prepare` is called when the environment is the program's."""
    with open(log, "wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    prepare()
    sys.argv = ["etl", *arguments]
    try:
        cli.main()
    except SystemExit as ended:
        os._exit(ended.code if isinstance(ended.code, int) else ended.code is not None)
    except BaseException:
        traceback.print_exc()
    os._exit(1)
