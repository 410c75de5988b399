// Schedules, actions and causes in words.
import cronstrue from 'cronstrue'
import type { Schedule } from '../api/types'
import { absolute, duration } from './time'

/** A cron expression as a sentence, or null for one that cannot be told. */
export function cronSentence(expression: string): string | null {
  try {
    return cronstrue.toString(expression, { use24HourTimeFormat: true, verbose: false, throwExceptionOnParseError: true })
  } catch {
    return null
  }
}

/** A schedule as a sentence. */
export function scheduleInWords(schedule: Schedule): string {
  switch (schedule.type) {
    case 'cron': {
      const words = cronSentence(schedule.expression ?? '') ?? `cron ${schedule.expression}`
      return `${words} (${schedule.timezone ?? 'UTC'})`
    }
    case 'interval':
      return `Every ${duration(schedule.interval_seconds ?? 0)}`
    case 'once':
      return schedule.run_at ? `Once, ${absolute(schedule.run_at)}` : 'Once'
    default:
      return 'Only when started by hand'
  }
}

const triggers: Record<string, string> = {
  scheduler: 'by its schedule',
  manual: 'by hand',
  chain: 'after another job',
  notification: 'to tell somebody',
  backfill: 'to catch up',
}

/** What started a run: "by hand (ann)". */
export const triggerInWords = (by: string, user?: string | null) => `${triggers[by] ?? by}${user ? ` (${user})` : ''}`
