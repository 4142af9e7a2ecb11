"""An outbox for tests that have no event loop."""

from cloudcrest.gateway.outbox import Outbox, Write


class AtOnce(Outbox):
    """What is put into it is written."""

    def put(self, write: Write, data: bytes) -> None:
        write(data)
