"""Durations, sizes and foreign text, for people to read."""


def duration(seconds: float) -> str:
    """In its two largest units."""
    whole = int(seconds)
    if whole < 1:
        return "under 1 s"
    for unit, name, smaller, smaller_name in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit:
            return f"{whole // unit:,} {name} {whole % unit // smaller} {smaller_name}"
    return f"{whole} s"


def size(number: int) -> str:
    """Of bytes."""
    return f"{number / 1024**3:,.1f} GiB" if number >= 1024**3 else f"{number / 1024**2:,.1f} MiB"


def printable(text: str) -> str:
    """Control and invisible characters are escaped, so that a terminal obeys none; line breaks stay."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def named(error: BaseException) -> str:
    """On one line, an error of another library's with its kind: its words alone may say little, or nothing."""
    return " ".join(f"{type(error).__name__}: {error}".split())
