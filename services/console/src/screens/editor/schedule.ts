// Schedules as people say them ("every weekday at 02:00"), as cron expressions, and
// the way between the two.
import dayjs from 'dayjs'
import timezone from 'dayjs/plugin/timezone'
import utc from 'dayjs/plugin/utc'
import type { ScheduleInput } from '../../api/types'

dayjs.extend(utc)
dayjs.extend(timezone)

// --- cron expressions --------------------------------------------------------

export type FieldName = 'second' | 'minute' | 'hour' | 'day' | 'month' | 'weekday'
type Bounds = { least: number; most: number; names: string[]; offset: number }

/** What each field of an expression may hold. */
export const bounds: Record<FieldName, Bounds> = {
  second: { least: 0, most: 59, names: [], offset: 0 },
  minute: { least: 0, most: 59, names: [], offset: 0 },
  hour: { least: 0, most: 23, names: [], offset: 0 },
  day: { least: 1, most: 31, names: [], offset: 0 },
  month: { least: 1, most: 12, names: ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'], offset: 1 },
  weekday: { least: 0, most: 7, names: ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'], offset: 0 },
}

/** Short names of expressions, with what they stand for. */
export const macros: Record<string, string> = {
  '@hourly': '0 * * * *',
  '@daily': '0 0 * * *',
  '@midnight': '0 0 * * *',
  '@weekly': '0 0 * * 0',
  '@monthly': '0 0 1 * *',
  '@yearly': '0 0 1 1 *',
  '@annually': '0 0 1 1 *',
}

export const fiveFields: FieldName[] = ['minute', 'hour', 'day', 'month', 'weekday']

/** The fields of an expression by name; null when their number is wrong. Macros are
 * written out. */
export function splitCron(expression: string): Partial<Record<FieldName, string>> | null {
  const text = expression.trim()
  const words = (macros[text.toLowerCase()] ?? text).split(/\s+/)
  if (words.length !== 5 && words.length !== 6) return null
  const names: FieldName[] = words.length === 6 ? ['second', ...fiveFields] : fiveFields
  return Object.fromEntries(names.map((name, i) => [name, words[i]!]))
}

/** The expression of fields; the second only if there is one. */
export const joinCron = (fields: Partial<Record<FieldName, string>>) =>
  [fields.second, ...fiveFields.map((name) => fields[name] ?? '*')].filter((f) => f !== undefined).join(' ')

/** What a field says, as far as a form can show it. */
export type FieldPart =
  | { mode: 'every' }
  | { mode: 'step'; step: number }
  | { mode: 'range'; from: number; to: number }
  | { mode: 'chosen'; values: number[] }
  | { mode: 'text'; text: string }

function number(name: FieldName, word: string): number | null {
  const { least, most, names, offset } = bounds[name]
  const i = names.indexOf(word.toLowerCase())
  const n = i >= 0 ? i + offset : /^[0-9]{1,2}$/.test(word) ? Number(word) : NaN
  return n >= least && n <= most ? n : null
}

/** Reads a field. What is neither a star, a step, a range nor a list of values stays
 * as it is written. */
export function readField(name: FieldName, word: string): FieldPart {
  const text: FieldPart = { mode: 'text', text: word }
  if (word === '*' || word === '?') return { mode: 'every' }
  const step = /^[*?]\/([0-9]{1,2})$/.exec(word)
  if (step) {
    const n = Number(step[1])
    return n >= 1 && n <= bounds[name].most ? { mode: 'step', step: n } : text
  }
  const range = /^([a-z0-9]+)-([a-z0-9]+)$/i.exec(word)
  if (range) {
    const from = number(name, range[1]!)
    let to = number(name, range[2]!)
    if (name === 'weekday' && to === 0 && from !== null && from > 0) to = 7
    return from !== null && to !== null && from <= to ? { mode: 'range', from, to } : text
  }
  const values = word.split(',').map((w) => number(name, w))
  if (values.some((v) => v === null)) return text
  const whole = (values as number[]).map((v) => (name === 'weekday' && v === 7 ? 0 : v))
  return { mode: 'chosen', values: [...new Set(whole)].sort((a, b) => a - b) }
}

/** Writes a field. */
export function writeField(part: FieldPart): string {
  switch (part.mode) {
    case 'every':
      return '*'
    case 'step':
      return part.step === 1 ? '*' : `*/${part.step}`
    case 'range':
      return `${part.from}-${part.to}`
    case 'chosen':
      return part.values.length ? part.values.join(',') : '*'
    default:
      return part.text
  }
}

// --- simple schedules --------------------------------------------------------

export type Rhythm = 'day' | 'weekday' | 'weekend' | 'weekdays' | 'month' | 'hours' | 'minutes'

/** A schedule in words; what a rhythm does not use is kept for another one. */
export type Simple = {
  rhythm: Rhythm
  /** Sunday is 0. */
  weekdays: number[]
  monthDays: number[]
  /** HH:MM */
  time: string
  /** Every so many hours, at this minute. */
  hours: number
  minute: number
  minutes: number
}

export const simpleDefault: Simple = { rhythm: 'day', weekdays: [1], monthDays: [1], time: '02:00', hours: 1, minute: 0, minutes: 15 }

/** Steps that divide an hour or a day evenly: others would leave a shorter gap at its end. */
export const evenHours = [1, 2, 3, 4, 6, 8, 12]
export const evenMinutes = [1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30]

/** The cron expression of a simple schedule. */
export function simpleToCron(simple: Simple): string {
  const [hour, minute] = simple.time.split(':').map(Number)
  const at = `${minute ?? 0} ${hour ?? 0}`
  const list = (values: number[], none: string) => (values.length ? [...values].sort((a, b) => a - b).join(',') : none)
  switch (simple.rhythm) {
    case 'day':
      return `${at} * * *`
    case 'weekday':
      return `${at} * * 1-5`
    case 'weekend':
      return `${at} * * 0,6`
    case 'weekdays':
      return `${at} * * ${list(simple.weekdays, '*')}`
    case 'month':
      return `${at} ${list(simple.monthDays, '1')} * *`
    case 'hours':
      return `${simple.minute} ${writeField({ mode: 'step', step: simple.hours })} * * *`
    case 'minutes':
      return `${writeField({ mode: 'step', step: simple.minutes })} * * * *`
  }
}

// The values that a field stands for, or null for a star.
function valuesOf(part: FieldPart): number[] | null | undefined {
  if (part.mode === 'every') return null
  if (part.mode === 'chosen') return part.values
  if (part.mode === 'range') return Array.from({ length: part.to - part.from + 1 }, (_, i) => part.from + i)
  return undefined
}

const two = (n: number) => String(n).padStart(2, '0')

/** The simple schedule of an expression, on top of what keep has for the rest; null
 * when it cannot be said simply. */
export function cronToSimple(expression: string, keep: Simple = simpleDefault): Simple | null {
  const fields = splitCron(expression)
  if (!fields || fields.second !== undefined) return null
  const [minute, hour, day, month, weekday] = fiveFields.map((name) => readField(name, fields[name]!)) as [FieldPart, FieldPart, FieldPart, FieldPart, FieldPart]
  if (month.mode !== 'every') return null
  const everyDay = day.mode === 'every' && weekday.mode === 'every'

  if (everyDay && hour.mode === 'every' && (minute.mode === 'every' || minute.mode === 'step')) {
    const minutes = minute.mode === 'every' ? 1 : minute.step
    return evenMinutes.includes(minutes) ? { ...keep, rhythm: 'minutes', minutes } : null
  }
  if (minute.mode !== 'chosen' || minute.values.length !== 1) return null
  const at = minute.values[0]!
  if (everyDay && (hour.mode === 'every' || hour.mode === 'step')) {
    const hours = hour.mode === 'every' ? 1 : hour.step
    return evenHours.includes(hours) ? { ...keep, rhythm: 'hours', hours, minute: at } : null
  }
  if (hour.mode !== 'chosen' || hour.values.length !== 1) return null
  const timed = { ...keep, time: `${two(hour.values[0]!)}:${two(at)}` }
  if (everyDay) return { ...timed, rhythm: 'day' }
  if (weekday.mode === 'every') {
    const days = valuesOf(day)
    return days ? { ...timed, rhythm: 'month', monthDays: days } : null
  }
  if (day.mode !== 'every') return null
  const days = valuesOf(weekday)
  if (!days) return null
  const set = [...new Set(days.map((d) => d % 7))].sort((a, b) => a - b)
  const key = set.join(',')
  if (key === '0,1,2,3,4,5,6') return { ...timed, rhythm: 'day' }
  if (key === '1,2,3,4,5') return { ...timed, rhythm: 'weekday' }
  if (key === '0,6') return { ...timed, rhythm: 'weekend' }
  return { ...timed, rhythm: 'weekdays', weekdays: set }
}

const dayNames = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday']
const ordinals = new Intl.PluralRules('en', { type: 'ordinal' })
const endings: Record<string, string> = { one: 'st', two: 'nd', few: 'rd', other: 'th' }
const ordinal = (n: number) => `${n}${endings[ordinals.select(n)]}`
const listed = new Intl.ListFormat('en', { type: 'conjunction' })

/** A simple schedule as a sentence without its zone. */
export function simpleInWords(simple: Simple): string {
  // Weeks begin on Monday here, as in most calendars on walls.
  const days = [...simple.weekdays].sort((a, b) => ((a + 6) % 7) - ((b + 6) % 7)).map((d) => dayNames[d]!)
  switch (simple.rhythm) {
    case 'day':
      return `Every day at ${simple.time}`
    case 'weekday':
      return `Every weekday (Monday to Friday) at ${simple.time}`
    case 'weekend':
      return `Every Saturday and Sunday at ${simple.time}`
    case 'weekdays':
      return days.length ? `Every ${listed.format(days)} at ${simple.time}` : `Every day at ${simple.time}`
    case 'month':
      return `On the ${listed.format((simple.monthDays.length ? [...simple.monthDays].sort((a, b) => a - b) : [1]).map(ordinal))} of every month at ${simple.time}`
    case 'hours':
      return `Every ${simple.hours === 1 ? 'hour' : `${simple.hours} hours`}, ${simple.minute === 0 ? 'on the hour' : `${simple.minute} min past`}`
    case 'minutes':
      return simple.minutes === 1 ? 'Every minute' : `Every ${simple.minutes} minutes`
  }
}

// --- times and zones ---------------------------------------------------------

/** All zones that the browser knows, the reader's own and UTC first. */
export function zones(mine: string): string[] {
  const first = [...new Set([mine, 'UTC'])]
  return [...first, ...Intl.supportedValuesOf('timeZone').filter((z) => !first.includes(z))]
}

/** A wall clock's "2026-01-31T02:00" in a zone as RFC 3339 in UTC; "" for none. */
export function instantOf(local: string, zone: string): string {
  if (!/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}/.test(local)) return ''
  const at = dayjs.tz(local, zone)
  return at.isValid() ? at.toDate().toISOString().replace('.000Z', 'Z') : ''
}

/** The reverse: what a wall clock in a zone shows at an instant. */
export const localOf = (instant: string, zone: string) => dayjs.utc(instant).tz(zone).format('YYYY-MM-DDTHH:mm')

/** Whether clocks in a zone change within two years from now. */
export function changesClocks(zone: string, now: number): boolean {
  const format = new Intl.DateTimeFormat('en', { timeZone: zone, timeZoneName: 'longOffset' })
  const offset = (t: number) => format.formatToParts(t).find((p) => p.type === 'timeZoneName')?.value
  const first = offset(now)
  return Array.from({ length: 24 }, (_, i) => now + (i + 1) * 30 * 86_400_000).some((t) => offset(t) !== first)
}

// --- the schedule of a draft -------------------------------------------------

export type Tab = 'simple' | 'cron' | 'interval' | 'once' | 'manual'
export const secondsOf = { seconds: 1, minutes: 60, hours: 3600, days: 86_400, weeks: 604_800 }
export type SpanUnit = keyof typeof secondsOf

/** What the tabs hold; each keeps its own while another one is shown. */
export type ScheduleDraft = {
  tab: Tab
  simple: Simple
  expression: string
  /** Of simple and cron. */
  zone: string
  gap: 'run_after' | 'skip'
  overlap: 'once' | 'twice'
  every: string
  unit: SpanUnit
  /** Wall clock in the reader's zone; "" for none. */
  start: string
  /** Wall clock in onceZone. */
  once: string
  onceZone: string
}

export function newSchedule(zone: string): ScheduleDraft {
  return {
    tab: 'simple',
    simple: simpleDefault,
    expression: simpleToCron(simpleDefault),
    zone,
    gap: 'run_after',
    overlap: 'once',
    every: '1',
    unit: 'hours',
    start: '',
    once: '',
    onceZone: zone,
  }
}

/** Seconds as a number of the largest unit that divides them. */
export function span(seconds: number): { every: string; unit: SpanUnit } {
  const unit = (Object.keys(secondsOf) as SpanUnit[]).reverse().find((u) => seconds % secondsOf[u] === 0) ?? 'seconds'
  return { every: String(seconds / secondsOf[unit]), unit }
}

/** The draft of a stored schedule; times are shown in the reader's zone. */
export function scheduleDraft(schedule: ScheduleInput, mine: string): ScheduleDraft {
  const draft = newSchedule(mine)
  switch (schedule.type) {
    case 'cron': {
      const expression = schedule.expression ?? ''
      const simple = cronToSimple(expression)
      return {
        ...draft,
        tab: simple ? 'simple' : 'cron',
        simple: simple ?? draft.simple,
        expression,
        zone: schedule.timezone || 'UTC',
        gap: schedule.dst?.gap === 'skip' ? 'skip' : 'run_after',
        overlap: schedule.dst?.overlap === 'twice' ? 'twice' : 'once',
      }
    }
    case 'interval':
      return { ...draft, tab: 'interval', ...span(schedule.interval_seconds ?? 3600), start: schedule.start ? localOf(schedule.start, mine) : '' }
    case 'once':
      return { ...draft, tab: 'once', once: schedule.run_at ? localOf(schedule.run_at, mine) : '' }
    default:
      return { ...draft, tab: 'manual' }
  }
}

/** Another tab, with what was typed taken along where both can say it. */
export function switchTab(draft: ScheduleDraft, tab: Tab): ScheduleDraft {
  if (tab === 'cron' && draft.tab === 'simple') return { ...draft, tab, expression: expressionOf(draft) }
  if (tab === 'simple' && draft.tab === 'cron') return { ...draft, tab, simple: cronToSimple(draft.expression, draft.simple) ?? draft.simple }
  return { ...draft, tab }
}

// The simple tab gives an expression back as its author wrote it while both mean
// the same: looking at a job must not change it.
function expressionOf(draft: ScheduleDraft): string {
  const made = simpleToCron(draft.simple)
  const kept = cronToSimple(draft.expression)
  return kept && simpleToCron(kept) === made ? draft.expression : made
}

export type Problem = { field: string; description: string }

/** The schedule as it is sent, and what is missing; fields as the registry names them. */
export function scheduleOf(draft: ScheduleDraft, mine: string): { schedule: ScheduleInput; problems: Problem[] } {
  switch (draft.tab) {
    case 'simple':
    case 'cron': {
      const expression = draft.tab === 'simple' ? expressionOf(draft) : draft.expression.trim()
      const problems: Problem[] = []
      if (!expression) problems.push({ field: 'schedule.expression', description: 'Give an expression, such as 0 2 * * *' })
      if (draft.tab === 'simple' && draft.simple.rhythm === 'weekdays' && draft.simple.weekdays.length === 0)
        problems.push({ field: 'schedule.weekdays', description: 'Choose at least one day' })
      if (draft.tab === 'simple' && draft.simple.rhythm === 'month' && draft.simple.monthDays.length === 0)
        problems.push({ field: 'schedule.monthDays', description: 'Choose at least one day' })
      if (draft.tab === 'simple' && !/^\d{2}:\d{2}/.test(draft.simple.time)) problems.push({ field: 'schedule.time', description: 'Give a time' })
      const usual = draft.gap === 'run_after' && draft.overlap === 'once'
      return { schedule: { type: 'cron', expression, timezone: draft.zone, ...(usual ? {} : { dst: { gap: draft.gap, overlap: draft.overlap } }) }, problems }
    }
    case 'interval': {
      const seconds = Math.round(Number(draft.every) * secondsOf[draft.unit])
      const fine = draft.every.trim() !== '' && Number.isFinite(seconds) && seconds >= 1
      const start = draft.start ? instantOf(draft.start, mine) : ''
      return {
        schedule: { type: 'interval', interval_seconds: seconds, ...(start ? { start } : {}) },
        problems: fine ? [] : [{ field: 'schedule.interval_seconds', description: 'Give a number of at least one second' }],
      }
    }
    case 'once': {
      const at = instantOf(draft.once, draft.onceZone)
      return { schedule: { type: 'once', run_at: at }, problems: at ? [] : [{ field: 'schedule.run_at', description: 'Give the date and the time' }] }
    }
    case 'manual':
      return { schedule: { type: 'manual' }, problems: [] }
  }
}

/** Whether changes of clocks concern the schedule: those whose hours are a rhythm
 * just go on. */
export function mindsClocks(draft: ScheduleDraft, now: number): boolean {
  if (draft.tab !== 'simple' && draft.tab !== 'cron') return false
  const hour = splitCron(draft.tab === 'simple' ? simpleToCron(draft.simple) : draft.expression)?.hour
  return hour !== undefined && !/^[*?]/.test(hour) && changesClocks(draft.zone, now)
}
