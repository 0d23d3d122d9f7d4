// Next's own re-sending of actions is compiled into the scripts of the browser, so an app with it is another build.
const offline = process.env.USE_OFFLINE === '1'

/** @type {import('next').NextConfig} */
export default {
  // A native package: it is loaded by Node, and not bundled.
  serverExternalPackages: ['oneflight'],
  distDir: offline ? '.next-offline' : '.next',
  experimental: offline ? { useOffline: true } : {}
}
