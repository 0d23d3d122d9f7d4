// What the environment says. It is read when it is needed: `next build` has none of it.

const modes = ['article', 'package', 'service'] as const

export type Mode = (typeof modes)[number]

/** What places the orders. */
export function mode(): Mode {
  const said = process.env.MODE || 'package'
  const found = modes.find((it) => it === said)
  if (found === undefined) throw new Error(`MODE is ${JSON.stringify(said)}; set it to ${modes.join(', ')}, or leave it out for package`)
  return found
}

/** The address of something outside of this app. */
export function address(name: 'DATABASE_URL' | 'REDIS_URL' | 'SERVICE_URL' | 'PAYMENT_URL' | 'MAIL_URL'): string {
  const url = process.env[name]
  if (!url) throw new Error(`${name} is not set; MODE=${mode()} needs it (see README.md)`)
  return url
}

/** How long a mutation takes, so that its duplicates overlap. */
export function workMs(): number {
  const said = process.env.WORK_MS || '50'
  const ms = Number(said)
  if (!(ms >= 0 && ms <= 60_000)) throw new Error(`WORK_MS is ${JSON.stringify(said)}; set it to milliseconds from 0 to 60000`)
  return ms
}
