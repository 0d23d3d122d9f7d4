// What tests and storm start: servers on free ports of the loopback interface, proxies between them, and the application itself.
// Nothing runs before, and nothing is left.

export { startRedis } from '../../../crates/oneflight-node/test/support/redis.mjs'
export { buildApp, startApp } from './app.mjs'
export { startCutter } from './cutter.mjs'
export { startPostgres } from './postgres.mjs'
export { buildProxy, startProxy } from './proxy.mjs'
export { buildService, startService } from './service.mjs'
export { startStaller } from './staller.mjs'
export { startStandIns } from './stand-ins.mjs'
