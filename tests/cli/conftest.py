"""What the tests of commands share."""

import signal

import pytest


@pytest.fixture(autouse=True, scope="module")
def _own_signals():
    """Commands take TERM over; the tests give it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
