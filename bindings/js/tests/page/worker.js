import * as slackwater from '/package/dist/index.js'
await slackwater.init()
const forecaster = new slackwater.Forecaster({ horizons: [2] })
postMessage([slackwater.maxBaseFeeAfter(1_000_000_000n, 2), forecaster.forecast() === undefined])
