import httpx2
import pytest

from emmr.calls import Retries, retry_after


def test_delay_is_at_least_the_retry_after_and_partly_random() -> None:
    busy = httpx2.Response(429, headers={"Retry-After": "2"})
    delays = [Retries(3, 30.0).delay(1, busy) or 0.0 for _ in range(20)]
    assert all(2 <= delay <= 2.5 for delay in delays)
    assert len(set(delays)) > 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), ("7", 7.0), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, expected: float | None) -> None:
    assert retry_after(value) == expected
