"""The relayer's answers, as frozen dataclasses. Amounts are ``int`` in wei; unknown members of newer relayers are
ignored."""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, TypeVar, Union

_T = TypeVar("_T")


@dataclass(frozen=True)
class Promise:
    """The relayer's signed promise: on chain by the deadline (Unix seconds), or ended with a reason."""

    request_hash: str
    chain_id: int
    deadline: int
    relayer: str
    signature: str


@dataclass(frozen=True)
class Wait:
    """Value of waiting until a deadline."""

    send_now: bool
    expected_cost_wei: int
    reservation_wei_per_gas: int
    q10_wei_per_gas: int
    q90_wei_per_gas: int
    expected_send_in_ms: int
    cap_covers: float


@dataclass(frozen=True)
class Quote:
    """Cost of sending now."""

    base_fee_wei_per_gas: int
    priority_fee_wei_per_gas: int
    gas: int
    l1_data_fee_wei: int
    operator_fee_wei: int
    expected_cost_wei: int
    max_cost_wei: int
    wait: Optional[Wait] = None


@dataclass(frozen=True)
class Accepted:
    """Acceptance of a request: it is durable, and promised."""

    id: str
    status: str
    chain_id: int
    deadline_at_ms: int
    accepted_at_ms: int
    promise: Promise
    quote: Optional[Quote] = None
    duplicate: bool = False


@dataclass(frozen=True)
class Event:
    """An event of a request."""

    seq: int
    request_id: str
    request_seq: int
    chain_id: int
    status: str
    at_ms: int
    reason: Optional[str] = None
    detail: Optional[str] = None
    batch: Optional[str] = None
    tx_hash: Optional[str] = None
    block_number: Optional[int] = None

    @property
    def is_success(self) -> bool:
        """True if it was executed, and a reorg can't revert it any more."""
        return self.status == "finalized"


@dataclass(frozen=True)
class Change:
    """A change of a request's status. ``is_fallback`` is true if it went back, such as in a reorganisation."""

    event: Event
    is_fallback: bool
    from_: Optional[str] = None


@dataclass(frozen=True)
class RequestSummary:
    """A request without its content."""

    id: str
    chain_id: int
    kind: str
    status: str
    target: str
    deadline_at_ms: int
    accepted_at_ms: int
    updated_at_ms: int
    reason: Optional[str] = None
    batch: Optional[str] = None
    tx_hash: Optional[str] = None
    block_number: Optional[int] = None
    gas_used: Optional[int] = None
    cost_wei: Optional[int] = None
    reserved_wei: Optional[int] = None
    submitted_by: Optional[str] = None
    #: Price charged to the tenant, wei; equal to the cost unless the operator configured another price.
    price_wei: Optional[int] = None
    #: Set if it ended without being executed, before the deadline that its user signed: the time, Unix seconds, until
    #: which any holder of the signature can still execute it. The user's next request takes the same nonce.
    executable_until: Optional[int] = None


@dataclass(frozen=True)
class Attempt:
    """One signed transaction for a batch's nonce."""

    index: int
    kind: str
    max_fee_wei_per_gas: int
    priority_fee_wei_per_gas: int
    tx_hash: str
    created_at_ms: int


@dataclass(frozen=True)
class RequestDetail(RequestSummary):
    """A request with all its details."""

    promise: Optional[Promise] = None
    quote: Optional[Quote] = None
    attempts: tuple[Attempt, ...] = ()
    timeline: tuple[Event, ...] = ()


@dataclass(frozen=True)
class RequestPage:
    """A page of requests, newest first. Pass ``next_cursor`` as ``cursor`` to get the next page."""

    requests: tuple[RequestSummary, ...]
    next_cursor: Optional[str] = None


@dataclass(frozen=True)
class Batch:
    """A batch: the requests that share one (sender, nonce)."""

    id: str
    state: str
    to: str
    trigger: str = ""
    included_hash: Optional[str] = None
    block_number: Optional[int] = None
    block_hash: Optional[str] = None
    gas_used: Optional[int] = None
    cost_wei: Optional[int] = None
    attempts: tuple[Attempt, ...] = ()
    member_count: int = 0
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Forwarder:
    """A forwarder that the relayer serves."""

    address: str
    name: str


@dataclass(frozen=True)
class OfferedFees:
    """Fee cap and priority fee of a transaction."""

    max_fee_wei_per_gas: int
    priority_fee_wei_per_gas: int


@dataclass(frozen=True)
class Chain:
    """A chain that the relayer serves."""

    chain_id: int
    name: str
    health: str
    detail: Optional[str] = None
    head: Optional[int] = None
    final_block: Optional[int] = None
    next_base_fee_wei_per_gas: Optional[int] = None
    fees: Optional[OfferedFees] = None
    guard_ms: int = 0
    forwarders: tuple[Forwarder, ...] = ()


@dataclass(frozen=True)
class Chains:
    """The chains that the relayer serves, and the identity that signs promises."""

    relayer: str
    chains: tuple[Chain, ...]


@dataclass(frozen=True)
class ChainFees:
    """Current fees of a chain."""

    chain_id: int
    head: Optional[int] = None
    next_base_fee_wei_per_gas: Optional[int] = None
    max_fee_wei_per_gas: Optional[int] = None
    priority_fee_wei_per_gas: Optional[int] = None


@dataclass(frozen=True)
class Horizon:
    """Forecast of the base fee ``blocks`` blocks ahead."""

    blocks: int
    point_wei_per_gas: int
    q10_wei_per_gas: int
    q50_wei_per_gas: int
    q90_wei_per_gas: int
    ahead_ms: Optional[int] = None
    log_point: Optional[float] = None
    experts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Slack:
    """Sending decision for a request with this slack."""

    blocks: int
    slack_ms: int
    send_now: bool
    reservation_wei_per_gas: int
    expected_saving_wei_per_gas: int
    policy: str = ""


@dataclass(frozen=True)
class Forecast:
    """The relayer's forecast of a chain's base fee."""

    chain_id: int
    head: int
    next_base_fee_wei_per_gas: int
    model: str
    inputs: str
    horizons: tuple[Horizon, ...]
    next_is_exact: bool = False
    slacks: tuple[Slack, ...] = ()


@dataclass(frozen=True)
class LocalForecast:
    """Forecast of a :class:`slackwater.Forecaster`."""

    number: int
    next_base_fee_wei_per_gas: int
    next_is_exact: bool
    model: str
    horizons: tuple[Horizon, ...]


@dataclass(frozen=True)
class LocalQuote:
    """Cost of gas by a :class:`slackwater.Forecaster` alone, in wei: without a rollup's L1 data fee, and without the
    savings or overhead of a relayer's batch. ``blocks`` is the horizon used for the end of the wait: the first that is
    not before it, or the last one. The cost there is at most ``max_wei`` with probability ``p``."""

    gas: int
    priority_fee_wei_per_gas: int
    now_wei: int
    expected_wei: int
    max_wei: int
    max_fee_wei_per_gas: int
    p: float
    blocks: int


@dataclass(frozen=True)
class User:
    """The user of a request, at one forwarder."""

    chain_id: int
    forwarder: str
    from_: str


@dataclass(frozen=True)
class Place:
    """A nonce of a user at a forwarder."""

    user: User
    nonce: int


@dataclass(frozen=True)
class Entry:
    """An entry of the outbox. ``state`` is storing, waiting, calling, ending or ended. ``place`` is the nonce that a
    forward request holds, so that no other request takes it meanwhile."""

    key: str
    state: str
    attempts: int
    expires_at: int
    may_be_accepted: bool
    last_error_code: Optional[str] = None
    place: Optional[Place] = None


@dataclass(frozen=True)
class Verdict:
    """Result of checking a claim at the user's own node. ``kind`` is confirmed, pending, mismatch, untrusted_forwarder,
    unknown_forwarder or unknown."""

    kind: str
    is_final: bool = False
    is_success: bool = False
    block_number: Optional[int] = None
    block_hash: Optional[str] = None
    binding: Optional[str] = None
    detail: Optional[str] = None


@functools.lru_cache(maxsize=None)
def _fields(kind: type[Any]) -> tuple[tuple[str, str, Any], ...]:
    hints = typing.get_type_hints(kind)
    return tuple((item.name, _camel(item.name), hints[item.name]) for item in dataclasses.fields(kind))


def _camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name.rstrip("_"))


def _value(hint: Any, value: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Union:
        return None if value is None else _value(args[0], value)
    if origin is tuple:
        return tuple(_value(args[0], item) for item in value)
    # Whole numbers above 2^53 are decimal digits in JSON.
    if hint is int:
        return int(value)
    return read(hint, value) if isinstance(hint, type) and dataclasses.is_dataclass(hint) else value


def read(kind: type[_T], value: Mapping[str, Any]) -> _T:
    """Converts a JSON object that the native module has checked to a dataclass."""
    fields: tuple[tuple[str, str, Any], ...] = _fields(kind)  # type: ignore[arg-type]
    known = {name: _value(hint, value[key]) for name, key, hint in fields if key in value}
    return kind(**known)
