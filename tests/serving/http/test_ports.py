"""Addresses to listen at."""

import socket
import subprocess
import sys

import pytest

from mirepoix.models.errors import Refused
from mirepoix.serving.http.ports import free_port, listening, loopback


def test_a_port_in_use_or_a_host_of_another_machine_is_refused_in_one_line():
    with listening("127.0.0.1", 0) as taken, pytest.raises(Refused, match=r"is in use; .* --port"):
        listening("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(Refused, match=r"cannot listen on 192\.0\.2\.1"):
        listening("192.0.2.1", 8000)


def test_a_socket_listens_before_anything_accepts():
    with listening("127.0.0.1", free_port("127.0.0.1")) as listener, socket.create_connection(listener.getsockname(), timeout=5):
        pass


def test_loopback_hosts_are_told_from_others():
    assert loopback("127.0.0.1") and loopback("127.0.0.2") and loopback("localhost") and loopback("::1")
    assert not loopback("0.0.0.0") and not loopback("10.0.0.1") and not loopback("example")


def test_a_server_may_have_as_many_connections_as_the_system_lets_it():
    code = """
import resource
from mirepoix.serving.http.ports import allow_connections
resource.setrlimit(resource.RLIMIT_NOFILE, ({}, {}))
allow_connections()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    for before, after in (((100, 300), "300 300"), ((250, 250), "250 250")):
        found = subprocess.run([sys.executable, "-c", code.format(*before)], capture_output=True, text=True, check=True).stdout
        assert found.split() == after.split()
