'use client'

import { type MouseEvent, type ReactNode, useEffect, useState } from 'react'
import { useFormStatus } from 'react-dom'

/**
 * The article's button: it is off while its form is being sent, and from the first click on, which is sooner than React knows of the
 * sending. A courtesy to the user, and no protection: scripts may be off or late, and other tabs, browsers and proxies have buttons of
 * their own.
 */
export function SubmitButton({ children }: { children: ReactNode }) {
  const { pending } = useFormStatus()
  const [clicked, setClicked] = useState(false)
  useEffect(() => {
    if (!pending) setClicked(false)
  }, [pending])

  function click(event: MouseEvent<HTMLButtonElement>) {
    // Not by `disabled`: React would set it before the browser comes to send the form, and a disabled button sends nothing.
    if (clicked) event.preventDefault()
    else if (event.currentTarget.form?.checkValidity()) setClicked(true)
  }

  return (
    <button type="submit" disabled={pending} aria-disabled={clicked} onClick={click}>
      {pending || clicked ? 'One moment …' : children}
    </button>
  )
}
