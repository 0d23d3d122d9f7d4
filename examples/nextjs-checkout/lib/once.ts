/**
 * Makes something that there is one of in a process. A module is no place for it: Next bundles this app more than once (pages,
 * routes, instrumentation), and `next dev` loads modules anew with each change.
 */
export function once<T>(name: string, make: () => T): () => T {
  const here = globalThis as { nextjsCheckout?: Map<string, unknown> }
  const made = (here.nextjsCheckout ??= new Map())
  return () => {
    if (!made.has(name)) {
      const it = make()
      made.set(name, it)
      // What failed to start is started again by the next call.
      if (it instanceof Promise) it.catch(() => made.delete(name))
    }
    return made.get(name) as T
  }
}
