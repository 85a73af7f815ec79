"""Object stores that are not AWS's, over http and over https."""

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography.x509 import IPAddress

from predictbench_assets.settings import all_variables
from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.kit.certificates import self_signed
from predictbench_assets_tests.kit.other_store import OpenArea, OtherStore, settings_for


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of ours nor of AWS's libraries. A request is made once, unless a test wants otherwise."""
    for name in (*all_variables(), "AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREDICTBENCH_ENV_FILE", "")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for this machine that vouches for itself, with its key."""
    return self_signed(tmp_path_factory.mktemp("certificate") / "store.pem", IPAddress(ip_address("127.0.0.1")))


@pytest.fixture(scope="session")
def stores(certificate: Path) -> Iterator[dict[str, OtherStore]]:
    """A strict store over http and one over https; one address each, since a client takes a while to be made."""
    made = {"http": OtherStore(), "https": OtherStore(certificate)}
    yield made
    for store in made.values():
        store.close()


@pytest.fixture(params=["http", "https"])
def other_store(
    request: pytest.FixtureRequest,
    stores: dict[str, OtherStore],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> OtherStore:
    """An empty store that is well, over http and over https."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    store = stores[request.param]
    store.forget()
    return store


@pytest.fixture
def plain_store(stores: dict[str, OtherStore]) -> OtherStore:
    """An empty store that is well, over http."""
    stores["http"].forget()
    return stores["http"]


@pytest.fixture
def open_area() -> OpenArea:
    """The staging area that a store's settings lead to, some of them replaced."""

    def opened(store: OtherStore, **replaced: str) -> StagingArea:
        settings = settings_for(store, **replaced)
        return StagingArea(settings.staging, settings.staging_options)

    return opened
