"""What has failed waits a moment."""

from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.pauses import Pauses


def test_what_has_failed_waits_its_pause_and_nothing_else_does() -> None:
    clock = ManualClock()
    pauses = Pauses(clock, 1.0)
    assert "a" not in pauses
    pauses.begin("a")
    assert "a" in pauses
    assert "b" not in pauses
    clock.advance(0.9)
    pauses.begin("b")
    clock.advance(0.2)
    assert "a" not in pauses
    assert "b" in pauses
