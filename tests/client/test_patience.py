"""When to try again, and when not any more."""

import pytest

from bitsferry.client.patience import Patience
from bitsferry.protocol.errors import AccessDenied, Busy, NoProgress, TransportFailed

ERROR = TransportFailed()


def test_waits_double_up_to_half_a_minute() -> None:
    patience = Patience(1000, chance=lambda: 0.5)
    assert [patience.wait(ERROR, 0.0) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]


def test_waits_differ_by_chance() -> None:
    assert Patience(chance=lambda: 0.0).wait(ERROR, 0.0) == 0.75
    assert Patience(chance=lambda: 1.0).wait(ERROR, 0.0) == 1.25


def test_headway_starts_from_the_beginning() -> None:
    patience = Patience(10, chance=lambda: 0.5)
    patience.wait(ERROR, 0.0)
    patience.headway()
    assert patience.wait(ERROR, 100.0) == 1


def test_the_time_counts_from_the_first_error() -> None:
    patience = Patience(10)
    patience.wait(ERROR, 1000.0)
    with pytest.raises(TransportFailed):
        patience.wait(ERROR, 1010.0)


def test_the_last_wait_ends_with_patience() -> None:
    patience = Patience(10)
    patience.wait(ERROR, 0.0)
    assert patience.wait(ERROR, 9.9) == pytest.approx(0.1)


def test_a_server_that_names_a_time_is_believed() -> None:
    assert 40 <= Patience().wait(Busy(retry_after=40), 0.0) <= 41


@pytest.mark.parametrize("error", [AccessDenied(), NoProgress()])
def test_what_does_not_mend_itself_is_not_waited_for(error: AccessDenied | NoProgress) -> None:
    with pytest.raises(type(error)):
        Patience().wait(error, 0.0)


def test_no_patience_is_one_try() -> None:
    with pytest.raises(TransportFailed):
        Patience(0).wait(ERROR, 0.0)
