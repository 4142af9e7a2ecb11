"""Requests of batches: they end as if their client had stayed, and one id does not run twice at a time.

The content service may die while one of them runs. It asks again under the same id, of which the ledger takes one
event: were the first run cut short and charged for its part, the second, whole one would be free.
"""

from cloudcrest.gateway.account import Account
from cloudcrest.gateway.behalf import STILL_RUNS
from cloudcrest.gateway.request import Responder
from cloudcrest.kernel.errors import LimitExceeded

_RETRY_SECONDS = 1.0
_PRUNED_FROM = 64


class Detached:
    """A responder that does not hear of its client's end. What it says then goes nowhere."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self.client_paused = responder.client_paused
        self.client_resumed = responder.client_resumed
        self.deadline_passed = responder.deadline_passed
        self.body_data = responder.body_data
        self.body_end = responder.body_end

    def client_gone(self) -> None:
        """Whole answers alone are asked for, so nothing of it piles up."""


class BatchAccounts:
    """The accounts of batches' requests that are under way at this worker."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}

    def check(self, request_id: str) -> None:
        """Raises `LimitExceeded` where this request runs already."""
        account = self._accounts.get(request_id)
        if account is not None and not account.is_ended:
            raise LimitExceeded("this request runs already", code=STILL_RUNS, retry_after_seconds=_RETRY_SECONDS)

    def add(self, account: Account) -> None:
        """One more; bounded by what the replicas' slots let in."""
        if len(self._accounts) >= _PRUNED_FROM:
            self._accounts = {each: known for each, known in self._accounts.items() if not known.is_ended}
        self._accounts[account.id] = account
