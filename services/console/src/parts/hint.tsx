// A tooltip that costs nothing until a pointer is near: lists have hundreds.
import { Tooltip } from '@mantine/core'
import { type ReactNode, useRef, useState } from 'react'

/** Shows what label tells over its children while they are pointed at or touched. */
export function Hint({ label, children }: { label: () => string; children: ReactNode }) {
  const target = useRef<HTMLSpanElement>(null)
  const [near, setNear] = useState(false)
  return (
    <span ref={target} onPointerEnter={() => setNear(true)} onPointerLeave={() => setNear(false)}>
      {children}
      {near && <Tooltip target={target} opened label={label()} />}
    </span>
  )
}
