"""The relayer's answers, as frozen dataclasses. Amounts are ``int`` in wei; unknown members of newer relayers are
ignored."""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from dataclasses import dataclass
from typing import Any, Mapping, Optional, TypeVar, Union

from ._api import (
    Accepted as Accepted,
    Attempt as Attempt,
    Authorization as Authorization,
    Batch as Batch,
    Chain as Chain,
    ChainFees as ChainFees,
    Chains as Chains,
    Event as Event,
    Forecast as Forecast,
    Forwarder as Forwarder,
    Horizon as Horizon,
    OfferedFees as OfferedFees,
    Promise as Promise,
    Quote as Quote,
    RequestDetail as RequestDetail,
    RequestPage as RequestPage,
    RequestSummary as RequestSummary,
    Slack as Slack,
    Token as Token,
    Wait as Wait,
)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Change:
    """A change of a request's status. ``is_fallback`` is true if it went back, such as in a reorganisation."""

    event: Event
    is_fallback: bool
    from_: Optional[str] = None


@dataclass(frozen=True)
class LocalHorizon:
    """The base fee so many blocks ahead."""

    blocks: int
    point_wei_per_gas: int
    q10_wei_per_gas: int
    q50_wei_per_gas: int
    q90_wei_per_gas: int
    log_point: float


@dataclass(frozen=True)
class LocalForecast:
    """Forecast of a :class:`slackwater.Forecaster`."""

    number: int
    next_base_fee_wei_per_gas: int
    next_is_exact: bool
    model: str
    horizons: tuple[LocalHorizon, ...]


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
    # Older relayers don't tell everything.
    if value is None:
        return None
    if origin is Union:
        return _value(args[0], value)
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
