// Brings the project's licences into the package.

import { copyFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const home = dirname(dirname(fileURLToPath(import.meta.url)))
for (const name of ['LICENSE-APACHE', 'LICENSE-MIT']) copyFileSync(join(home, '..', '..', name), join(home, name))
