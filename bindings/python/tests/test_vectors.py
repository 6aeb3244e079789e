"""The project's vectors, bit for bit as natively."""

from __future__ import annotations

import json
import struct

import pytest
from conftest import vectors
from eth_account import Account

import slackwater as sw

def unsigned(row: dict) -> sw.UnsignedForward:
    domain, message = row["domain"], row["message"]
    return sw.UnsignedForward(
        sw.ForwarderDomain(domain["name"], int(domain["chainId"]), domain["verifyingContract"]),
        message["from"], message["to"], nonce=int(message["nonce"]), deadline=int(message["deadline"]),
        data=bytes.fromhex(message["data"][2:]), value=int(message["value"]), gas=int(message["gas"]),
    )


EIP712 = [row for row in vectors("eip712") if 0 < int(row["message"]["gas"]) < 1 << 64]


@pytest.mark.parametrize("row", EIP712, ids=lambda row: f"{row['title']}, {row['wallet']}")
def test_digests_and_signatures(row: dict) -> None:
    request = unsigned(row)
    assert "0x" + request.digest.hex() == row["digest"] == request.id
    signature = bytes.fromhex(row["signature"][2:])
    assert sw.recover_signer(request.digest, signature) == row["signer"]
    assert request.with_signature(signature).signature == signature
    account = Account.from_key(row["privateKey"])
    by_eth_account = [sw.sign(request, account), sw.sign(request, account.unsafe_sign_hash)]
    key = sw.Key(row["privateKey"])
    assert key.address == account.address
    assert {made.signature for made in [sw.sign(request, key), *by_eth_account]} == {signature}


@pytest.mark.parametrize("row", vectors("eip3009"), ids=lambda row: row["title"])
def test_authorizations(row: dict) -> None:
    domain, message = row["domain"], row["message"]
    numbers = {name: int(message[key]) for name, key in (("value", "value"), ("valid_after", "validAfter"), ("valid_before", "validBefore"))}
    submission = sw.Submission.authorization(
        int(domain["chainId"]), domain["verifyingContract"], payer=message["from"], payee=message["to"],
        nonce=bytes.fromhex(message["nonce"][2:]), signature=bytes.fromhex(row["signature"][2:]), **numbers,
    )
    body = json.loads(submission.body)
    assert (body["kind"], int(body["chainId"])) == ("authorization", int(domain["chainId"]))
    content = {key: str(value).lower() for key, value in body["authorization"].items()}
    expected = {key: str(value).lower() for key, value in message.items()}
    assert content == {**expected, "token": domain["verifyingContract"].lower(), "signature": row["signature"].lower()}


def test_next_base_fees() -> None:
    rows = vectors("fees")["eip1559_next_base_fee"]
    assert rows
    for row in rows:
        rule = {
            "denominator": int(row["denominator"]),
            "elasticity": int(row["elasticity"]),
            "min_base_fee": int(row["min_base_fee"]),
        }
        used, limit = int(row["parent_gas_metered"]), int(row["parent_gas_limit"])
        made = sw.next_base_fee(int(row["parent_base_fee"]), used, limit, **rule)
        assert made == int(row["next_base_fee"]), row
        footprint = sw.next_base_fee(
            int(row["parent_base_fee"]), 0, limit, blob_gas_used=used, counts_da_footprint=True, **rule
        )
        assert footprint == made, row


def series() -> "list[tuple[int, int, int]]":
    """The blocks of core/pure/tests/pure/forecast_vectors/forecast_series.rs: base fee, gas used, base fee of the next."""
    state, base, blocks = 1, 20_000_000_000, []
    for _ in range(700):
        state = (state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % (1 << 64)
        chance = (state >> 33) % 30_000_000
        used = chance // 2 + (4_000_000 if base > 20_000_000_000 else 12_000_000)
        following = sw.next_base_fee(base, used, 30_000_000)
        blocks.append((base, used, following))
        base = following
    return blocks


def test_forecasts() -> None:
    forecaster = sw.Forecaster(window=400, trees=6, refit_every=300, seed=7)
    expected = iter(vectors("forecast")["forecasts"])
    for number, (base, used, following) in enumerate(series()):
        forecaster.observe(
            number, [base, following], gas_used=[used], gas_limit=30_000_000, timestamps=[1_700_000_000 + 12 * number]
        )
        if forecaster.refit_due:
            forecaster.refit()
        if number % 100 == 99:
            row, made = next(expected), forecaster.forecast()
            assert made is not None
            assert (made.number, made.next_base_fee_wei_per_gas) == (row["number"], int(row["next_base_fee"]))
            assert (made.next_is_exact, made.model) == (row["next_is_exact"], row["model"])
            assert len(made.horizons) == len(row["horizons"])
            for horizon, right in zip(made.horizons, row["horizons"]):
                assert horizon.log_point is not None
                assert "0x" + struct.pack(">d", horizon.log_point).hex() == right["log_point_bits"]
                found = (horizon.point_wei_per_gas, horizon.q10_wei_per_gas, horizon.q50_wei_per_gas,
                         horizon.q90_wei_per_gas, forecaster.quantile(horizon.blocks, 0.999))
                assert found == tuple(int(right[name]) for name in ("point", "q10", "q50", "q90", "q999"))
                quote = forecaster.quote(21_000, horizon.blocks * 12 - 0.001, p=0.999, priority_fee=7)
                costs = (quote.now_wei, quote.expected_wei, quote.max_wei)
                assert costs == tuple(21_000 * (int(fee) + 7) for fee in (row["next_base_fee"], right["point"], right["q999"]))
                assert quote.blocks == horizon.blocks == right["steps"]
    assert next(expected, None) is None


def test_numpy_arrays_are_lists() -> None:
    numpy = pytest.importorskip("numpy")
    blocks = series()[:150]
    fees, used = [block[0] for block in blocks], [block[1] for block in blocks]
    by_list, by_array = sw.Forecaster(), sw.Forecaster()
    by_list.observe(7, fees, gas_used=used, gas_limit=30_000_000)
    by_array.observe(
        7, numpy.array(fees, dtype=numpy.uint64), gas_used=numpy.array(used), gas_limit=numpy.full(150, 30_000_000)
    )
    assert by_list.forecast() == by_array.forecast() is not None
    with pytest.raises(sw.InvalidArgument, match="float"):
        by_array.observe(1_000, numpy.array([1.5e9]))


def history(oldest: int, fees: "list[int]", tips: "list[int]") -> dict:
    """As a node answers `eth_feeHistory`."""
    return {
        "oldestBlock": hex(oldest),
        "baseFeePerGas": [hex(fee) for fee in fees],
        "gasUsedRatio": [0.5] * (len(fees) - 1),
        "reward": [[hex(1), hex(tip), hex(10**12)] for tip in tips],
    }


def test_fee_history_is_what_blocks_in_a_row_are() -> None:
    fees = [block[0] for block in series()[:60]]
    by_history, by_web3, by_row = (sw.Forecaster() for _ in range(3))
    answer = history(100, fees, [0] * 59)
    by_history.observe_fee_history(answer)
    # web3.py makes numbers of the hex, and leaves out what was not asked for.
    by_web3.observe_fee_history({"oldestBlock": 100, "baseFeePerGas": fees, "gasUsedRatio": [0.5] * 59})
    by_row.observe(100, fees, gas_used_ratio=[0.5] * 59)
    assert by_history.forecast() == by_web3.forecast() == by_row.forecast() is not None
    made = by_history.forecast()
    assert made is not None and made.number == 158 and made.next_base_fee_wei_per_gas == fees[59] and made.next_is_exact
    for broken in ({}, {**answer, "oldestBlock": None}, {**answer, "baseFeePerGas": ["0xzz"]}, {**answer, "reward": [3]},
                   {**answer, "gasUsedRatio": ["x"]}, {**answer, "gasUsedRatio": [0.5]}):
        with pytest.raises(sw.InvalidArgument):
            by_history.observe_fee_history(broken)


def test_a_quote_without_a_relayer() -> None:
    forecaster = sw.Forecaster(block_time=2.0, horizons=[5, 1, 25])
    with pytest.raises(sw.SlackwaterError) as caught:
        forecaster.quote(21_000)
    assert caught.value.code == "not_ready"
    gwei = 10**9
    forecaster.observe_fee_history(history(100, [20 * gwei] * 6, [3 * gwei, gwei, 2 * gwei, 900 * gwei, 0]))
    now = forecaster.quote(100_000)
    assert (now.priority_fee_wei_per_gas, now.now_wei, now.blocks) == (2 * gwei, 100_000 * 22 * gwei, 1)
    for within, blocks in ((2, 1), (2.001, 5), (10, 5), (11, 25), (1e6, 25)):
        quote = forecaster.quote(1, within, p=0.99, priority_fee=1)
        assert (quote.blocks, quote.max_fee_wei_per_gas) == (blocks, forecaster.quantile(blocks, 0.99) + 1)
        assert quote.expected_wei <= quote.max_wei
    for wrong in (lambda: forecaster.quote(-1), lambda: forecaster.quote(1.5), lambda: forecaster.quote(True),  # type: ignore[arg-type]
                  lambda: forecaster.quote(1, priority_fee=-1), lambda: forecaster.quote(1, p=2)):
        with pytest.raises(sw.InvalidArgument):
            wrong()


def test_learned_state_goes_on_in_another_process() -> None:
    blocks = series()
    fees, used = [block[0] for block in blocks], [block[1] for block in blocks]

    def show(forecaster: sw.Forecaster, start: int, end: int, known: bool = False) -> None:
        forecaster.observe(start, fees[start : end + 1], gas_used=used[start:end], gas_limit=30_000_000, known=known)

    def weights(forecaster: sw.Forecaster) -> list:
        return [horizon["mixture"]["weights"] for horizon in json.loads(forecaster.export_state())["horizons"]]

    learned, restarted, naive = sw.Forecaster(), sw.Forecaster(), sw.Forecaster()
    show(learned, 0, 600)
    state = learned.export_state()
    restarted.import_state(state)
    # Neither blocks nor models are in a state: recent blocks are read again, and teach nothing twice.
    assert restarted.forecast() is None
    show(restarted, 300, 600, known=True)
    show(naive, 300, 600)
    assert weights(restarted) == weights(learned) != weights(naive)
    for each in (learned, restarted, naive):
        show(each, 600, 650)
    made, again, other = (each.forecast() for each in (learned, restarted, naive))
    assert made is not None and again is not None and other is not None

    def distance(one: sw.types.LocalForecast) -> float:
        assert made is not None
        return sum(abs((a.log_point or 0) - (b.log_point or 0)) for a, b in zip(one.horizons, made.horizons))

    assert distance(again) < distance(other)
    for broken in (state[: len(state) // 2], "{}", "[]", state.replace("weights", "weighs", 1)):
        with pytest.raises(sw.InvalidArgument):
            sw.Forecaster().import_state(broken)
    with pytest.raises(sw.InvalidArgument) as caught:
        sw.Forecaster(horizons=[3]).import_state(state)
    assert caught.value.code == "invalid_model", "another configuration"


def test_rpc_errors() -> None:
    rows = vectors("rpc_errors")["rows"]
    assert rows
    for row in rows:
        data = json.dumps(row["data"]) if "data" in row else None
        found, _, _ = sw.classify_rpc_error(row.get("code") or 0, row["message"], data)
        assert found.replace("_", "") == row["class"].lower(), row


def test_bad_input_raises_own_errors() -> None:
    domain = sw.ForwarderDomain("F", 1, "0x" + "11" * 20)
    someone = "0x" + "22" * 20
    bad = [
        lambda: sw.ForwarderDomain("F", -1, someone),
        lambda: sw.ForwarderDomain("F", 1, "0x12"),
        lambda: sw.UnsignedForward(domain, someone, someone, nonce=1 << 256, deadline=1),
        lambda: sw.UnsignedForward(domain, someone, someone, nonce=0, deadline=1 << 48),
        lambda: sw.UnsignedForward(domain, someone, someone, nonce=0, deadline=1, gas=0),
        lambda: sw.UnsignedForward(domain, someone, someone, nonce=True, deadline=1),
        lambda: sw.Key("0x" + "00" * 32),
        lambda: sw.Key(b"short"),
        lambda: sw.recover_signer(b"", b""),
        lambda: sw.merkle_leaf(b"x"),
        lambda: sw.verify_accepted("{", "0x", 1, someone),
        lambda: sw.next_base_fee(1, 1, 1, denominator=0),
        lambda: sw.Forecaster(horizons=[]),
        lambda: sw.Forecaster(trees=10**6),
        lambda: sw.Forecaster().observe(2**64 - 1, [1, 1]),
        lambda: sw.Client("ftp://host"),
        lambda: sw.Client("http://user:pass@host"),
    ]
    for make in bad:
        with pytest.raises(sw.SlackwaterError) as caught:
            make()
        assert isinstance(caught.value, ValueError) and caught.value.code and not caught.value.is_retryable


def test_no_secret_is_shown() -> None:
    secret = "1c00ce94b96ffd8a5dc35453e915c3e6dc9a2815b0ab85946340c5d970337915"
    key = sw.Key(secret)
    client = sw.Client("http://127.0.0.1:9", api_key=secret)
    assert all(secret not in text for text in (repr(key), str(key), repr(client), repr(client._transport)))
    with pytest.raises(sw.InvalidArgument) as caught:
        sw.Key(secret + "zz")
    assert secret not in str(caught.value)
    client.close()
