"""Client of the Slackwater relayer: submit bursts of gasless requests, and never wait for a chain."""

from . import types
from ._errors import (
    ConnectionFailed,
    Expired,
    InvalidArgument,
    NodeFailed,
    OutboxRefused,
    Refused,
    SlackwaterError,
    VerificationFailed,
)
from ._native import (
    Forward,
    ForwarderDomain,
    Key,
    Submission,
    UnsignedForward,
    __version__,
    classify_rpc_error,
    max_base_fee_after,
    merkle_leaf,
    next_base_fee,
    recover_signer,
    verify_accepted,
    verify_log,
    verify_log_proof,
    verify_merkle_proof,
)
from ._sender import Ticket
from ._storage import FileStorage, MemoryStorage, Storage
from .aio import AsyncClient, AsyncNode
from .client import Client, Node
from .forecasting import Forecaster
from .signing import Signer, sign, typed_data

__all__ = [
    "AsyncClient",
    "AsyncNode",
    "Client",
    "ConnectionFailed",
    "Expired",
    "FileStorage",
    "Forecaster",
    "Forward",
    "ForwarderDomain",
    "InvalidArgument",
    "Key",
    "MemoryStorage",
    "Node",
    "NodeFailed",
    "OutboxRefused",
    "Refused",
    "Signer",
    "SlackwaterError",
    "Storage",
    "Submission",
    "Ticket",
    "UnsignedForward",
    "VerificationFailed",
    "__version__",
    "classify_rpc_error",
    "max_base_fee_after",
    "merkle_leaf",
    "next_base_fee",
    "recover_signer",
    "sign",
    "typed_data",
    "types",
    "verify_accepted",
    "verify_log",
    "verify_log_proof",
    "verify_merkle_proof",
]
