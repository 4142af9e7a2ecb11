"""What a request may cost at most, and of whom: prices and budgets as the feed tells them, ready for the hot path."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from cloudcrest.billing.api import RATE_CARD_KIND, RateCard, RateCardsDocument
from cloudcrest.billing.periods import BUDGET_KIND, BudgetDocument, bounds, microseconds, scope_at
from cloudcrest.billing.tariff import Tariff, tariff_of
from cloudcrest.gateway.budget import SKEW, Wallet
from cloudcrest.gateway.fields import TEXT_BODIES, ChatBody
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.purse import Beside, Claim, Pocket
from cloudcrest.identity.api import KeyDocument
from cloudcrest.infra.feed import FeedState
from cloudcrest.kernel.errors import LimitExceeded
from cloudcrest.kernel.usage import Tier
from cloudcrest.serving.api import RouteDocument

MAX_PLANS: Final = 50_000
OVERHEAD_TOKENS: Final = 64
"""What a chat template may add to the bytes of a body: its first and last words, a default system message."""
TOOLS_OVERHEAD_TOKENS: Final = 1_024
"""What it may add to explain that there are tools."""
IMAGE_TOKENS: Final = 16_384
"""What an image may be beyond its bytes: as many as common models make of their largest."""
FREE = Tariff(0, 0, 0)
_FOREVER: Final = 2**61  # compiled, a larger number is an object
_TEXT_BODIES: Final = TEXT_BODIES  # compiled, a name that is not Final is looked up each time
_log = structlog.get_logger(__name__)


@dataclass
class _Price:
    """What holds for a model, currency and tier until the next card's moment. No card: `rate_card_id` is empty."""

    tariff: Tariff
    rate_card_id: str
    since: int
    until: int


@dataclass
class _Plan:
    """The scopes of a key's requests until one of their periods is over. `is_strict`: not all are balances.

    `prices`: those of its currency that are known, by model; `batch_prices`: in batches.
    """

    pockets: tuple[Pocket, ...]
    currency: str
    is_strict: bool
    since: int
    until: int
    prices: dict[str, _Price]
    batch_prices: dict[str, _Price]


class Claims:
    """Makes claims. `longest_answer`: microseconds that a request may take."""

    def __init__(self, wallet: Wallet, longest_answer: int) -> None:
        self._wallet = wallet
        self._longest = longest_answer + SKEW
        self._known: dict[str, tuple[object, BudgetDocument]] = {}
        self._budgets: dict[str, list[BudgetDocument]] = {}
        self._cards: dict[tuple[str, str], tuple[RateCard, ...]] = {}
        self._plans: dict[str, _Plan] = {}
        self._prices: dict[tuple[str, Tier], dict[str, _Price]] = {}

    def update(self, state: FeedState, kinds: set[str]) -> None:
        """Takes over the documents of these kinds."""
        if BUDGET_KIND in kinds:
            self._plans = {}
            self._budgets = {}
            self._known = _decoded(state, BUDGET_KIND, BudgetDocument, self._known)
            for _, document in self._known.values():
                self._budgets.setdefault(document.organization_id, []).append(document)
        if RATE_CARD_KIND in kinds:
            self._plans = {}
            self._prices = {}
            self._cards = {}
            for _, document in _decoded(state, RATE_CARD_KIND, RateCardsDocument, {}).values():
                self._cards[document.currency, document.model] = document.cards

    def of(
        self, key: KeyDocument, parsed: Parsed, route: RouteDocument, now: int, tier: Tier = "standard"
    ) -> Claim | None:
        """What a request that begins now claims; None where nothing holds it. Raises `LimitExceeded` where a budget
        does and the model has no price.
        """
        held = self._held(key, route.model_name, now, tier)
        if held is None:
            return None
        plan, price = held
        input_tokens = parsed.size_bytes + OVERHEAD_TOKENS + parsed.images * IMAGE_TOKENS
        prompts = len(parsed.prompts) or 1
        branches = parsed.choices * prompts
        output_tokens, is_open = 0, False
        body = parsed.body
        if isinstance(body, _TEXT_BODIES):
            context_tokens = route.context_tokens
            if isinstance(body, ChatBody) and body.tools:
                input_tokens += TOOLS_OVERHEAD_TOKENS
            if route.engine != "upstream":
                input_tokens = min(input_tokens, context_tokens * prompts)
            max_tokens = parsed.max_tokens
            is_open = max_tokens is None
            output_tokens = branches * (context_tokens if max_tokens is None else max_tokens)
        return Claim(
            plan.pockets,
            price.tariff,
            price.rate_card_id,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            branches=branches,
            is_open=is_open and bool(price.rate_card_id),
            until=now + self._longest,
        )

    def of_other(self, key: KeyDocument, model_name: str, most: Beside, now: int) -> Claim | None:
        """The same for a request that is not counted in tokens, and uses `most` at most."""
        held = self._held(key, model_name, now, "standard")
        if held is None:
            return None
        plan, price = held
        return Claim(
            plan.pockets,
            price.tariff,
            price.rate_card_id,
            input_tokens=0,
            output_tokens=0,
            branches=1,
            is_open=False,
            until=now + self._longest,
            beside=most,
        )

    def has_price(self, model: str) -> bool:
        """Whether there is a rate card of it, in any currency."""
        return any(name == model for _, name in self._cards)

    def _held(self, key: KeyDocument, model: str, now: int, tier: Tier) -> tuple[_Plan, _Price] | None:
        """What holds a key's request for a model, and its price; None: nothing does. Raises `LimitExceeded`."""
        plan = self._plans.get(key.id)
        if plan is None or not plan.since <= now < plan.until:
            plan = self._plan(key, now)
        if not plan.pockets:
            return None
        prices = plan.prices if tier == "standard" else plan.batch_prices
        price = prices.get(model)
        if price is None or not price.since <= now < price.until:
            price = self._price(plan.currency, model, now, tier)
            if len(prices) >= MAX_PLANS:
                prices.clear()
            prices[model] = price
        if not price.rate_card_id and plan.is_strict:
            raise LimitExceeded(
                f"'{model}' has no price in {plan.currency}, so its use cannot be held to a budget",
                code="insufficient_quota",
                hint="an operator sets prices; or use another model",
            )
        return plan, price

    def _plan(self, key: KeyDocument, now: int) -> _Plan:
        documents = [
            document
            for document in self._budgets.get(key.organization_id, ())
            if document.covers(key.organization_id, key.project_id, key.id)
        ]
        since, until = 0, _FOREVER
        pockets: list[Pocket] = []
        for document in documents:
            start, end = bounds(document.period, now)
            since, until = max(since, start), min(until, end)
            scope = scope_at(document.id, document.period, now)
            pockets.append(self._wallet.pocket(scope, _name(document), end))
        if len(self._plans) >= MAX_PLANS:
            self._plans = {}
        currency = documents[0].currency if documents else ""
        plan = self._plans[key.id] = _Plan(
            tuple(pockets),
            currency,
            any(not document.is_balance for document in documents),
            since,
            until,
            self._prices.setdefault((currency, "standard"), {}),
            self._prices.setdefault((currency, "batch"), {}),
        )
        return plan

    def _price(self, currency: str, model: str, now: int, tier: Tier) -> _Price:
        price = _Price(FREE, "", 0, _FOREVER)
        for card in sorted(self._cards.get((currency, model), ()), key=lambda card: card.valid_from):
            begins = microseconds(card.valid_from)
            if begins > now:
                price.until = begins
                break
            price = _Price(tariff_of(card, tier), card.id, begins, _FOREVER)
        return price


def _decoded(
    state: FeedState, kind: str, struct: type[Any], known: dict[str, tuple[object, Any]]
) -> dict[str, tuple[object, Any]]:
    """The documents of a kind by id, each with its body, less those this version cannot read. `known`: from before;
    a follower replaces a body when it changes, so the same object is the same content.
    """
    decoded: dict[str, tuple[object, Any]] = {}
    for document_id, body in state.documents.get(kind, {}).items():
        before = known.get(document_id)
        if before is not None and before[0] is body:
            decoded[document_id] = before
            continue
        try:
            decoded[document_id] = (body, msgspec.convert(body, struct))
        except msgspec.ValidationError as error:
            _log.error("document_skipped", kind=kind, id=document_id, error=str(error))
    return decoded


def _name(document: BudgetDocument) -> str:
    if document.is_balance:
        return "the organization's balance"
    whose = "API key" if document.key_id else "project" if document.project_id else "organization"
    span = {"day": "budget for the day", "month": "budget for the month", "total": "budget"}[document.period]
    return f"the {span} of this {whose} ({document.id})"
