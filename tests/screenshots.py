"""`make screenshots`: the pictures in docs/, taken of real pages by Chromium. The calls are those of the simulated
dialler, the same each time, on private servers. Chromium is Debian's, and is no part of the installation."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from etl.lab.servers.private import PrivatePostgres, PrivateRedis

DOCS = Path(__file__).parents[1] / "docs"
UNTIL = "2026-11-23T00:00:00"
DAYS = ("--from", "2026-11-17", "--to", "2026-11-22")
CALLS = ("--cdrs", "20000", "--days", "7", "--dialect", "both", "--duplicates", "0.03", "--until", UNTIL)
SIZE = "1000,1020"  # pixels: the figures' tiles and the first charts
# Nothing may be fetched, nor does Chromium call home.
CHROMIUM = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND"),
    *("--hide-scrollbars", f"--window-size={SIZE}"),
)


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium isn't installed: on Debian, apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="etl-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres is another user where this one is root
        page = folder / "report.html"
        with PrivatePostgres(folder / "postgres") as postgres, PrivateRedis(folder / "redis") as redis:
            environment = {**_without_settings(), "ETL_REDIS_URL": redis.url, "ETL_DATABASE_URL": postgres.url}
            for arguments in (
                ("db", "upgrade"),
                ("simulate", *CALLS),
                ("run",),
                ("rollup",),
                ("report", "campaign", *DAYS, "--format", "html", "--output", str(page)),
            ):
                subprocess.run([sys.executable, "-m", "etl.cli", *arguments], env=environment, cwd=folder, check=True)
        picture = DOCS / "report.png"
        command = [
            chromium,
            *CHROMIUM,
            f"--user-data-dir={folder / 'profile'}",
            f"--screenshot={picture}",
            page.as_uri(),
        ]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        print(f"{picture.relative_to(DOCS.parent)}: {picture.stat().st_size:,} bytes")


def _without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("ETL_")}


if __name__ == "__main__":
    main()
