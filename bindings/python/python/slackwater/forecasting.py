"""Local forecasts of a chain's base fee."""

from __future__ import annotations

import json
from typing import Any, Iterable, Mapping, Optional, Sequence

from . import _native
from ._errors import InvalidArgument, SlackwaterError
from .types import LocalForecast, LocalQuote, read

#: Number of recent blocks whose tips are used.
_TIP_BLOCKS = 20


def _plain(values: Iterable[Any]) -> list[Any]:
    """Python numbers of any iterable; arrays of numpy, ``array``, ``memoryview`` and pandas are converted in one
    call."""
    tolist = getattr(values, "tolist", None)
    return list(values) if tolist is None else list(tolist())


def _number(value: Any) -> Any:
    return int(value, 16) if isinstance(value, str) else value


class Forecaster(_native.Forecaster):
    """Learns from blocks, and forecasts the base fee. Not to be used from two threads at once.

    ``horizons`` are numbers of blocks ahead (default 1, 2, 5, 10, 25, 50, 150), ``block_time`` is in seconds (default
    12); a refit learns from ``window`` blocks, is due every ``refit_every`` blocks, and grows ``trees`` trees for each
    horizon.

    ``export_state`` returns the learned state of the experts and their intervals (JSON). ``import_state`` resumes from
    it in a forecaster of the same configuration that has not observed a block; pass it the recent blocks with
    ``known=True`` afterwards. Fitted models are not part of the state: refit once that is due.
    """

    def __init__(
        self,
        *,
        horizons: Optional[Sequence[int]] = None,
        block_time: Optional[float] = None,
        window: Optional[int] = None,
        refit_every: Optional[int] = None,
        trees: Optional[int] = None,
        seed: Optional[int] = None,
    ) -> None:
        # The native part has read the arguments in `__new__`.
        self._block_time = 12.0 if block_time is None else block_time
        self._tips: list[int] = []

    def observe(
        self,
        first_number: int,
        base_fees: Iterable[Any],
        *,
        gas_used: Optional[Iterable[Any]] = None,
        gas_limit: Optional[Any] = None,
        gas_used_ratio: Optional[Iterable[Any]] = None,
        timestamps: Optional[Iterable[Any]] = None,
        known: bool = False,
    ) -> None:
        """Takes in consecutive blocks from ``first_number`` on, as lists or as arrays of numpy and the like; wei as
        whole numbers.

        There may be one base fee more than blocks, as in ``eth_feeHistory``: that of the next block. ``gas_limit`` is
        one number, or one for each block. With ``known`` the blocks are stored but not learned from again, because the
        imported state has already learned from them.
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
        self.observe_all(first_number, _plain(base_fees), usage, times, known)

    def observe_fee_history(self, history: Mapping[str, Any], *, known: bool = False) -> None:
        """Takes in an answer of ``eth_feeHistory``, as JSON or as returned by web3.py. If it was requested with an odd
        number of percentiles, the middle one (such as the 50th) is the tip of :meth:`quote`."""
        try:
            oldest, fees = _number(history["oldestBlock"]), [_number(fee) for fee in history["baseFeePerGas"]]
            ratios = [float(ratio) for ratio in history["gasUsedRatio"]]
            rewards = list(history.get("reward") or ())[-_TIP_BLOCKS:]
            tips = sorted(_number(block[len(block) // 2]) for block in rewards if block)
        except (KeyError, TypeError, ValueError) as error:
            message = f"history: {type(error).__name__} at {error}"
            raise InvalidArgument("invalid_argument", message) from None
        self.observe_all(oldest, fees, ratios, None, known)
        self._tips = tips or self._tips

    def forecast(self) -> Optional[LocalForecast]:
        """The forecast; ``None`` before the first block."""
        text = self.forecast_json()
        return None if text is None else read(LocalForecast, json.loads(text))

    def quote(
        self, gas: int, within: float = 0.0, *, p: float = 0.95, priority_fee: Optional[int] = None
    ) -> LocalQuote:
        """Cost of ``gas`` in the next block, and at the end of a wait of ``within`` seconds, without a relayer.

        ``priority_fee`` (wei per gas) is the tip; by default the median tip of the last :meth:`observe_fee_history`.
        Raises ``not_ready`` before the first block.
        """
        made = self.forecast()
        if made is None:
            raise SlackwaterError("not_ready", "no block has been seen")
        for what, value in (("gas", gas), ("priority_fee", priority_fee or 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InvalidArgument("invalid_argument", f"{what}: {value!r} is no whole number")
        horizons = sorted(made.horizons, key=lambda horizon: horizon.blocks)
        late = (horizon for horizon in horizons if horizon.blocks * self._block_time >= within)
        horizon = next(late, horizons[-1])
        tip = (self._tips[len(self._tips) // 2] if self._tips else 0) if priority_fee is None else priority_fee
        cap = self.quantile(horizon.blocks, p) + tip
        return LocalQuote(
            gas=gas,
            priority_fee_wei_per_gas=tip,
            now_wei=gas * (made.next_base_fee_wei_per_gas + tip),
            expected_wei=gas * (horizon.point_wei_per_gas + tip),
            max_wei=gas * cap,
            max_fee_wei_per_gas=cap,
            p=p,
            blocks=horizon.blocks,
        )
