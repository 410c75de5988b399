import type { Job } from '../../api/types'
import { RelativeTime } from '../../parts/time'
import classes from './list.module.css'

/** When a job runs next, or why it does not. */
export function NextRun({ job }: { job: Pick<Job, 'enabled' | 'schedule' | 'next_run_at'> }) {
  if (!job.enabled) return <span className={classes.faint}>paused</span>
  if (job.schedule.type === 'manual') return <span className={classes.faint}>by hand</span>
  return <RelativeTime at={job.next_run_at} none="no more runs" past="due now" />
}
