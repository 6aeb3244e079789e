"""Forecasts of a chain's base fee, computed here."""

from __future__ import annotations

import json
from typing import Any, Iterable, Mapping, Optional, Sequence

from . import _native
from ._errors import InvalidArgument
from .types import LocalForecast, read


def _plain(values: Iterable[Any]) -> list[Any]:
    """Arrays of numpy, ``array``, ``memoryview`` and pandas know how to become Python numbers, all at once."""
    tolist = getattr(values, "tolist", None)
    return list(values) if tolist is None else list(tolist())


def _number(value: Any) -> Any:
    return int(value, 16) if isinstance(value, str) else value


class Forecaster(_native.Forecaster):
    """Learns from blocks, and says what the base fee will be. Not to be used from two threads at once."""

    def observe(
        self,
        first_number: int,
        base_fees: Iterable[Any],
        *,
        gas_used: Optional[Iterable[Any]] = None,
        gas_limit: Optional[Any] = None,
        gas_used_ratio: Optional[Iterable[Any]] = None,
        timestamps: Optional[Iterable[Any]] = None,
    ) -> None:
        """Takes in blocks in a row from ``first_number`` on: lists, or arrays of numpy and the like; wei as whole numbers.

        There may be one base fee more than blocks, as in ``eth_feeHistory``: that of the block after them. ``gas_limit``
        is one number, or one for each block.
        """
        usage: Optional[Sequence[Any]] = None
        if gas_used is not None:
            used = _plain(gas_used)
            limits = [gas_limit] * len(used) if isinstance(gas_limit, int) else _plain(() if gas_limit is None else gas_limit)
            if gas_used_ratio is not None or len(limits) != len(used):
                message = "gas_used needs gas_limit, one or one for each block, and excludes gas_used_ratio"
                raise InvalidArgument("invalid_argument", message)
            usage = list(zip(used, limits))
        elif gas_used_ratio is not None:
            usage = _plain(gas_used_ratio)
        times = None if timestamps is None else _plain(timestamps)
        self.observe_all(first_number, _plain(base_fees), usage, times)

    def observe_fee_history(self, history: Mapping[str, Any]) -> None:
        """Takes in an answer of ``eth_feeHistory``, as JSON or as web3.py has it."""
        try:
            oldest, fees = _number(history["oldestBlock"]), [_number(fee) for fee in history["baseFeePerGas"]]
            ratios = [float(ratio) for ratio in history["gasUsedRatio"]]
        except (KeyError, TypeError, ValueError) as error:
            message = f"history: {type(error).__name__} at {error}"
            raise InvalidArgument("invalid_argument", message) from None
        self.observe_all(oldest, fees, ratios, None)

    def forecast(self) -> Optional[LocalForecast]:
        """What the fees will be; ``None`` before the first block."""
        text = self.forecast_json()
        return None if text is None else read(LocalForecast, json.loads(text))
