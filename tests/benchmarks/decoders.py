"""Which decoders there are to be measured: Python's always, the compiled one where it was built."""

from importlib import import_module
from importlib.util import find_spec

PYTHONS = {"decoder": "python"}  # a setting


def is_compiled() -> bool:
    """Unless told otherwise, loaders decode by the compiled one."""
    return find_spec("etl.wire.packed") is not None and import_module("etl.wire.packed").packer("auto") is not None
