import { Box, Group, Progress, Text } from '@mantine/core'
import type { Execution } from '../../api/types'
import { duration, useNow } from '../../parts/time'
import { timeLeft } from './story'

const count = (n: number) => n.toLocaleString('en', { maximumFractionDigits: 1 })

/** How far a running run says it is, and how long it still needs at that pace;
 * nothing when it does not say. */
export function RunProgress({ run }: { run: Execution }) {
  const now = useNow()
  const progress = run.progress
  if (!progress || run.status !== 'running') return null
  const known = progress.total > 0
  const part = known ? Math.min(1, Math.max(0, progress.done / progress.total)) : 0
  const left = timeLeft(progress, run.started_at, now)
  return (
    <Box>
      {known && <Progress value={part * 100} size="md" aria-label={`Progress of ${run.job_name}`} transitionDuration={300} mb={4} />}
      <Group justify="space-between" gap="xs" wrap="nowrap" align="baseline">
        <Text size="xs" c="dimmed" style={{ overflowWrap: 'anywhere' }}>
          {known ? `${count(progress.done)} of ${count(progress.total)} (${Math.floor(part * 100)} %)` : `${count(progress.done)} done so far`}
          {progress.message ? ` · ${progress.message}` : ''}
        </Text>
        {left !== null && left >= 1 && (
          <Text size="xs" c="dimmed" style={{ whiteSpace: 'nowrap' }}>
            about {duration(Math.ceil(left))} left
          </Text>
        )}
      </Group>
    </Box>
  )
}
