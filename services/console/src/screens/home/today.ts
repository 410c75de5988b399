// What the home screen works out from the answers of the registry.
import type { Counts, Execution, Statistics } from '../../api/types'

/** The last midnight of the reader's zone, as an instant. now is in milliseconds. */
export function midnight(now: number): string {
  const day = new Date(now)
  day.setHours(0, 0, 0, 0)
  return day.toISOString()
}

/** How many ended badly: nobody may take an unknown end for a good one. */
export const bad = (counts: Counts) => counts.failed + counts.timed_out + counts.unknown

export const all = (counts: Counts) => counts.success + bad(counts) + counts.cancelled + counts.skipped

/** A share as "99.9 %": never rounded up to all, nor down to none. "–" for no runs. */
export function percent(rate: number | null | undefined): string {
  if (rate === null || rate === undefined) return '–'
  const rounded = Math.round(rate * 1000) / 10
  if (rounded === 100 && rate < 1) return '99.9 %'
  if (rounded === 0 && rate > 0) return '0.1 %'
  return `${rounded} %`
}

export type Hour = { from: string; good: number; bad: number; other: number }

/** The day by the hour, as bars; hours to come are empty ones. */
export function hours(statistics: Statistics): Hour[] {
  const day = statistics.steps.map(({ from, counts }) => ({ from, good: counts.success, bad: bad(counts), other: counts.cancelled + counts.skipped }))
  const last = day.at(-1)
  for (let next = last ? new Date(last.from).getTime() + 3_600_000 : NaN; day.length > 0 && day.length < 24; next += 3_600_000) {
    day.push({ from: new Date(next).toISOString(), good: 0, bad: 0, other: 0 })
  }
  return day
}

/** The instant since which a run waits: its time, or that of its next attempt. */
export const dueAt = (run: Execution) => run.next_attempt_at ?? run.scheduled_for

/** Whether it ought to run and has not for more than a minute. now is in milliseconds. */
export const late = (run: Execution, now: number) => run.status !== 'running' && new Date(dueAt(run)).getTime() < now - 60_000

export type Failures = { latest: Execution; count: number }

/** Failures, latest first, put together by job: one entry for each, by its latest. */
export function byJob(failures: Execution[]): Failures[] {
  const groups = new Map<string, Failures>()
  for (const run of failures) {
    // Trials and notifications share a job that is nobody's: their name tells them apart.
    const key = `${run.job_id} ${run.job_name}`
    const group = groups.get(key)
    if (group) group.count++
    else groups.set(key, { latest: run, count: 1 })
  }
  return [...groups.values()]
}
