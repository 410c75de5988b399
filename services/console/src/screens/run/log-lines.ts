// The lines of one run's log, what of them is shown, and where the searched text
// is. Made for 100,000 lines: what is known is appended to and never copied, a
// search goes on in slices, and its reader is told once per frame.
import type { LogLine } from '../../api/types'

export const levels = ['ERROR', 'WARN', 'INFO', 'DEBUG'] as const
export type Level = (typeof levels)[number]

const levelOf = (line: LogLine): Level => (levels as readonly string[]).includes(line.level) ? (line.level as Level) : 'INFO'

/** What a search reads at once: some milliseconds' worth. */
const sliceLines = 10_000
const sliceCharacters = 2_000_000

/** The text as a pattern that finds it whatever its case; null for none. */
export function needleOf(text: string): RegExp | null {
  return text === '' ? null : new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'), 'iu')
}

export class Log {
  readonly lines: LogLine[] = []
  readonly counts: Record<Level, number> = { ERROR: 0, WARN: 0, INFO: 0, DEBUG: 0 }
  /** Indices of the lines that the levels let through, ascending. */
  shown: number[] = []
  /** Places in shown of the lines that have the needle, ascending. */
  hits: number[] = []
  needle: RegExp | null = null

  #levels: ReadonlySet<Level> = new Set()
  #searched = 0 // of shown
  #version = 0
  #due = false
  #readers = new Set<() => void>()
  #soon: (work: () => void) => void

  /** soon calls back before the next frame. */
  constructor(soon: (work: () => void) => void = (work) => requestAnimationFrame(work)) {
    this.#soon = soon
  }

  /** Adds lines of which the first has this number, from 0; those known already are
   * passed over, for a stream that begins anew may repeat some. */
  append(first: number, lines: LogLine[]) {
    for (let i = Math.max(this.lines.length - first, 0); i < lines.length; i++) {
      const line = lines[i]!
      if (this.#lets(line)) this.shown.push(this.lines.length)
      this.counts[levelOf(line)]++
      this.lines.push(line)
    }
    this.#schedule()
  }

  /** Shows only these levels; all when there are none. */
  setLevels(only: ReadonlySet<Level>) {
    this.#levels = only
    this.shown = []
    this.lines.forEach((line, i) => {
      if (this.#lets(line)) this.shown.push(i)
    })
    this.#searchAnew()
  }

  /** Looks for the text, whatever its case; for none when it is empty. */
  setNeedle(text: string) {
    this.needle = needleOf(text)
    this.#searchAnew()
  }

  /** Whether all that is shown has been searched. */
  get searchedAll() {
    return this.needle === null || this.#searched >= this.shown.length
  }

  /** For useSyncExternalStore. */
  subscribe = (reader: () => void) => {
    this.#readers.add(reader)
    return () => {
      this.#readers.delete(reader)
    }
  }
  version = () => this.#version

  /** The place in shown of a line, or of the first one after it. */
  placeOf(line: number): number {
    return firstAtLeast(this.shown, line)
  }

  #lets(line: LogLine) {
    return this.#levels.size === 0 || this.#levels.has(levelOf(line))
  }

  #searchAnew() {
    this.hits = []
    this.#searched = 0
    this.#schedule()
  }

  #schedule() {
    if (this.#due) return
    this.#due = true
    this.#soon(() => {
      this.#due = false
      this.#search()
      this.#version++
      for (const tell of this.#readers) tell()
      if (!this.searchedAll) this.#schedule()
    })
  }

  #search() {
    if (!this.needle) return
    const end = Math.min(this.#searched + sliceLines, this.shown.length)
    for (let read = 0; this.#searched < end && read < sliceCharacters; this.#searched++) {
      const { message } = this.lines[this.shown[this.#searched]!]!
      if (this.needle.test(message)) this.hits.push(this.#searched)
      read += message.length
    }
  }
}

/** The index of the first of the ascending numbers that is at least this. */
export function firstAtLeast(ascending: number[], least: number): number {
  let low = 0
  let high = ascending.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (ascending[middle]! < least) low = middle + 1
    else high = middle
  }
  return low
}

/** A text in pieces, those that match the needle marked. The rest of a line with
 * very many matches stays in one piece. */
export function pieces(text: string, needle: RegExp | null, most = 200): { text: string; hit: boolean }[] {
  if (!needle) return [{ text, hit: false }]
  const out: { text: string; hit: boolean }[] = []
  let from = 0
  for (const match of text.matchAll(new RegExp(needle.source, needle.flags + 'g'))) {
    if (match[0] === '' || out.length >= 2 * most) break
    if (match.index > from) out.push({ text: text.slice(from, match.index), hit: false })
    out.push({ text: match[0], hit: true })
    from = match.index + match[0].length
  }
  if (from < text.length || out.length === 0) out.push({ text: text.slice(from), hit: false })
  return out
}

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit', fractionalSecondDigits: 3 })

/** The time of a line: on the reader's clock, or since the run's start. */
export function lineTime(at: string, start: string | null): string {
  const when = new Date(at)
  if (Number.isNaN(when.getTime())) return ''
  if (start === null) return clock.format(when)
  const milliseconds = when.getTime() - new Date(start).getTime()
  const all = Math.abs(milliseconds)
  const two = (n: number) => String(Math.floor(n)).padStart(2, '0')
  const hours = all >= 3_600_000 ? `${Math.floor(all / 3_600_000)}:` : ''
  return `${milliseconds < 0 ? '-' : '+'}${hours}${two((all / 60_000) % 60)}:${two((all / 1000) % 60)}.${String(all % 1000).padStart(3, '0')}`
}

/** Lines as a text file, in parts that a Blob puts together. */
export function asText(lines: LogLine[]): string[] {
  const parts: string[] = []
  for (let from = 0; from < lines.length; from += 1000) {
    parts.push(
      lines
        .slice(from, from + 1000)
        .map((line) => `${line.timestamp} ${line.level.padEnd(5)} ${line.message}\n`)
        .join(''),
    )
  }
  return parts
}
