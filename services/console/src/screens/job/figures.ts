// Numbers about a job's runs, for its charts and the tables beside them.
import type { Counts, Execution, Statistics, Status } from '../../api/types'

/** How a run can end, in the order in which charts stack it. */
export const ends = ['success', 'failed', 'timed_out', 'unknown', 'cancelled', 'skipped'] as const satisfies readonly Status[]
export type End = (typeof ends)[number]

export type Duration = { id: string; status: Status; seconds: number; at: string }

/** How long the runs took that started and ended, oldest first. */
export const durations = (latestFirst: Execution[]): Duration[] =>
  latestFirst
    .filter((run) => run.duration_seconds !== null && run.completed_at !== null)
    .map((run) => ({ id: run.id, status: run.status, seconds: run.duration_seconds!, at: run.scheduled_for }))
    .reverse()

export type Day = Counts & { /** As 2026-11-23, in the reader's zone. */ day: string }

/** Counts of hours as those of days in a zone, which may have 23 to 25 of them. */
export function byDay(steps: Statistics['steps'], timeZone?: string): Day[] {
  const format = new Intl.DateTimeFormat('en-CA', { timeZone, year: 'numeric', month: '2-digit', day: '2-digit' })
  const days = new Map<string, Day>()
  for (const step of steps) {
    const day = format.format(new Date(step.from))
    let sum = days.get(day)
    if (!sum) days.set(day, (sum = { day, success: 0, failed: 0, timed_out: 0, cancelled: 0, skipped: 0, unknown: 0 }))
    for (const end of ends) sum[end] += step.counts[end]
  }
  return [...days.values()]
}

/** The start of the day so many days before, in the zone of this machine. */
export function startOfDay(now: Date, daysBefore: number): Date {
  return new Date(now.getFullYear(), now.getMonth(), now.getDate() - daysBefore)
}

/** A time some hours before, taken down to a quarter of an hour as the registry does:
 * asked again within it, the question is the same. */
export const hoursBefore = (now: Date, hours: number): Date => new Date(Math.floor((now.getTime() - hours * 3_600_000) / 900_000) * 900_000)

/** A share in percent; only all is 100 %, and only none is 0 %. */
export function percent(rate: number): string {
  if (rate === 1) return '100 %'
  if (rate === 0) return '0 %'
  return `${Math.min(99.9, Math.max(0.1, Math.round(rate * 1000) / 10))} %`
}

const words: Record<End, string> = { success: 'succeeded', failed: 'failed', timed_out: 'timed out', unknown: 'unknown', cancelled: 'cancelled', skipped: 'skipped' }

/** "3 succeeded, 1 failed", or "no runs". */
export function countsInWords(counts: Counts): string {
  const parts = ends.filter((end) => counts[end] > 0).map((end) => `${counts[end].toLocaleString('en')} ${words[end]}`)
  return parts.length > 0 ? parts.join(', ') : 'no runs'
}
