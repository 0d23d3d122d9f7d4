'use strict'
// What the package offers. `index.mjs` offers the same to `import`, from the same modules.

const { Idempotency } = require('./lib/idempotency.js')
const { correlation } = require('./lib/correlation.js')
const { Group } = require('./lib/group.js')
const { OneflightError, classes } = require('./lib/errors.js')
const { adapters } = require('./lib/adapters.js')

module.exports = { Idempotency, Group, adapters, correlation, OneflightError, ...classes }
