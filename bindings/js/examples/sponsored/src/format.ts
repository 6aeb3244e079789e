/** An amount of wei, for people. */
export function ether(wei: bigint | string): string {
  const value = BigInt(wei)
  if (value === 0n) return '0 ETH'
  const eth = Number(value) / 1e18
  if (eth >= 1e-7) return `${Number(eth.toPrecision(3))} ETH`
  if (value >= 10_000_000n) return `${Number((Number(value) / 1e9).toPrecision(3))} gwei`
  return `${value.toLocaleString('en')} wei`
}

/** A price of gas, for people. */
export function perGas(wei: number): string {
  if (wei >= 1e7) return `${Number((wei / 1e9).toPrecision(3))} gwei`
  if (wei >= 1e4) return `${Number((wei / 1e6).toPrecision(3))} Mwei`
  return `${Number(wei.toPrecision(3))} wei`
}

/** A span of time, for people. */
export function span(ms: number): string {
  if (ms < 1_500) return 'now'
  if (ms < 90_000) return `in ${Math.round(ms / 1_000)} s`
  return `in ${Math.round(ms / 60_000)} min`
}

export const short = (hex: string): string => `${hex.slice(0, 6)}…${hex.slice(-4)}`
