"""A telephone number, and who finds it in whatever spelling: nothing here is the program's own."""

import re
from html import unescape
from urllib.parse import unquote_plus

NUMBER, ABROAD = "07009123456", "+447009123456"
DIGITS = "009123456"  # the last nine of both
ANOTHER = "07009123457"


def read(text: str) -> str:
    """With every encoding undone, and without what may stand between digits."""
    for _ in range(4):
        text = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
        text = unquote_plus(unescape(text))
    text = "".join(str(int(each)) if each.isdecimal() else each for each in text)
    return re.sub(r"[\s()./\\-]", "", re.sub(r"forgotten:[0-9a-f]{16}", "#", text))
