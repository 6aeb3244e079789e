import type { Forecast } from 'slackwater'
import { perGas } from './format'

const [LEFT, RIGHT, TOP, BOTTOM] = [66, 14, 14, 30]
const BANDS: [low: number, high: number, className: string][] = [
  [0.01, 0.99, 'far'],
  [0.1, 0.9, 'outer'],
  [0.25, 0.75, 'inner'],
]

/** Draws recent base fees and the fan of what is ahead: time in blocks, to the right by its square root. */
export function drawFan(svg: SVGElement, seen: number[], forecast: Forecast, blockTimeMs: number): void {
  // As wide as it is shown, so that its letters are as large as all others.
  const WIDTH = Math.max(270, svg.clientWidth || 560)
  const [HEIGHT, marks] = WIDTH < 420 ? [250, [5, 25, 150]] : [330, [5, 25, 50, 150]]
  svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`)
  const fees = forecast.horizons.flatMap((horizon) => [Number(horizon.quantiles[1]?.fee), Number(horizon.quantiles.at(-2)?.fee)])
  const recent = seen.slice(-40)
  const all = [...fees, ...recent].filter((fee) => fee > 0).map(Math.log)
  let [low, high] = [Math.min(...all), Math.max(...all)]
  const pad = Math.max((high - low) * 0.08, 0.02)
  ;[low, high] = [low - pad, high + pad]
  const longest = Math.max(...forecast.horizons.map((horizon) => horizon.steps))
  const now = LEFT + (WIDTH - LEFT - RIGHT) * 0.34
  const x = (steps: number) =>
    steps >= 0
      ? now + (WIDTH - RIGHT - now) * Math.sqrt(steps / longest)
      : now - (now - LEFT) * (-steps / Math.max(recent.length - 1, 1))
  const y = (fee: number) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (Math.log(Math.max(fee, 1e-9)) - low) / (high - low))
  const at = (steps: number, fee: number) => `${x(steps).toFixed(1)},${y(fee).toFixed(1)}`
  const current = recent.at(-1) ?? Number(forecast.nextBaseFee)
  const quantile = (horizon: Forecast['horizons'][number], p: number) =>
    Number(horizon.quantiles.find((point) => Math.abs(point.p - p) < 1e-9)?.fee ?? horizon.point)

  const parts: string[] = []
  for (let line = 0; line <= 4; line++) {
    const fee = Math.exp(low + ((high - low) * line) / 4)
    parts.push(`<line class="grid" x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(fee)}" y2="${y(fee)}"/>`)
    parts.push(`<text class="axis" x="${LEFT - 8}" y="${y(fee) + 4}" text-anchor="end">${perGas(fee)}</text>`)
  }
  for (const [from, to, className] of BANDS) {
    const lower = forecast.horizons.map((horizon) => at(horizon.steps, quantile(horizon, from)))
    const upper = forecast.horizons.map((horizon) => at(horizon.steps, quantile(horizon, to))).reverse()
    parts.push(`<polygon class="${className}" points="${[at(0, current), ...lower, ...upper].join(' ')}"/>`)
  }
  const median = forecast.horizons.map((horizon) => at(horizon.steps, Number(horizon.q50)))
  parts.push(`<polyline class="mid" points="${[at(0, current), ...median].join(' ')}"/>`)
  parts.push(`<polyline class="now" points="${recent.map((fee, index) => at(index - recent.length + 1, fee)).join(' ')}"/>`)
  parts.push(`<line class="today" x1="${now}" x2="${now}" y1="${TOP}" y2="${HEIGHT - BOTTOM}"/>`)
  parts.push(`<circle class="dot" cx="${now}" cy="${y(current)}" r="4"/>`)
  parts.push(`<text class="axis" x="${now}" y="${HEIGHT - 10}" text-anchor="middle">now</text>`)
  for (const { steps } of forecast.horizons.filter((horizon) => marks.includes(horizon.steps))) {
    const seconds = Math.round((steps * blockTimeMs) / 1_000)
    const label = seconds < 90 ? `${seconds} s` : `${Math.round(seconds / 60)} min`
    parts.push(`<text class="axis" x="${x(steps)}" y="${HEIGHT - 10}" text-anchor="${steps === longest ? 'end' : 'middle'}">${label}</text>`)
  }
  svg.innerHTML = parts.join('')
}
