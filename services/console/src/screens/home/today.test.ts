import { describe, expect, it } from 'vitest'
import type { Counts, Statistics } from '../../api/types'
import { at, execution, now } from '../run/sample'
import { hourInWords } from './figures'
import { all, bad, byJob, dueAt, hours, late, midnight, percent } from './today'

const counts = (change: Partial<Counts> = {}): Counts => ({ success: 0, failed: 0, timed_out: 0, cancelled: 0, skipped: 0, unknown: 0, ...change })

describe('midnight', () => {
  it('is the same all day, and the reader\'s own', () => {
    const morning = new Date(2026, 4, 7, 0, 0, 1).getTime()
    const night = new Date(2026, 4, 7, 23, 59, 59).getTime()
    expect(midnight(morning)).toBe(new Date(2026, 4, 7).toISOString())
    expect(midnight(night)).toBe(midnight(morning))
    expect(midnight(night + 1000)).toBe(new Date(2026, 4, 8).toISOString())
  })
})

describe('percent', () => {
  it.each([
    [null, '–'],
    [undefined, '–'],
    [0, '0 %'],
    [1, '100 %'],
    [0.5, '50 %'],
    [0.98765, '98.8 %'],
    [0.99999, '99.9 %'],
    [0.00001, '0.1 %'],
  ])('of %s is %s', (rate, want) => expect(percent(rate)).toBe(want))
})

describe('counts', () => {
  const c = counts({ success: 1, failed: 2, timed_out: 4, cancelled: 8, skipped: 16, unknown: 32 })
  it('are added up', () => {
    expect(bad(c)).toBe(38)
    expect(all(c)).toBe(63)
  })
})

describe('hours', () => {
  const step = (hour: number, c: Counts) => ({ from: new Date(2026, 4, 7, hour).toISOString(), counts: c, mean_seconds: 0, longest_seconds: 0 })
  it('fills the day up with hours to come', () => {
    const day = hours({ steps: [step(0, counts({ success: 3 })), step(1, counts({ failed: 1, unknown: 1, skipped: 2 }))] } as Statistics)
    expect(day.length).toBe(24)
    expect(day[0]).toMatchObject({ good: 3, bad: 0, other: 0 })
    expect(day[1]).toMatchObject({ good: 0, bad: 2, other: 2 })
    expect(day[23]).toEqual({ from: new Date(2026, 4, 7, 23).toISOString(), good: 0, bad: 0, other: 0 })
  })
  it('keeps a day of 25 hours, and nothing of nothing', () => {
    expect(hours({ steps: Array.from({ length: 25 }, (_, i) => step(i, counts())) } as Statistics).length).toBe(25)
    expect(hours({ steps: [] } as unknown as Statistics)).toEqual([])
  })
  it('is told in words', () => {
    const from = new Date(2026, 4, 7, 13).toISOString()
    expect(hourInWords({ from, good: 1200, bad: 1, other: 0 })).toBe('13:00: 1,200 succeeded, 1 failed')
    expect(hourInWords({ from, good: 0, bad: 0, other: 2 })).toBe('13:00: 2 skipped or cancelled')
    expect(hourInWords({ from, good: 0, bad: 0, other: 0 })).toBe('13:00: no runs')
  })
})

describe('late', () => {
  it.each([
    ['due a minute ago', execution({ status: 'pending', scheduled_for: at(0) }), false],
    ['due more than a minute ago', execution({ status: 'pending', scheduled_for: at(-1) }), true],
    ['running', execution({ status: 'running', scheduled_for: at(-999) }), false],
    ['waiting for its next attempt', execution({ status: 'retrying', scheduled_for: at(-999), next_attempt_at: at(90) }), false],
    ['overdue for its next attempt', execution({ status: 'retrying', scheduled_for: at(-999), next_attempt_at: at(-90) }), true],
  ])('%s', (_, run, want) => {
    expect(late(run, now)).toBe(want)
    expect(dueAt(run)).toBe(run.next_attempt_at ?? run.scheduled_for)
  })
})

describe('byJob', () => {
  it('puts failures of a job together, by the latest', () => {
    const failures = [
      execution({ id: 'a3', job_id: 'a' }),
      execution({ id: 'b1', job_id: 'b' }),
      execution({ id: 'a2', job_id: 'a' }),
      execution({ id: 't1', job_id: 'job_trials', job_name: 'one' }),
      execution({ id: 't2', job_id: 'job_trials', job_name: 'other' }),
    ]
    expect(byJob(failures).map((g) => [g.latest.id, g.count])).toEqual([['a3', 2], ['b1', 1], ['t1', 1], ['t2', 1]])
    expect(byJob([])).toEqual([])
  })
})
