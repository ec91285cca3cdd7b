"""A port is promised to one private server at a time, whichever process of ours chose it and however long it's down."""

import subprocess
import sys

from etl.lab.servers.ports import PORTS, Port

PROCESSES, EACH = 4, 300  # nearly half of all ports
_CHOOSE = f"""
import sys
from etl.lab.servers.ports import Port
held = [Port() for _ in range({EACH})]
print(*(port.number for port in held), flush=True)
sys.stdin.read()
"""


def test_given_processes_that_choose_at_once_then_no_port_is_anothers() -> None:
    command = [sys.executable, "-c", _CHOOSE]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    try:
        chosen = [number for each in started if each.stdout for number in each.stdout.readline().split()]
    finally:
        for each in started:
            each.communicate()

    assert len({*chosen}) == len(chosen) == PROCESSES * EACH


def test_given_a_port_that_is_let_go_then_it_can_be_had_again() -> None:
    held = [Port() for _ in range(len(PORTS) // 2)]
    held.clear()

    assert len([Port() for _ in range(len(PORTS) // 2)]) == len(PORTS) // 2
