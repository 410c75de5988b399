import { describe, expect, test } from 'vitest'
import type { Counts, Execution } from '../../api/types'
import { byDay, countsInWords, durations, hoursBefore, percent, startOfDay } from './figures'

const none: Counts = { success: 0, failed: 0, timed_out: 0, cancelled: 0, skipped: 0, unknown: 0 }
const step = (from: string, counts: Partial<Counts>) => ({ from, counts: { ...none, ...counts }, mean_seconds: 0, longest_seconds: 0 })

test('durations are of runs that ended, oldest first', () => {
  const run = (id: string, duration_seconds: number | null, completed_at: string | null) => ({ id, status: 'success', duration_seconds, completed_at, scheduled_for: `at ${id}` }) as Execution
  const runs = [run('going', 2, null), run('b', 3, 'then'), run('skipped', null, 'then'), run('a', 0, 'then')]
  expect(durations(runs)).toEqual([
    { id: 'a', status: 'success', seconds: 0, at: 'at a' },
    { id: 'b', status: 'success', seconds: 3, at: 'at b' },
  ])
})

describe('days', () => {
  test('are those of the zone', () => {
    const steps = [step('2026-01-01T22:00:00Z', { success: 1 }), step('2026-01-01T23:00:00Z', { success: 2, failed: 1 })]
    expect(byDay(steps, 'UTC')).toEqual([{ day: '2026-01-01', ...none, success: 3, failed: 1 }])
    expect(byDay(steps, 'Europe/Berlin')).toEqual([
      { day: '2026-01-01', ...none, success: 1 },
      { day: '2026-01-02', ...none, success: 2, failed: 1 },
    ])
  })
  test('with a change of clocks have 23 or 25 hours', () => {
    const hours = (from: string, n: number) => Array.from({ length: n }, (_, i) => step(new Date(Date.parse(from) + i * 3_600_000).toISOString(), { success: 1 }))
    expect(byDay(hours('2026-03-28T23:00:00Z', 24), 'Europe/Berlin').map((d) => [d.day, d.success])).toEqual([['2026-03-29', 23], ['2026-03-30', 1]])
    expect(byDay(hours('2026-10-24T22:00:00Z', 26), 'Europe/Berlin').map((d) => [d.day, d.success])).toEqual([['2026-10-25', 25], ['2026-10-26', 1]])
  })
  test('begin at midnight', () => {
    const start = startOfDay(new Date(2026, 2, 1, 15, 30), 1)
    expect([start.getMonth(), start.getDate(), start.getHours(), start.getMinutes()]).toEqual([1, 28, 0, 0])
  })
})

test('a question is the same for a quarter of an hour', () => {
  expect(hoursBefore(new Date('2026-01-02T10:14:59Z'), 24).toISOString()).toBe('2026-01-01T10:00:00.000Z')
  expect(hoursBefore(new Date('2026-01-02T10:15:00Z'), 24).toISOString()).toBe('2026-01-01T10:15:00.000Z')
})

test.each([
  [1, '100 %'],
  [0, '0 %'],
  [0.99999, '99.9 %'],
  [0.00001, '0.1 %'],
  [0.5, '50 %'],
  [0.98765, '98.8 %'],
])('%f is %s', (rate, words) => {
  expect(percent(rate)).toBe(words)
})

test('counts in words leave out what there was none of', () => {
  expect(countsInWords(none)).toBe('no runs')
  expect(countsInWords({ ...none, success: 1200, timed_out: 1 })).toBe('1,200 succeeded, 1 timed out')
})
