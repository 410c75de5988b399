// A run told in sentences.
import type { Execution, Progress } from '../../api/types'
import { absolute, duration, relative } from '../../parts/time'

const ordinals = ['', 'first', 'second', 'third', 'fourth', 'fifth']
const ordinal = (n: number) => ordinals[n] ?? `${n}th`

/** The job of trials, and that of notifications: nobody's. */
export const trials = 'job_trials'
export const notifications = 'job_notifications'

// What the registry puts before a reason, for programs.
const causes: Record<string, string> = { missed: '', overlap: '', job_deleted: '', executor_lost: '', resolved: '' }

/** A reason without the word for programs before it. */
export function plainReason(reason: string | null): string {
  const [, word, rest] = /^([a-z_]+): ?(.*)$/s.exec(reason ?? '') ?? []
  return word !== undefined && word in causes ? (rest ?? '') : (reason ?? '')
}

const withCause = (sentence: string, cause: string) => (cause ? `${sentence}: ${cause}` : `${sentence}.`)
const took = (run: Execution) => (run.duration_seconds === null ? '' : ` after ${duration(run.duration_seconds)}`)
const tries = (run: Execution) => (run.attempts.length > 1 ? ` after ${run.attempts.length} attempts` : '')

/** How the run stands and why, in a sentence or two. now is in milliseconds. */
export function story(run: Execution, now: number): string {
  const attempt = run.attempts.at(-1)
  switch (run.status) {
    case 'pending':
      if (run.cancel_requested) return 'It is being cancelled before it starts.'
      if (run.reason?.startsWith('executor_lost')) return withCause('Starts again as soon as a worker is free', plainReason(run.reason))
      return new Date(run.scheduled_for).getTime() > now
        ? `Starts ${relative(run.scheduled_for, now)}.`
        : `Due ${relative(run.scheduled_for, now)}; waits for a worker with a free slot that fits.`
    case 'running': {
      const since = run.started_at ? ` for ${duration(Math.max(0, Math.floor((now - new Date(run.started_at).getTime()) / 1000)))}` : ''
      const where = run.execution_host ? ` on ${run.execution_host}` : ''
      const which = run.attempts.length > 1 ? `, ${ordinal(run.attempts.length)} attempt` : ''
      return run.cancel_requested ? withCause(`Asked to stop; still running${where}`, plainReason(run.reason)) : `Running${since}${where}${which}.`
    }
    case 'retrying': {
      const next = run.next_attempt_at ? ` The ${ordinal(run.attempts.length + 1)} attempt starts ${relative(run.next_attempt_at, now)}.` : ''
      const cause = run.error ?? attempt?.error ?? ''
      return withCause(`Failed${run.attempts.length > 1 ? ` ${run.attempts.length} times` : ''}, and is tried again`, cause) + (cause && next ? '.' : '') + next
    }
    case 'success': {
      if (run.reason?.startsWith('resolved:')) return withCause('Settled by hand as a success', plainReason(run.reason))
      const which = run.attempts.length > 1 ? `, at the ${ordinal(run.attempts.length)} attempt` : ''
      return `Succeeded${took(run)}${which}.`
    }
    case 'failed':
      if (run.reason?.startsWith('resolved:')) return withCause('Settled by hand as failed', plainReason(run.reason))
      return withCause(`Failed${tries(run) || took(run)}`, run.error ?? plainReason(run.reason))
    case 'timed_out':
      return withCause(`Stopped${tries(run) || took(run)} because it took longer than it may`, run.error ?? '')
    case 'cancelled': {
      if (run.reason?.startsWith('resolved:')) return withCause('Settled by hand as cancelled', plainReason(run.reason))
      const when = run.attempts.length === 0 ? ' before it started' : took(run)
      return withCause(`Cancelled${when}`, plainReason(run.reason))
    }
    case 'skipped': {
      const count = run.missed_count ?? 1
      const times = count > 1 ? `${count.toLocaleString('en')} runs` : 'This run'
      const span = count > 1 && run.missed_from && run.missed_until ? `, from ${absolute(run.missed_from)} to ${absolute(run.missed_until)},` : ''
      const verb = count > 1 ? 'were skipped' : 'was skipped'
      if (run.reason?.startsWith('missed')) return `${times}${span} ${verb}: nobody was there to start ${count > 1 ? 'them' : 'it'} in time.`
      if (run.reason?.startsWith('overlap')) return `${times}${span} ${verb}: the run before was not over, and this job's runs may not overlap.`
      return withCause(`${times}${span} ${verb}`, plainReason(run.reason))
    }
    case 'unknown':
      return withCause('Nobody knows how it ended', run.error ?? plainReason(run.reason))
  }
}

/** Why it is as it is, where the sentence cannot say it in short: null for nothing. */
export function advice(run: Execution): string | null {
  switch (run.status) {
    case 'unknown':
      return 'It may have done all, some or none of its work, and was not tried again because that could do harm. Look at what it was to change, then settle it.'
    case 'timed_out':
      return 'If it needs more time, raise the time-out of the job; else look in the log for where it got stuck.'
    default:
      return null
  }
}

/** Seconds that a run still needs if it goes on as it did; null when nobody can say. */
export function timeLeft(progress: Progress, startedAt: string | null, now: number): number | null {
  if (!startedAt || progress.done <= 0 || progress.total <= 0 || progress.done > progress.total) return null
  const elapsed = (now - new Date(startedAt).getTime()) / 1000
  return elapsed < 1 ? null : (elapsed * (progress.total - progress.done)) / progress.done
}

/** Seconds from when the run was due to its first start; null before that. */
export function waited(run: Execution): number | null {
  const start = run.attempts[0]?.started_at ?? run.started_at
  return start ? Math.max(0, (new Date(start).getTime() - new Date(run.scheduled_for).getTime()) / 1000) : null
}
