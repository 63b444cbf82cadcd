"""One leader at a time, by the database's clock, and a new term for every heir."""

import pytest

from service.control.elector import LEASE_SECONDS, Elector
from service.domain.errors import Unreachable
from tests.service.control.house import House


@pytest.fixture
def rival(house: House) -> Elector:
    return Elector(house.store, house.clock, "server-2")


def test_one_of_two_leads_for_as_long_as_it_renews(house: House, rival: Elector) -> None:
    term = house.elector.run()
    for _ in range(20):
        house.clock.advance(3)
        assert house.elector.run() == term
        assert rival.run() is None


def test_an_heir_leads_under_a_new_epoch_once_the_lease_is_over(
    house: House, rival: Elector
) -> None:
    first = house.elector.run()
    assert rival.run() is None
    house.clock.advance(LEASE_SECONDS + 1)
    second = rival.run()
    assert first is not None
    assert second is not None
    assert second.epoch > first.epoch
    assert house.elector.run() is None


def test_who_resigns_is_followed_at_once(house: House, rival: Elector) -> None:
    house.elector.run()
    house.elector.resign()
    assert house.elector.term is None
    assert rival.run() is not None


def test_who_can_not_renew_stops_leading_and_asks_again_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unreachable("the database does not answer")

    house.elector.run()
    house.clock.advance(3)
    with monkeypatch.context() as patch:
        patch.setattr(house.store, "take_lead", away)
        with pytest.raises(Unreachable):
            house.elector.run()
    assert house.elector.term is None
    assert house.elector.run() is not None
