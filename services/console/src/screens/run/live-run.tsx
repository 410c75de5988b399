// A run as it goes on, in little room.
import { Anchor, Group, Stack, Text } from '@mantine/core'
import { useEffect, useRef } from 'react'
import { Link } from 'react-router'
import type { Execution } from '../../api/types'
import { ErrorNotice, Waiting } from '../../parts/page'
import { ended, StatusBadge } from '../../parts/status'
import { useNow } from '../../parts/time'
import { RunLog } from './log'
import { RunProgress } from './progress'
import { story } from './story'
import { Broken } from './trouble'
import { useRun } from './use-run'

type Props = {
  id: string
  /** Called once, when the run is over and its log complete. */
  onEnd?: (run: Execution) => void
  /** Of the log, in pixels. */
  height?: number
}

/** State, progress and log of a run while it goes on and after. */
export function LiveRun(props: Props) {
  return <Followed key={props.id} {...props} />
}

function Followed({ id, onEnd, height = 320 }: Props) {
  const { run, log, over, trouble, again } = useRun(id)
  const now = useNow()
  const told = useRef(false)
  useEffect(() => {
    if (!over || !run || told.current) return
    told.current = true
    onEnd?.(run)
  }, [over, run, onEnd])

  if (!run) return trouble ? <ErrorNotice error={trouble.error} retry={again} title="The run cannot be shown" /> : <Waiting label="Waiting for the run" />
  return (
    <Stack gap="sm">
      <Group gap="sm" wrap="nowrap" align="flex-start">
        <StatusBadge status={run.status} />
        <Text size="sm" style={{ overflowWrap: 'anywhere', flex: 1 }}>
          {story(run, now)}
        </Text>
        <Anchor component={Link} to={`/runs/${run.id}`} size="sm" style={{ whiteSpace: 'nowrap' }}>
          Open the run
        </Anchor>
      </Group>
      <RunProgress run={run} />
      <Broken trouble={trouble} again={again} />
      <RunLog log={log} startedAt={run.started_at} live={!ended(run.status)} name={run.id} height={height} />
    </Stack>
  )
}
