// Times and durations for people: relative, with the absolute one on hover.
import { Text, type TextProps, Tooltip } from '@mantine/core'
import { useSyncExternalStore } from 'react'
import { Hint } from './hint'

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone
/** The reader's own IANA zone. */
export const myZone = zone

// One clock for all of a page, which ticks only while somebody looks at it.
const listeners = new Set<() => void>()
let now = Date.now()
let timer: ReturnType<typeof setInterval> | undefined
function subscribe(listener: () => void) {
  listeners.add(listener)
  timer ??= setInterval(() => {
    now = Date.now()
    for (const tell of listeners) tell()
  }, 1000)
  return () => {
    listeners.delete(listener)
    if (listeners.size === 0) {
      clearInterval(timer)
      timer = undefined
    }
  }
}

/** The present, in milliseconds; the caller is drawn again each second. */
export const useNow = () => useSyncExternalStore(subscribe, () => now)

const units: [Intl.RelativeTimeFormatUnit, number][] = [
  ['year', 365 * 86400],
  ['month', 30 * 86400],
  ['day', 86400],
  ['hour', 3600],
  ['minute', 60],
]
const relativeFormat = new Intl.RelativeTimeFormat('en', { numeric: 'auto' })

/** "in 3 minutes", "2 days ago"; seconds are told below a minute. */
export function relative(at: Date | string, from: number): string {
  const seconds = (new Date(at).getTime() - from) / 1000
  for (const [unit, size] of units) {
    if (Math.abs(seconds) >= size) return relativeFormat.format(Math.trunc(seconds / size), unit)
  }
  const whole = Math.trunc(seconds)
  return whole === 0 ? 'now' : relativeFormat.format(whole, 'second')
}

// Making a format takes longer than a hundred uses of it.
const formats = new Map<string, Intl.DateTimeFormat>()

/** Date and time to the second in a zone, the reader's without one. */
export function absolute(at: Date | string, timeZone: string = zone): string {
  let format = formats.get(timeZone)
  if (!format) {
    format = new Intl.DateTimeFormat('en-GB', {
      timeZone,
      weekday: 'short',
      day: 'numeric',
      month: 'short',
      year: 'numeric',
      hour: '2-digit',
      minute: '2-digit',
      second: '2-digit',
      timeZoneName: 'short',
    })
    formats.set(timeZone, format)
  }
  return format.format(new Date(at))
}

const shortFormat = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', year: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit' })

/** Date and time to the second in the reader's zone, for columns of them. */
export const shortTime = (at: Date | string): string => shortFormat.format(new Date(at))

/** A time as "in 3 minutes"; pointed at or touched, in full, in the reader's zone and UTC.
 * past are the words for a time to come once it is over. */
export function RelativeTime({ at, none = '–', past, ...rest }: { at: string | null | undefined; none?: string; past?: string } & TextProps) {
  // Of hundreds in a list only those are drawn again whose words have changed.
  const words = useSyncExternalStore(subscribe, () => (!at ? '' : past && new Date(at).getTime() <= now ? past : relative(at, now)))
  if (!at) return <Text span inherit c="dimmed" {...rest}>{none}</Text>
  return (
    <Hint label={() => `${absolute(at)} · ${absolute(at, 'UTC')}`}>
      {Object.keys(rest).length === 0 ? (
        <time dateTime={at}>{words}</time>
      ) : (
        <Text span inherit {...rest}>
          <time dateTime={at}>{words}</time>
        </Text>
      )}
    </Hint>
  )
}

/** "1.2 s", "3 min 20 s", "2 h 5 min", "3 d 4 h". */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return '–'
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1).replace(/\.0$/, '') : Math.round(seconds)} s`
  const whole = Math.round(seconds)
  const parts: [number, string][] = [
    [Math.floor(whole / 86400), 'd'],
    [Math.floor((whole % 86400) / 3600), 'h'],
    [Math.floor((whole % 3600) / 60), 'min'],
    [whole % 60, 's'],
  ]
  const first = parts.findIndex(([n]) => n > 0)
  return parts
    .slice(first, first + 2)
    .filter(([n]) => n > 0)
    .map(([n, unit]) => `${n} ${unit}`)
    .join(' ')
}

/** How long until a time, as a countdown: "04:59", "2 h 5 min"; "due" once it is past. */
export function Countdown({ at }: { at: string }) {
  const from = useNow()
  const left = Math.ceil((new Date(at).getTime() - from) / 1000)
  const text =
    left <= 0 ? 'due' : left < 3600 ? `${String(Math.floor(left / 60)).padStart(2, '0')}:${String(left % 60).padStart(2, '0')}` : duration(left)
  return (
    <Tooltip label={`${absolute(at)} · ${absolute(at, 'UTC')}`}>
      <Text span inherit ff="monospace">
        <time dateTime={at}>{text}</time>
      </Text>
    </Tooltip>
  )
}
