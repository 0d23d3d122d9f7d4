import { start } from '../../../lib/start'

export const dynamic = 'force-dynamic'

/** Answers 200 when the app is ready. */
export async function GET() {
  try {
    await start()
    return new Response('ready\n')
  } catch {
    return new Response('not ready: the log says why\n', { status: 503 })
  }
}
