import { Text } from '@mantine/core'
import type { Job } from '../../api/types'
import { RelativeTime } from '../../parts/time'

/** When a job runs next, or why it does not. */
export function NextRun({ job }: { job: Pick<Job, 'enabled' | 'schedule' | 'next_run_at'> }) {
  if (!job.enabled) return <Text span inherit c="dimmed">paused</Text>
  if (job.schedule.type === 'manual') return <Text span inherit c="dimmed">by hand</Text>
  return <RelativeTime at={job.next_run_at} none="no more runs" past="due now" />
}
