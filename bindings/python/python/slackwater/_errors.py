"""Exceptions. Switch on the class or on the stable ``code``; the text is for people."""

from __future__ import annotations

import json
from typing import Any, Mapping, Optional


class SlackwaterError(Exception):
    """Base class of all exceptions of this package."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        is_retryable: bool = False,
        is_ambiguous: bool = False,
        retry_after: Optional[float] = None,
        problem: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__(message)
        #: Stable code, of the relayer's problems or of this package.
        self.code = code
        #: True if the same call may succeed later, unchanged.
        self.is_retryable = is_retryable
        #: True if the relayer may have acted all the same.
        self.is_ambiguous = is_ambiguous
        #: Seconds to wait, if the relayer named a time; else ``None``.
        self.retry_after = retry_after
        #: The relayer's problem document (RFC 9457), if there is one.
        self.problem = problem

    def __reduce__(self) -> Any:
        return (_restore, (type(self), self.args, self.__dict__))


class InvalidArgument(SlackwaterError, ValueError):
    """An argument is invalid."""


class Refused(SlackwaterError):
    """The relayer, or a proxy before it, refused the call."""


class ConnectionFailed(SlackwaterError, ConnectionError):
    """No answer came: ``unreachable``, ``timeout`` or ``connection_broken``."""


class Expired(SlackwaterError):
    """A request expired before it was accepted. ``is_ambiguous`` if an attempt may have arrived."""


class VerificationFailed(SlackwaterError):
    """A promise, log, claim or forwarder failed its verification."""


class OutboxRefused(SlackwaterError):
    """The outbox refused: it is full, closed, in use or another relayer's, or the request has expired or is too
    large."""


class NodeFailed(SlackwaterError):
    """The user's own node did not answer the query."""


_CLASSES: Mapping[str, type[SlackwaterError]] = {
    "invalid_argument": InvalidArgument,
    "invalid_header": InvalidArgument,
    "invalid_model": InvalidArgument,
    "invalid_signature": InvalidArgument,
    "no_claim": InvalidArgument,
    "unreachable": ConnectionFailed,
    "timeout": ConnectionFailed,
    "connection_broken": ConnectionFailed,
    "expired": Expired,
    "bad_promise": VerificationFailed,
    "bad_log": VerificationFailed,
    "contradiction": VerificationFailed,
    "outbox_refused": OutboxRefused,
    "outbox_closed": OutboxRefused,
    "outbox_in_use": OutboxRefused,
    "outbox_of_other_relayer": OutboxRefused,
    "wrong_chain": VerificationFailed,
    "unknown_forwarder": VerificationFailed,
    "untrusted_forwarder": VerificationFailed,
    "node_error": NodeFailed,
}


def _restore(kind: type[SlackwaterError], args: tuple[str, ...], state: dict[str, Any]) -> SlackwaterError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


def build(
    code: str,
    message: str,
    is_retryable: bool = False,
    is_ambiguous: bool = False,
    retry_after: Optional[float] = None,
    problem: Optional[str] = None,
) -> SlackwaterError:
    """The exception for a code; the native module calls this."""
    detail = None if problem is None else json.loads(problem)
    kind = Refused if detail is not None or code.startswith("http_") else _CLASSES.get(code, SlackwaterError)
    return kind(
        code,
        message,
        is_retryable=is_retryable,
        is_ambiguous=is_ambiguous,
        retry_after=retry_after,
        problem=detail,
    )
