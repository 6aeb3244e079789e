"""Signing of forward requests with keys, accounts and external signers."""

from __future__ import annotations

import json
from typing import Any, Callable, Mapping, Protocol, Union, runtime_checkable

from ._errors import InvalidArgument
from ._native import Forward, Key, UnsignedForward


@runtime_checkable
class TypedDataSigner(Protocol):
    """A signer of EIP-712 data, such as an account of ``eth_account``."""

    def sign_typed_data(self, *, full_message: dict[str, Any]) -> Any:
        """Signs EIP-712 data. Returns a signature, or an object with one as ``signature``."""


#: A key, an account of ``eth_account``, or a callable from a digest of 32 bytes to a signature (or to something with
#: ``signature``), such as ``account.unsafe_sign_hash`` or a call to a key management service.
Signer = Union[Key, TypedDataSigner, Callable[[bytes], Any]]


def typed_data(unsigned: UnsignedForward) -> dict[str, Any]:
    """The typed data for a wallet's ``eth_signTypedData_v4``, with numbers as ``int``."""
    data: dict[str, Any] = json.loads(unsigned.typed_data_json)
    whole: Mapping[str, Any] = data["message"]
    data["message"] = {
        name: int(value) if name in ("value", "gas", "nonce", "deadline") else value for name, value in whole.items()
    }
    data["domain"]["chainId"] = int(data["domain"]["chainId"])
    return data


def sign(unsigned: UnsignedForward, signer: Signer) -> Forward:
    """Signs the request, and checks the signature. Exceptions of ``signer`` are passed on."""
    if isinstance(signer, Key):
        made: Any = signer.sign_digest(unsigned.digest)
    elif isinstance(signer, TypedDataSigner):
        made = signer.sign_typed_data(full_message=typed_data(unsigned))
    elif callable(signer):
        made = signer(unsigned.digest)
    else:
        raise InvalidArgument("invalid_argument", f"signer: {type(signer).__name__} can't sign")
    signature = getattr(made, "signature", made)
    if isinstance(signature, str):
        try:
            signature = bytes.fromhex(signature[2:] if signature.startswith("0x") else signature)
        except ValueError:
            raise InvalidArgument("invalid_argument", "signature: no hex") from None
    if not isinstance(signature, (bytes, bytearray)):
        raise InvalidArgument("invalid_argument", f"signature: {type(signature).__name__} instead of bytes")
    return unsigned.with_signature(bytes(signature))
