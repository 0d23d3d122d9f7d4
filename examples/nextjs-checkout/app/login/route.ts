import { USER } from '../../lib/request'

/** `GET /login?user=ada`: a demonstration. The name that is given is believed: there is no password and no session. */
export function GET(request: Request) {
  const user = new URL(request.url).searchParams.get('user') ?? ''
  if (!USER.test(user)) {
    return new Response('Say who you are: /login?user=ada, with letters, digits and hyphens, 32 at most.\n', { status: 400 })
  }
  const cookie = `user=${user}; Path=/; HttpOnly; SameSite=Lax`
  return new Response(null, { status: 303, headers: { Location: '/', 'Set-Cookie': cookie } })
}
