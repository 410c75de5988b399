// How a run ended, on one line of a list.
import type { Execution } from '../../api/types'
import { plainReason } from '../run/story'

/** What it found, why it failed, or what was skipped; empty when there is nothing to tell. */
export function outcome(run: Execution): string {
  if (run.status === 'skipped') {
    const times = run.missed_count ?? 1
    if (run.reason?.startsWith('missed')) return times > 1 ? `${times.toLocaleString('en')} runs were missed` : 'Missed: it could not be started in time'
    if (run.reason?.startsWith('overlap')) return 'The run before was not over'
    return plainReason(run.reason)
  }
  if (run.error) return run.error
  const message = run.result?.message
  return typeof message === 'string' && message ? message : plainReason(run.reason)
}
