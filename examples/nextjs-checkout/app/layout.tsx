import type { Metadata } from 'next'
import type { ReactNode } from 'react'
import './style.css'

// An icon of its own would be one more request for each page.
export const metadata: Metadata = { title: 'Checkout', icons: 'data:,' }

export default function Layout({ children }: { children: ReactNode }) {
  return (
    <html lang="en">
      <body>
        <main>
          <h1>Checkout</h1>
          {children}
        </main>
      </body>
    </html>
  )
}
