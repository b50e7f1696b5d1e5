"""Addresses to listen at."""

import socket

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
