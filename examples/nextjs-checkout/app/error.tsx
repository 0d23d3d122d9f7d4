'use client'

/** Shown when an action or a page has no answer: the connection broke, or the app did. */
export default function Lost() {
  return (
    <section>
      <p role="alert" data-error="NoAnswer">
        No answer came, so it is not known here whether it was done. Reload this page. If it does not show what you sent, send the form
        again: it has the same key.
      </p>
      <button type="button" onClick={() => window.location.reload()}>
        Reload
      </button>
    </section>
  )
}
