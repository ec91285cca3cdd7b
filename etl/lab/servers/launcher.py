"""Turns itself into a private server: drops root, ties the server's life to ours, executes it under the same pid.

Run as a script of its own (`python -I -S launcher.py PARENT SIGNAL UID GID ALIAS PROGRAM [ARGUMENT…]`), because none
of this may be done between fork and exec of a process with threads, and because the order matters: Python starts while
it can still read its own files, the user changes next, and only then can the death signal be asked for (changing the
user would clear it). What to run and when to stop it is decided in `process`.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

NOT_GIVEN = -1
PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
CANNOT_EXECUTE = 126  # the shell's exit code for a program that is there but can't be run


def main(parent: int, death_signal: int, uid: int, gid: int, alias: int, command: list[str]) -> None:
    """`parent` is the pid that must still be ours once the death signal is set; any id may be NOT_GIVEN."""
    if uid != NOT_GIVEN:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if alias != NOT_GIVEN:
        appear_as(alias)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("The process that wanted this server is gone.")
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):  # an ignored signal stays ignored across exec
        signal.signal(ignored_by_python, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606 (there is nothing here for a shell)


def appear_as(alias: int) -> None:
    """For a program that wants its account to have a name, when ours has none (a container's arbitrary uid).

    A user namespace of Linux shows us there as `alias`; to everyone else, on disk too, we stay who we are.
    """
    uid, gid = os.getuid(), os.getgid()
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    if unshare is None or unshare(CLONE_NEWUSER) != 0:
        sys.exit(f"The account {uid} has no name, and this system lends it none: add it to /etc/passwd.")
    Path("/proc/self/uid_map").write_text(f"{alias} {uid} 1")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"{alias} {gid} 1")


if __name__ == "__main__":
    try:
        parent, death_signal, uid, gid, alias = (int(number) for number in sys.argv[1:6])
        main(parent, death_signal, uid, gid, alias, sys.argv[6:])
    except OSError as error:
        print(f"can't run {sys.argv[6]}: {error}", file=sys.stderr)
        sys.exit(CANNOT_EXECUTE)
