/**
 * Makes a call, and waits until its work has begun: `call` is given what the work calls then. Returns `{ called }`, since a promise alone
 * would be waited for.
 */
export async function underWay(call) {
  let called
  await new Promise((begun) => {
    called = call(begun)
  })
  return { called }
}
