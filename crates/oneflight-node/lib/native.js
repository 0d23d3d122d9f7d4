'use strict'
// Loads the native half that was built for this platform.

const platform = `${process.platform}-${process.arch}`

try {
  module.exports = require(`../oneflight.${platform}.node`)
} catch (cause) {
  const missing = cause.code === 'MODULE_NOT_FOUND'
  const advice = missing
    ? `this copy of the package was not built for ${platform}; run \`npm run build\` in crates/oneflight-node on such a machine`
    : `the library for ${platform} cannot be loaded here: ${cause.message}`
  throw new Error(`oneflight: ${advice}`, { cause })
}
