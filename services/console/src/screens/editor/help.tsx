import { useState } from 'react'
import classes from './editor.module.css'

/** A description as its first sentence and, where it is long, the rest behind a click. */
export function split(text: string): [first: string, rest: string] {
  if (text.length <= 150) return [text, '']
  const end = /^.{20,140}?[.;:](?=\s)/.exec(text)
  if (end) return [end[0], text.slice(end[0].length).trim()]
  const space = text.lastIndexOf(' ', 130)
  return space > 0 ? [text.slice(0, space), text.slice(space).trim()] : [text, '']
}

/** The help of a field. */
export function Help({ text }: { text: string }) {
  const [open, setOpen] = useState(false)
  const [first, rest] = split(text)
  if (!rest) return <>{first}</>
  return (
    <>
      {first} {open ? rest : '… '}
      {!open && (
        <button type="button" className={classes.more} onClick={() => setOpen(true)}>
          more
        </button>
      )}
    </>
  )
}
