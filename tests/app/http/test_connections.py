import pytest

from app.http.connections import COUNTERS, SPARE_CONNECTIONS, AddressCounters, Connections, network_of


class Connection:
    """A connection that notes whether it was closed."""

    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def test_an_address_may_hold_its_share_only() -> None:
    limits = Connections(total=10, per_address=2)
    first, second = Connection(), Connection()
    assert limits.open(first, "192.0.2.1") is None
    assert limits.open(second, "192.0.2.1") is None
    refused = limits.open(Connection(), "192.0.2.1")
    assert refused is not None
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert limits.open(Connection(), "192.0.2.2") is None
    limits.close(first)
    assert limits.open(Connection(), "192.0.2.1") is None


def test_the_total_holds_for_all_addresses() -> None:
    limits = Connections(total=2)
    connections = [Connection() for _ in range(3)]
    assert [limits.open(connection, f"192.0.2.{n}") is None for n, connection in enumerate(connections)] == [
        True,
        True,
        False,
    ]
    limits.close(connections[2])  # a spare one: it frees no place
    assert limits.open(Connection(), "192.0.2.9") is not None


def test_a_trusted_proxy_and_a_unix_socket_have_no_share() -> None:
    limits = Connections(per_address=1, is_proxy=lambda host: host == "10.0.0.1")
    assert all(limits.open(Connection(), "10.0.0.1") is None for _ in range(3))
    assert all(limits.open(Connection(), None) is None for _ in range(3))


def test_the_oldest_spare_connection_is_closed_and_counted() -> None:
    refused: list[str] = []
    limits = Connections(total=0, on_refusal=refused.append)
    spare = [Connection() for _ in range(SPARE_CONNECTIONS + 2)]
    for connection in spare:
        limits.open(connection, "192.0.2.1")
    assert [connection.aborted for connection in spare] == [True, True, *[False] * SPARE_CONNECTIONS]
    assert refused == ["too-many-connections"] * 2


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("testclient", "testclient", True),
    ],
)
def test_an_ipv6_network_is_one_address(first: str, second: str, same: bool) -> None:
    assert (network_of(first) == network_of(second)) is same


def test_addresses_share_a_fixed_number_of_counters() -> None:
    counters = AddressCounters()
    used = {counters.of(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(20 * COUNTERS)}
    assert COUNTERS / 2 < len(used) <= COUNTERS
