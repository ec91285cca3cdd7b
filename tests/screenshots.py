"""`make screenshots`: the pictures in docs/, taken of real pages by Chromium. The calls are those of the simulated
dialler, on private servers: the report's are the same each time, the wall's are today's. Chromium is Debian's, and
is no part of the installation."""

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from etl.lab.servers.ports import Port
from etl.lab.servers.private import PrivatePostgres, PrivateRedis
from tests.world import eventually

DOCS = Path(__file__).parents[1] / "docs"
UNTIL = "2026-11-23T00:00:00"
DAYS = ("--from", "2026-11-17", "--to", "2026-11-22")
CALLS = ("--cdrs", "20000", "--days", "7", "--dialect", "both", "--duplicates", "0.03", "--until", UNTIL)
TODAY = ("--cdrs", "6000", "--heard", "--dialect", "both")
NAMES = Path(__file__).with_name("fixtures") / "names.csv"
SIZE = "1000,1020"  # pixels: the figures' tiles and the first charts
# Nothing may be fetched, nor does Chromium call home.
CHROMIUM = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars", f"--window-size={SIZE}"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
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
            take(chromium, folder, page.as_uri(), DOCS / "report.png")
            take_wall(chromium, folder, environment)


def take_wall(chromium: str, folder: Path, environment: dict[str, str]) -> None:
    """Of today, as far as it is by now."""
    port = Port()
    wall = {**environment, "ETL_REDIS_NAME": "simulator", "ETL_WEB": f"127.0.0.1:{port.number}"}
    for arguments in (
        ("simulate", *TODAY),
        ("names", "import", str(NAMES)),
        ("run",),
        ("rollup",),
    ):
        subprocess.run([sys.executable, "-m", "etl.cli", *arguments], env=wall, cwd=folder, check=True)
    serving = subprocess.Popen([sys.executable, "-m", "etl.cli", "serve"], env=wall, cwd=folder)
    try:
        address = f"http://{wall['ETL_WEB']}/"
        eventually(lambda: _answers(address))
        take(chromium, folder, address, DOCS / "wall.png")
    finally:
        serving.terminate()
        serving.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:  # our own
            return bool(answer.status == 200)
    except OSError:
        return False


def take(chromium: str, folder: Path, address: str, picture: Path) -> None:
    command = [chromium, *CHROMIUM, f"--user-data-dir={folder / 'profile'}", f"--screenshot={picture}", address]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    print(f"{picture.relative_to(DOCS.parent)}: {picture.stat().st_size:,} bytes")


def _without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("ETL_")}


if __name__ == "__main__":
    main()
