"""Relaying images that a provider makes: charged by the image, as many as came."""

import msgspec

from cloudcrest.gateway.engine_words import images_of
from cloudcrest.gateway.parts import Parts
from cloudcrest.gateway.relay import PlainRelay
from cloudcrest.kernel.usage import Outcome, Usage


class ImageRelay(PlainRelay):
    """One request's images, of which `wanted` were asked for."""

    def __init__(self, parts: Parts, wanted: int) -> None:
        super().__init__(parts)
        self._wanted = wanted

    def start(self) -> None:
        replica = self._call.pick()
        self._account.open(replica.name, self._estimate())
        self._call.start()

    def _usage_of(self, body: bytes) -> Usage:
        try:
            made = len(images_of(body).data)
        except (msgspec.DecodeError, RecursionError):
            return self._estimate()
        return Usage(0, 0, images=min(made, self._wanted))

    def _settle_uncounted(self, outcome: Outcome) -> None:
        """The provider had the request and makes them, whoever waits for them."""
        self._account.end(outcome, self._estimate())

    def _estimate(self) -> Usage:
        return Usage(0, 0, is_estimate=True, images=self._wanted)
