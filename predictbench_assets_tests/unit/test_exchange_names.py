"""The names of exchanges, and which of them is a simulated one."""

import pytest

from predictbench_assets.exchange_names import exchange_label, exchange_name, is_simulated


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8765", "http://localhost", "http://[::1]:9/x", "http://u:p@127.0.0.1"]
)
def test_a_sandbox_on_this_machine_is_one_simulated_exchange_whatever_its_port(address: str) -> None:
    assert is_simulated(exchange_name(address))
    assert exchange_label(exchange_name(address)) == "localhost (simulated)"


@pytest.mark.parametrize("address", ["https://gamma-api.polymarket.com", "https://Localhost.example:8443"])
def test_another_host_is_not(address: str) -> None:
    assert not is_simulated(exchange_name(address))
    assert exchange_label(exchange_name(address)) == exchange_name(address)


def test_nothing_stored_is_not_simulated() -> None:
    assert not is_simulated(None)
