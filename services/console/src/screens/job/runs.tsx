// What ran, latest first.
import { Anchor, Button, Group, LoadingOverlay, MultiSelect, Pagination, Paper, Stack, Table, Text } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { Link, useSearchParams } from 'react-router'
import { executionsQuery } from '../../api/queries'
import type { Execution, Job, Status } from '../../api/types'
import { EmptyState, Loaded } from '../../parts/page'
import { StatusBadge, statusLooks } from '../../parts/status'
import { duration, RelativeTime, shortTime } from '../../parts/time'
import { triggerInWords } from '../../parts/words'
import { useLive } from '../../shell/live'
import { outcome } from './outcome'

const perPage = 25
const statuses = Object.entries(statusLooks).map(([value, look]) => ({ value, label: look.word }))

/** The runs of a job, also of one that was deleted: then job is missing. */
export function Runs({ id, job }: { id: string; job?: Job }) {
  const [params, setParams] = useSearchParams()
  const chosen = params.getAll('status').filter((s): s is Status => s in statusLooks)
  const page = Math.max(1, Math.trunc(Number(params.get('page'))) || 1)
  const { every } = useLive()
  const query = useQuery({
    ...executionsQuery(id, { status: chosen.length > 0 ? chosen : undefined, page, limit: perPage }),
    refetchInterval: every(3000),
  })
  const show = (status: string[], to: number) =>
    setParams(
      (now) => {
        now.delete('status')
        for (const s of status) now.append('status', s)
        if (to > 1) now.set('page', String(to))
        else now.delete('page')
        return now
      },
      { replace: to === 1 },
    )

  return (
    <Stack gap="sm">
      <MultiSelect
        aria-label="Status"
        placeholder={chosen.length === 0 ? 'Any status' : undefined}
        data={statuses}
        value={chosen}
        onChange={(status) => show(status, 1)}
        clearable
        clearButtonProps={{ 'aria-label': 'Clear the statuses' }}
        w={{ base: '100%', sm: 'fit-content' }}
        miw={{ sm: 220 }}
        maw={500}
      />
      <Loaded query={query}>
        {({ executions, total }) => {
          const pages = Math.max(1, Math.ceil(total / perPage))
          if (executions.length === 0) {
            if (chosen.length === 0 && page === 1) {
              return (
                <EmptyState title="No runs yet">
                  {job?.enabled && job.next_run_at ? (
                    <>The first one is due <RelativeTime at={job.next_run_at} />. To see one now, press Run now.</>
                  ) : (
                    'Press Run now to see one.'
                  )}
                </EmptyState>
              )
            }
            return (
              <EmptyState title="No run matches" action={<Button variant="default" onClick={() => show([], 1)}>Show all runs</Button>}>
                No run of this job is in such a state.
              </EmptyState>
            )
          }
          return (
            <>
              <Paper withBorder pos="relative" aria-busy={query.isPlaceholderData}>
                <LoadingOverlay visible={query.isPlaceholderData} overlayProps={{ backgroundOpacity: 0.4 }} loaderProps={{ type: 'dots' }} transitionProps={{ enterDelay: 300 }} />
                <RunTable runs={executions} />
              </Paper>
              <Group justify="space-between">
                <Text size="sm" c="dimmed" role="status">
                  {total === 1 ? '1 run' : `${total.toLocaleString('en')} runs`}
                </Text>
                {pages > 1 && (
                  <Pagination
                    size="sm"
                    total={pages}
                    value={Math.min(page, pages)}
                    onChange={(to) => show(chosen, to)}
                    getControlProps={(control) => ({ 'aria-label': `${control} page` })}
                    getItemProps={(n) => ({ 'aria-label': `Page ${n}` })}
                  />
                )}
              </Group>
            </>
          )
        }}
      </Loaded>
    </Stack>
  )
}

function RunTable({ runs }: { runs: Execution[] }) {
  return (
    <Table verticalSpacing="xs" highlightOnHover aria-label="Runs" layout="fixed">
      <Table.Thead>
        <Table.Tr>
          <Table.Th w={125}>Status</Table.Th>
          <Table.Th w={185} visibleFrom="sm">Due</Table.Th>
          <Table.Th w={130} visibleFrom="md">Started</Table.Th>
          <Table.Th w={90} visibleFrom="md">Took</Table.Th>
          <Table.Th w={150} visibleFrom="lg">Cause</Table.Th>
          <Table.Th>Result</Table.Th>
        </Table.Tr>
      </Table.Thead>
      <Table.Tbody>
        {runs.map((run) => (
          <Table.Tr key={run.id} style={{ verticalAlign: 'top' }}>
            <Table.Td><StatusBadge status={run.status} /></Table.Td>
            <Table.Td visibleFrom="sm"><RunLink run={run} /></Table.Td>
            <Table.Td visibleFrom="md"><RelativeTime at={run.started_at} none="not started" size="sm" /></Table.Td>
            <Table.Td visibleFrom="md"><Text size="sm">{duration(run.duration_seconds)}</Text></Table.Td>
            <Table.Td visibleFrom="lg"><Text size="sm" style={{ overflowWrap: 'anywhere' }}>{triggerInWords(run.triggered_by, run.triggered_by_user)}</Text></Table.Td>
            <Table.Td>
              <Group hiddenFrom="sm" gap="xs">
                <RunLink run={run} />
                <Text size="sm" c="dimmed">{run.duration_seconds === null ? '' : duration(run.duration_seconds)}</Text>
              </Group>
              <Text size="sm" lineClamp={2} style={{ overflowWrap: 'anywhere' }}>{outcome(run)}</Text>
            </Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  )
}

const RunLink = ({ run }: { run: Execution }) => (
  <Anchor component={Link} to={`/runs/${run.id}`} size="sm" title={run.id}>
    {shortTime(run.scheduled_for)}
  </Anchor>
)
