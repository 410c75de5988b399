// When a job runs next.
import { Paper, Table, Text } from '@mantine/core'
import { IconInfoCircle } from '@tabler/icons-react'
import { useQuery } from '@tanstack/react-query'
import { upcomingQuery } from '../../api/queries'
import type { Job } from '../../api/types'
import { EmptyState, Loaded } from '../../parts/page'
import { absolute, myZone, RelativeTime } from '../../parts/time'
import { useLive } from '../../shell/live'

const shown = 20

export function UpcomingRuns({ job }: { job: Job }) {
  if (!job.enabled) return <EmptyState title="The job is paused">Switch it on to have it run by its schedule again. What was due meanwhile is not made up for.</EmptyState>
  if (job.schedule.type === 'manual') return <EmptyState title="It runs by hand only">It has no schedule: press Run now, or edit it to give it one.</EmptyState>
  return <List job={job} />
}

function List({ job }: { job: Job }) {
  const { every } = useLive()
  const query = useQuery({ ...upcomingQuery({ job_id: job.id, limit: shown }), refetchInterval: every(5000) })
  return (
    <Loaded query={query}>
      {(upcoming) => {
        if (upcoming.length === 0) return <EmptyState title="No more runs">Its schedule has no more times. Edit it to give it new ones, or press Run now.</EmptyState>
        const zone = upcoming[0]!.timezone || 'UTC'
        return (
          <Paper withBorder>
            <Table verticalSpacing="xs" aria-label="Upcoming runs">
              <Table.Thead>
                <Table.Tr>
                  <Table.Th>In</Table.Th>
                  <Table.Th>{zone === myZone ? `Your time, ${zone}` : zone}</Table.Th>
                  {zone !== myZone && <Table.Th visibleFrom="sm">Your time, {myZone}</Table.Th>}
                  {zone !== 'UTC' && myZone !== 'UTC' && <Table.Th visibleFrom="md">UTC</Table.Th>}
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {upcoming.map(({ at, note }) => (
                  <Table.Tr key={at} style={{ verticalAlign: 'top' }}>
                    <Table.Td><RelativeTime at={at} size="sm" /></Table.Td>
                    <Table.Td>
                      <Text size="sm">{absolute(at, zone)}</Text>
                      {note && (
                        <Text size="sm" c="dimmed">
                          <IconInfoCircle size={14} aria-hidden style={{ verticalAlign: '-2px' }} /> {note}
                        </Text>
                      )}
                    </Table.Td>
                    {zone !== myZone && <Table.Td visibleFrom="sm"><Text size="sm">{absolute(at)}</Text></Table.Td>}
                    {zone !== 'UTC' && myZone !== 'UTC' && <Table.Td visibleFrom="md"><Text size="sm">{absolute(at, 'UTC')}</Text></Table.Td>}
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
          </Paper>
        )
      }}
    </Loaded>
  )
}
