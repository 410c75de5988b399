// How a job's runs went: shares of success, and charts with a table beside each.
import { Group, Paper, SimpleGrid, Stack, Text, Title } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { lazy, Suspense } from 'react'
import { executionsQuery, statisticsQuery } from '../../api/queries'
import type { Statistics as Figures, Status } from '../../api/types'
import { EmptyState, Loaded, Waiting } from '../../parts/page'
import { duration, useNow } from '../../parts/time'
import { useLive } from '../../shell/live'
import { byDay, countsInWords, durations, hoursBefore, percent, startOfDay } from './figures'

// The library that draws is large, and most visits of a job do not come here.
const DurationChart = lazy(() => import('./charts').then((m) => ({ default: m.DurationChart })))
const DayChart = lazy(() => import('./charts').then((m) => ({ default: m.DayChart })))

const hour = 3600
const over: Status[] = ['success', 'failed', 'timed_out', 'unknown', 'cancelled']

export function Statistics({ id }: { id: string }) {
  const { every } = useLive()
  const refetchInterval = every(10_000)
  const now = new Date(Math.floor(useNow() / 60_000) * 60_000)
  const ask = (from: Date, step: number) => ({ ...statisticsQuery({ job_id: id, from: from.toISOString(), step_seconds: step }), refetchInterval })
  const day = useQuery(ask(hoursBefore(now, 24), 24 * hour))
  const week = useQuery(ask(hoursBefore(now, 7 * 24), 24 * hour))
  // By the hour, so that days can be those of the reader's zone.
  const month = useQuery(ask(startOfDay(now, 29), hour))
  const runs = useQuery({ ...executionsQuery(id, { status: over, limit: 100 }), refetchInterval })

  return (
    <Stack gap="lg">
      <SimpleGrid cols={{ base: 1, sm: 3 }}>
        <Share title="24 hours" query={day} />
        <Share title="7 days" query={week} />
        <Share title="30 days" query={month} />
      </SimpleGrid>
      <Stack gap="xs">
        <Title order={2} size="h4">Duration of the last 100 runs</Title>
        <Loaded query={runs}>
          {({ executions }) => {
            const shown = durations(executions)
            return shown.length === 0 ? (
              <EmptyState title="No run has ended yet">As soon as one has, its duration is drawn here.</EmptyState>
            ) : (
              <Suspense fallback={<Waiting label="Drawing" />}>
                <DurationChart runs={shown} />
              </Suspense>
            )
          }}
        </Loaded>
      </Stack>
      <Stack gap="xs">
        <Title order={2} size="h4">Runs by day</Title>
        <Loaded query={month}>
          {(figures) => (
            <Suspense fallback={<Waiting label="Drawing" />}>
              <DayChart days={byDay(figures.steps)} />
            </Suspense>
          )}
        </Loaded>
      </Stack>
    </Stack>
  )
}

function Share({ title, query }: { title: string; query: { data: Figures | undefined; error: unknown; refetch: () => unknown } }) {
  return (
    <Paper withBorder p="md" component="section" aria-label={`The last ${title}`}>
      <Title order={2} size="h5" mb={4}>The last {title}</Title>
      <Loaded query={query}>
        {(figures) => {
          const started = figures.totals.success + figures.totals.failed + figures.totals.timed_out + figures.totals.unknown
          return (
            <Stack gap={4}>
              <Group gap={6} align="baseline">
                <Text fz={28} fw={700} lh={1.2}>{typeof figures.success_rate === 'number' ? percent(figures.success_rate) : '–'}</Text>
                <Text size="sm" c="dimmed">succeeded</Text>
              </Group>
              <Text size="sm">{countsInWords(figures.totals)}</Text>
              <Text size="sm" c="dimmed">
                {started > 0 ? `${duration(figures.mean_seconds)} on average, ${duration(figures.longest_seconds)} at most` : 'Nothing ended in this time.'}
              </Text>
            </Stack>
          )
        }}
      </Loaded>
    </Paper>
  )
}
