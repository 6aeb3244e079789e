// The project's vectors, against the package as it is imported. Runs in Node and in a page alike.

/** Throws at the first row that differs; returns how many rows of each kind held. */
export function checkVectors(slackwater, { eip712, fees, forecast, merkle }) {
  const counts = {}
  const equal = (kind, found, expected, row) => {
    if (found !== expected) throw new Error(`${kind}: ${found} instead of ${expected}: ${JSON.stringify(row).slice(0, 300)}`)
    counts[kind] = (counts[kind] ?? 0) + 1
  }
  for (const row of eip712) {
    equal('eip712', slackwater.forwardDigest(row.domain, row.message), row.digest, row)
    equal('signatures', slackwater.recoverSigner(row.digest, row.signature), row.signer, row)
    const gas = BigInt(row.message.gas)
    if (gas > 0n && gas < 1n << 64n) {
      const { message } = slackwater.forwardTypedData(row.domain, row.message)
      for (const [name, value] of Object.entries(row.message)) equal('typed data', message[name].toLowerCase(), value.toLowerCase(), row)
      equal('checked signatures', slackwater.checkedSignature(row.domain, row.message, row.signature), row.signature, row)
    }
  }
  for (const row of fees.eip1559_next_base_fee) {
    const parent = { baseFee: String(row.parent_base_fee), gasLimit: String(row.parent_gas_limit), gasUsed: String(row.parent_gas_metered) }
    const rule = { denominator: String(row.denominator), elasticity: String(row.elasticity), minBaseFee: String(row.min_base_fee) }
    equal('base fees', slackwater.nextBaseFee(parent, rule), String(row.next_base_fee), row)
    const footprint = { ...parent, gasUsed: 0, blobGasUsed: parent.gasUsed }
    equal('base fees', slackwater.nextBaseFee(footprint, { ...rule, countsDaFootprint: true }), String(row.next_base_fee), row)
  }
  for (const row of merkle.trees) {
    for (const { content, leaf, proof } of row.leaves) {
      equal('merkle', slackwater.merkleLeaf(content), leaf, row)
      equal('merkle', slackwater.verifyMerkleProof(content, proof, row.root), true, row)
      equal('merkle', slackwater.verifyMerkleProof(leaf, proof, row.root), false, row)
    }
  }
  equalForecasts(slackwater, forecast, equal)
  return counts
}

/** The series of core/pure/tests/pure/forecast_vectors/forecast_series.rs, made anew here, and what is forecast of it. */
function equalForecasts(slackwater, { forecasts }, equal) {
  const [BLOCKS, LIMIT, MASK] = [700, 30_000_000n, (1n << 64n) - 1n]
  const forecaster = new slackwater.Forecaster({ window: 400, trees: 6, refitEvery: 300, seed: 7 })
  const bits = new DataView(new ArrayBuffer(8))
  let [state, base, at] = [1n, 20_000_000_000n, 0]
  for (let i = 0; i < BLOCKS; i++) {
    state = (state * 6_364_136_223_846_793_005n + 1_442_695_040_888_963_407n) & MASK
    const chance = (state >> 33n) % LIMIT
    const gasUsed = base > 20_000_000_000n ? chance / 2n + 4_000_000n : chance / 2n + 12_000_000n
    const nextBaseFee = slackwater.nextBaseFee({ baseFee: base, gasUsed, gasLimit: LIMIT })
    forecaster.observe({ number: i, timestamp: 1_700_000_000 + 12 * i, baseFee: base, gasUsed, gasLimit: LIMIT, nextBaseFee })
    if (forecaster.refitDue) forecaster.refit()
    if (i % 100 === 99) {
      const [made, expected] = [forecaster.forecast(), forecasts[at++]]
      equal('forecasts', made.number, expected.number, expected)
      equal('forecasts', made.nextBaseFee, expected.next_base_fee, expected)
      equal('forecasts', made.nextIsExact, expected.next_is_exact, expected)
      equal('forecasts', made.model, expected.model, expected)
      equal('forecasts', made.horizons.length, expected.horizons.length, expected)
      made.horizons.forEach((horizon, index) => {
        const row = expected.horizons[index]
        bits.setFloat64(0, horizon.logPoint)
        equal('forecasts', `0x${bits.getBigUint64(0).toString(16).padStart(16, '0')}`, row.log_point_bits, row)
        for (const name of ['steps', 'point', 'q10', 'q50', 'q90']) equal('forecasts', horizon[name], row[name], row)
        equal('forecasts', forecaster.quantile(horizon.steps, 0.999), row.q999, row)
        const quote = forecaster.quote({ gas: 21_000, withinMs: horizon.steps * 12_000 - 1, p: 0.999, priorityFee: 7 })
        const cost = (fee) => String(21_000n * (BigInt(fee) + 7n))
        equal('quotes', quote.steps, row.steps, row)
        for (const [name, fee] of [['nowWei', expected.next_base_fee], ['expectedWei', row.point], ['maxWei', row.q999]]) equal('quotes', quote[name], cost(fee), row)
      })
    }
    base = BigInt(nextBaseFee)
  }
  equal('forecasts', at, forecasts.length, {})
  forecaster.free()
}
