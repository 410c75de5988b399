import { describe, expect, it } from 'vitest'
import type { ScheduleInput } from '../../api/types'
import {
  changesClocks,
  cronToSimple,
  evenHours,
  evenMinutes,
  type FieldName,
  type FieldPart,
  instantOf,
  joinCron,
  localOf,
  mindsClocks,
  newSchedule,
  readField,
  type ScheduleDraft,
  scheduleDraft,
  scheduleOf,
  type Simple,
  simpleDefault,
  simpleInWords,
  simpleToCron,
  span,
  splitCron,
  switchTab,
  writeField,
  zones,
} from './schedule'

const simple = (change: Partial<Simple>): Simple => ({ ...simpleDefault, ...change })
const now = Date.UTC(2026, 10, 23)

describe('splitCron and joinCron', () => {
  it.each(['0 2 * * *', '30 0 2 * * *', '*/5 1-3 1,15 JAN MON-FRI'])('take %s apart and put it together', (expression) => {
    expect(joinCron(splitCron(expression)!)).toBe(expression)
  })
  it('write macros out and refuse other numbers of fields', () => {
    expect(joinCron(splitCron(' @Daily ')!)).toBe('0 0 * * *')
    expect(splitCron('')).toBeNull()
    expect(splitCron('* * * *')).toBeNull()
    expect(splitCron('@every 5m')).toBeNull()
  })
})

describe('readField', () => {
  it.each<[FieldName, string, FieldPart]>([
    ['minute', '*', { mode: 'every' }],
    ['day', '?', { mode: 'every' }],
    ['minute', '*/15', { mode: 'step', step: 15 }],
    ['minute', '*/60', { mode: 'text', text: '*/60' }],
    ['minute', '*/0', { mode: 'text', text: '*/0' }],
    ['hour', '9-17', { mode: 'range', from: 9, to: 17 }],
    ['hour', '22-2', { mode: 'text', text: '22-2' }],
    ['weekday', 'MON-FRI', { mode: 'range', from: 1, to: 5 }],
    ['weekday', 'fri-sun', { mode: 'range', from: 5, to: 7 }],
    ['weekday', '7', { mode: 'chosen', values: [0] }],
    ['weekday', 'sun,7,sat', { mode: 'chosen', values: [0, 6] }],
    ['month', 'dec,1', { mode: 'chosen', values: [1, 12] }],
    ['day', '31,1,15', { mode: 'chosen', values: [1, 15, 31] }],
    ['day', '32', { mode: 'text', text: '32' }],
    ['day', '0', { mode: 'text', text: '0' }],
    ['hour', '10-40/10', { mode: 'text', text: '10-40/10' }],
    ['hour', '5/15', { mode: 'text', text: '5/15' }],
    ['minute', '1,,2', { mode: 'text', text: '1,,2' }],
    ['minute', 'mon', { mode: 'text', text: 'mon' }],
  ])('%s %s', (name, word, part) => {
    expect(readField(name, word)).toEqual(part)
  })

  it('is what writeField undoes', () => {
    const parts: FieldPart[] = [
      { mode: 'every' },
      { mode: 'step', step: 5 },
      { mode: 'range', from: 2, to: 5 },
      { mode: 'chosen', values: [1, 4] },
      { mode: 'text', text: '1-20/3' },
    ]
    for (const part of parts) expect(readField('minute', writeField(part))).toEqual(part)
    expect(writeField({ mode: 'step', step: 1 })).toBe('*')
    expect(writeField({ mode: 'chosen', values: [] })).toBe('*')
  })
})

describe('simple schedules', () => {
  it.each<[Partial<Simple>, string, string]>([
    [{}, '0 2 * * *', 'Every day at 02:00'],
    [{ rhythm: 'weekday', time: '09:30' }, '30 9 * * 1-5', 'Every weekday (Monday to Friday) at 09:30'],
    [{ rhythm: 'weekend' }, '0 2 * * 0,6', 'Every Saturday and Sunday at 02:00'],
    [{ rhythm: 'weekdays', weekdays: [0, 3, 1] }, '0 2 * * 0,1,3', 'Every Monday, Wednesday, and Sunday at 02:00'],
    [{ rhythm: 'month', monthDays: [22, 1, 3] }, '0 2 1,3,22 * *', 'On the 1st, 3rd, and 22nd of every month at 02:00'],
    [{ rhythm: 'hours', hours: 1, minute: 0 }, '0 * * * *', 'Every hour, on the hour'],
    [{ rhythm: 'hours', hours: 6, minute: 15 }, '15 */6 * * *', 'Every 6 hours, 15 min past'],
    [{ rhythm: 'minutes', minutes: 15 }, '*/15 * * * *', 'Every 15 minutes'],
    [{ rhythm: 'minutes', minutes: 1 }, '* * * * *', 'Every minute'],
  ])('%j is %s', (change, expression, words) => {
    expect(simpleToCron(simple(change))).toBe(expression)
    expect(simpleInWords(simple(change))).toBe(words)
  })

  it('come back from their expression, whatever they are', () => {
    const all: Simple[] = []
    for (const time of ['00:00', '02:05', '23:59']) {
      for (const rhythm of ['day', 'weekday', 'weekend'] as const) all.push(simple({ rhythm, time }))
      for (const weekdays of [[0], [1, 2], [0, 1, 2, 3, 4, 5], [6]]) all.push(simple({ rhythm: 'weekdays', weekdays, time }))
      for (const monthDays of [[1], [31], [1, 15, 28]]) all.push(simple({ rhythm: 'month', monthDays, time }))
    }
    for (const hours of evenHours) all.push(simple({ rhythm: 'hours', hours, minute: 59 }))
    for (const minutes of evenMinutes) all.push(simple({ rhythm: 'minutes', minutes }))
    for (const s of all) expect(cronToSimple(simpleToCron(s), s)).toEqual(s)
  })

  it.each<[string, Partial<Simple>]>([
    ['@daily', { rhythm: 'day', time: '00:00' }],
    ['@hourly', { rhythm: 'hours', hours: 1, minute: 0 }],
    ['@weekly', { rhythm: 'weekdays', weekdays: [0], time: '00:00' }],
    ['@monthly', { rhythm: 'month', monthDays: [1], time: '00:00' }],
    ['0 9 * * MON-FRI', { rhythm: 'weekday', time: '09:00' }],
    ['0 9 * * 6,7', { rhythm: 'weekend', time: '09:00' }],
    ['0 9 * * 0-6', { rhythm: 'day', time: '09:00' }],
    ['0 9 * * 5-7', { rhythm: 'weekdays', weekdays: [0, 5, 6], time: '09:00' }],
    ['0 9 1-3 * *', { rhythm: 'month', monthDays: [1, 2, 3], time: '09:00' }],
  ])('read %s', (expression, want) => {
    expect(cronToSimple(expression)).toEqual(simple(want))
  })

  it.each(['0 2 1 1 *', '0 2 1 * 1', '0 2,14 * * *', '0 9-17 * * *', '0 0 2 * * *', '*/7 * * * *', '0 */5 * * *', '5-10 * * * *', '0 2 */2 * *', '*/5 2 * * *', '0 2 * * 1/2', 'x', '@yearly'])(
    'cannot say %s',
    (expression) => {
      expect(cronToSimple(expression)).toBeNull()
    },
  )
})

describe('zones', () => {
  it('has the reader\'s own and UTC first, and none twice', () => {
    const all = zones('Europe/Berlin')
    expect(all.slice(0, 2)).toEqual(['Europe/Berlin', 'UTC'])
    expect(new Set(all).size).toBe(all.length)
    expect(zones('UTC')[1]).not.toBe('UTC')
  })

  it('knows whose clocks change', () => {
    expect(changesClocks('Europe/Berlin', now)).toBe(true)
    expect(changesClocks('Australia/Lord_Howe', now)).toBe(true)
    expect(changesClocks('UTC', now)).toBe(false)
    expect(changesClocks('Asia/Tokyo', now)).toBe(false)
  })

  it('reads wall clocks', () => {
    expect(instantOf('2026-01-31T02:00', 'Europe/Berlin')).toBe('2026-01-31T01:00:00Z')
    expect(instantOf('2026-07-31T02:00', 'America/New_York')).toBe('2026-07-31T06:00:00Z')
    expect(instantOf('', 'UTC')).toBe('')
    expect(instantOf('soon', 'UTC')).toBe('')
    expect(localOf('2026-01-31T01:00:00Z', 'Europe/Berlin')).toBe('2026-01-31T02:00')
  })
})

describe('the draft of a schedule', () => {
  const mine = 'Europe/Berlin'
  const back = (schedule: ScheduleInput) => scheduleOf(scheduleDraft(schedule, mine), mine)

  it('starts with every day at 02:00 in the reader\'s zone', () => {
    expect(scheduleOf(newSchedule(mine), mine)).toEqual({
      schedule: { type: 'cron', expression: '0 2 * * *', timezone: mine },
      problems: [],
    })
  })

  it.each<ScheduleInput>([
    { type: 'cron', expression: '0 19 * * *', timezone: 'UTC', dst: { gap: 'skip', overlap: 'twice' } },
    { type: 'cron', expression: '0 19 * * *', timezone: 'UTC', dst: { gap: 'run_after', overlap: 'twice' } },
    { type: 'cron', expression: '@daily', timezone: 'Asia/Tokyo' },
    { type: 'cron', expression: '0 9 * * MON-FRI', timezone: 'UTC' },
    { type: 'cron', expression: '5 4 1 */2 *', timezone: 'UTC' },
    { type: 'interval', interval_seconds: 5400 },
    { type: 'interval', interval_seconds: 86_400, start: '2026-03-01T10:00:00Z' },
    { type: 'once', run_at: '2030-01-31T08:00:00Z' },
    { type: 'manual' },
  ])('gives %j back as it was', (schedule) => {
    expect(back(schedule)).toEqual({ schedule, problems: [] })
  })

  it('takes UTC where a stored schedule names no zone', () => {
    expect(back({ type: 'cron', expression: '0 1 * * *' }).schedule.timezone).toBe('UTC')
  })

  it('shows spans in their largest unit', () => {
    expect(span(3600)).toEqual({ every: '1', unit: 'hours' })
    expect(span(5400)).toEqual({ every: '90', unit: 'minutes' })
    expect(span(61)).toEqual({ every: '61', unit: 'seconds' })
    expect(span(1_209_600)).toEqual({ every: '2', unit: 'weeks' })
  })

  it.each<[Partial<ScheduleDraft>, string]>([
    [{ tab: 'cron', expression: ' ' }, 'schedule.expression'],
    [{ simple: simple({ rhythm: 'weekdays', weekdays: [] }) }, 'schedule.weekdays'],
    [{ simple: simple({ rhythm: 'month', monthDays: [] }) }, 'schedule.monthDays'],
    [{ simple: simple({ time: '' }) }, 'schedule.time'],
    [{ tab: 'interval', every: '' }, 'schedule.interval_seconds'],
    [{ tab: 'interval', every: '0' }, 'schedule.interval_seconds'],
    [{ tab: 'interval', every: 'x' }, 'schedule.interval_seconds'],
    [{ tab: 'once', once: '' }, 'schedule.run_at'],
  ])('says what is missing in %j', (change, field) => {
    expect(scheduleOf({ ...newSchedule(mine), ...change }, mine).problems.map((p) => p.field)).toEqual([field])
  })

  it('keeps what each tab has, and takes along what both can say', () => {
    let draft: ScheduleDraft = { ...newSchedule(mine), simple: simple({ rhythm: 'weekday', time: '07:15' }), every: '90', unit: 'minutes' }
    draft = switchTab(draft, 'cron')
    expect(draft.expression).toBe('15 7 * * 1-5')
    draft = switchTab({ ...draft, expression: '0 8 * * 0,6' }, 'simple')
    expect(draft.simple).toMatchObject({ rhythm: 'weekend', time: '08:00' })
    draft = switchTab(draft, 'interval')
    expect(draft).toMatchObject({ tab: 'interval', every: '90', unit: 'minutes' })
    draft = switchTab({ ...switchTab(draft, 'cron'), expression: '0 8 1 1 *' }, 'simple')
    expect(draft.simple.rhythm).toBe('weekend')
  })

  it('asks about clocks only where they matter', () => {
    const draft = newSchedule(mine)
    expect(mindsClocks(draft, now)).toBe(true)
    expect(mindsClocks({ ...draft, zone: 'UTC' }, now)).toBe(false)
    expect(mindsClocks({ ...draft, simple: simple({ rhythm: 'hours' }) }, now)).toBe(false)
    expect(mindsClocks({ ...draft, tab: 'cron', expression: '0 9-17 * * *' }, now)).toBe(true)
    expect(mindsClocks({ ...draft, tab: 'cron', expression: 'x' }, now)).toBe(false)
    expect(mindsClocks({ ...draft, tab: 'interval' }, now)).toBe(false)
  })
})
