"""The demo nodes' repositories move with time, and a fleet that was compliant falls out of compliance by itself."""

from datetime import UTC, datetime, timedelta

import botocore.auth
import pytest

from fleetops import clock
from fleetops.endpoint.patch import catalogue
from tests.endpoint.patch.test_demo_nodes import of, online, run, state
from tests.support.clock import clock_file, following  # noqa: F401
from tests.support.endpoint import running_endpoint, until

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
platforms = pytest.mark.parametrize("platform", catalogue.PLATFORMS.values(), ids=catalogue.PLATFORMS)


@platforms
def test_each_month_brings_releases_and_takes_none_back(platform):
    for days in range(0, 400, 30):
        now = NOW + timedelta(days=days)
        before, after = catalogue.offers(platform, now), catalogue.offers(platform, now + timedelta(days=30))
        newest = {offer.name: offer for offer in before if offer.rank == 1}
        later = {offer.name: offer for offer in after if offer.rank == 1}
        fresh = [name for name, offer in later.items() if offer.version != newest[name].version]
        assert fresh and any(later[name].is_security for name in fresh)
        assert all(offer.released_at <= now for offer in before)
        assert {offer.version for offer in newest.values()} <= {offer.version for offer in after}


@platforms
def test_a_new_node_lacks_some_releases_and_has_versions_that_were_there(platform):
    had = catalogue.installed(platform, "any-machine", NOW)
    offers = {(offer.name, offer.version): offer for offer in catalogue.offers(platform, NOW)}
    behind = {
        name for name, version in had.items() if (offer := offers.get((name, version))) is not None and offer.rank > 1
    }
    assert behind and len(had) > 40
    ranks = {}
    for offer in offers.values():
        ranks.setdefault(offer.name, []).append(offer.rank)
    assert all(sorted(found) == list(range(1, len(found) + 1)) for found in ranks.values())


def test_a_node_that_is_compliant_is_not_a_month_later(tmp_path, following):  # noqa: F811
    with running_endpoint(tmp_path / "home", "demo", FLEETOPS_CLOCK_FILE=str(following)) as endpoint:
        clock.sign_by_this(botocore.auth)
        ssm = endpoint.client("ssm")
        node = endpoint.instance_id("pg-ledger-eu1b-2")
        until(lambda: node in online(ssm), seconds=60)
        run(ssm, [node], Operation="Install")
        row, patches = state(ssm, node)
        assert not of(patches, "MISSING") | of(patches, "INSTALLED_PENDING_REBOOT")
        clock.set_shift(following, jump=30 * 86_400)
        until(lambda: node in online(ssm), seconds=60)
        run(ssm, [node], Operation="Scan")
        later, patches = state(ssm, node)
        assert of(patches, "MISSING")
        assert later["OperationEndTime"] - row["OperationEndTime"] > timedelta(days=29)  # the node's time moved too
