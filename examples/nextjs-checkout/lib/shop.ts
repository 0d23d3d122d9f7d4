import { mode } from './env'
import { article } from './modes/article'
import { inTransaction } from './modes/package'
import { service } from './modes/service'
import type { Shop } from './order'

/** The shop, as the mode has it. */
export function shop(): Shop {
  return { article, package: inTransaction, service }[mode()]
}
