// How a job runs, in sentences.
import type { Job } from '../../api/types'
import { absolute, duration } from '../../parts/time'

const list = new Intl.ListFormat('en')
const pairs = (labels: Record<string, string>) => list.format(Object.entries(labels).map(([key, value]) => (value ? `${key}=${value}` : key)))

/** What its schedule leaves unsaid: where an interval is anchored, and what a change of clocks does. */
export function scheduleNotes(job: Pick<Job, 'schedule' | 'created_at'>): string[] {
  const { schedule } = job
  if (schedule.type === 'interval') return [`Counted from ${absolute(schedule.start ?? job.created_at)}.`]
  if (schedule.type !== 'cron' || !schedule.timezone || schedule.timezone === 'UTC') return []
  return [
    schedule.dst?.gap === 'skip' ? 'A time that the change to summer time leaves out is skipped.' : 'A time that the change to summer time leaves out runs right after it.',
    schedule.dst?.overlap === 'twice' ? 'A time that the change back has twice runs twice.' : 'A time that the change back has twice runs once.',
  ]
}

type How = Pick<Job, 'retry_policy' | 'timeout_seconds' | 'overlap_policy' | 'missed_policy' | 'notifications' | 'priority' | 'executor_selector' | 'organisation'>

/** Retries, time-out and the other rules of its runs. */
export function rules(job: How): string[] {
  const { max_retries: retries, retry_delay_seconds: delay } = job.retry_policy
  const out = [
    retries > 0 ? `A failed run is tried again ${retries === 1 ? 'once' : `up to ${retries} times`}, ${delay === 0 ? 'at once' : `${duration(delay)} ${retries === 1 ? 'later' : 'apart'}`}.` : 'A failed run is not tried again.',
    `A run that takes longer than ${duration(job.timeout_seconds)} is stopped.`,
    job.overlap_policy === 'allow' ? 'Runs may overlap.' : 'A run that comes due while the last one is not over is skipped.',
    job.missed_policy === 'skip' ? 'Runs that were missed are left out.' : 'Runs that were missed are made up for by one.',
  ]
  if (job.priority !== 0) out.push(`${job.priority > 0 ? 'Before' : 'After'} others of its organisation when executors are short: priority ${job.priority}.`)
  if (Object.keys(job.executor_selector ?? {}).length > 0) out.push(`Only on executors that have ${pairs(job.executor_selector)}.`)
  if (job.organisation && job.organisation !== 'default') out.push(`For the organisation ${job.organisation}.`)
  return out
}

/** Who is told of what. */
export function telling(job: Pick<Job, 'notifications'>): string[] {
  const { on_success: success, on_failure: failure } = job.notifications
  if (success.length === 0 && failure.length === 0) return ['Nobody is told how its runs end.']
  const out = []
  if (failure.length > 0) out.push(`${list.format(failure.map(recipient))} ${failure.length === 1 ? 'is' : 'are'} told when a run fails, and when one succeeds again.`)
  if (success.length > 0) out.push(`${list.format(success.map(recipient))} ${success.length === 1 ? 'is' : 'are'} told of each success.`)
  return out
}

const recipient = (to: string) => (to.startsWith('channel:') ? `the channel ${to.slice('channel:'.length)}` : to)

/** The definition alone, as the API takes it to make such a job. */
export function definitionOf(job: Job): object {
  const { name, description, template_type, parameters, schedule, enabled, timeout_seconds, retry_policy, notifications } = job
  const { labels, organisation, priority, executor_selector, missed_policy, overlap_policy } = job
  return { name, description, template_type, parameters, schedule, enabled, timeout_seconds, retry_policy, notifications, labels, organisation, priority, executor_selector, missed_policy, overlap_policy }
}

/** A value of any kind on one line. */
export function valueInWords(value: unknown): string {
  if (value === null || value === undefined || value === '') return '–'
  if (typeof value === 'boolean') return value ? 'yes' : 'no'
  if (typeof value === 'string') return value
  if (Array.isArray(value) && value.every((v) => typeof v === 'string')) return value.length > 0 ? list.format(value) : '–'
  return JSON.stringify(value)
}
