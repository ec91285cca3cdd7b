"""A telephone number, and who finds it in whatever spelling: nothing here is the program's own."""

import re
import unicodedata
from html import unescape
from itertools import product
from urllib.parse import unquote_plus

NUMBER, ABROAD = "07009123456", "+447009123456"
DIGITS = "009123456"  # the last nine of both
ANOTHER = "07009123457"


def read(text: str) -> str:
    """With every encoding undone, and without what may stand between digits."""
    for _ in range(4):
        text = re.sub(r"(?<!\\)\\++u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
        text = re.sub("[\ud800-\udbff][\udc00-\udfff]", lambda pair: _joined(pair[0]), text)
        text = unquote_plus(unescape(re.sub(r"=(3[0-9]|2[0-9A-F])", r"%\1", text)))
    text = "".join(str(int(each)) if each.isdecimal() else each for each in text)
    return re.sub(r"[\s()./\\-]", "", re.sub(r"forgotten:[0-9a-f]{16}", "#", text))


def _joined(pair: str) -> str:
    return pair.encode("utf-16-le", "surrogatepass").decode("utf-16-le")


# Of every script, the character for zero; its other digits follow.
ZEROS = [each for each in map(chr, range(0x110000)) if unicodedata.decimal(each, None) == 0]

# By number, and how it's written; and what stands before and after it.
NUMBERS = (NUMBER, ABROAD, "00447009123456", "7009123456")
WRITTEN = (
    "{}".format,
    lambda number: number.replace("9", "%39", 1),
    lambda number: "".join(f"%{ord(each):02x}" for each in number),
    lambda number: "".join(f"%25{ord(each):02X}" for each in number),
    lambda number: "".join(chr(0xFF10 + int(each)) if each.isdigit() else each for each in number),
    # each digit in another script
    lambda number: "".join(
        chr(ord(ZEROS[at * 7 % len(ZEROS)]) + int(each)) if each.isdigit() else each for at, each in enumerate(number)
    ),
    lambda number: "".join(f"={ord(each):02X}" for each in number),
    lambda number: f"{number[:5]} {number[5:8]}-{number[8:]}",
)
AROUND = ("{}", "ftp://rec/20261123{}.wav", "tel:{};x", "a{}99", "x?to={}&y=1")
SPELLED = [around.format(write(number)) for number, write, around in product(NUMBERS, WRITTEN, AROUND)]
