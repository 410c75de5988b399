// What goes on, what failed, what comes next and who does the work.
import { Alert, Anchor, Box, Button, Code, Group, Pagination, Stack, Text, Tooltip } from '@mantine/core'
import { IconCheck, IconClockExclamation, IconPlugConnectedX } from '@tabler/icons-react'
import { useQuery, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'
import { Link, useSearchParams } from 'react-router'
import { activityQuery, jobQuery, jobsQuery, templatesQuery, workersQuery } from '../../api/queries'
import type { Execution, Job, Overview, Worker } from '../../api/types'
import { StatusBadge } from '../../parts/status'
import { Countdown, duration, RelativeTime, useNow } from '../../parts/time'
import { scheduleInWords } from '../../parts/words'
import { useLive } from '../../shell/live'
import { useMay } from '../../shell/session'
import { CancelRun, RunAgainDialog } from '../run/actions'
import { notAgain } from '../run/again'
import { RunProgress } from '../run/progress'
import { notifications, trials } from '../run/story'
import classes from './home.module.css'
import { Panel, Row, Rows } from './panel'
import { byJob, dueAt, late } from './today'

const perPage = 10
const count = (n: number) => n.toLocaleString('en')

/** A page of a list, in the URL under this name, from 1. */
function usePage(name: string): [number, (page: number) => void] {
  const [search, setSearch] = useSearchParams()
  const page = Math.max(1, Math.floor(Number(search.get(name))) || 1)
  const turn = (to: number) =>
    setSearch(
      (before) => {
        const next = new URLSearchParams(before)
        if (to > 1) next.set(name, String(to))
        else next.delete(name)
        return next
      },
      { replace: true, preventScrollReset: true },
    )
  return [page, turn]
}

function Pages({ label, total, size, page, turn }: { label: string; total: number; size: number; page: number; turn: (page: number) => void }) {
  const pages = Math.ceil(total / size)
  if (pages <= 1 && page <= 1) return null
  return (
    <Group justify="center" mt="sm" component="nav" aria-label={label}>
      <Pagination size="sm" total={Math.max(pages, page)} value={page} onChange={turn} siblings={0} getControlProps={(control) => ({ 'aria-label': `${control} page` })} getItemProps={(n) => ({ 'aria-label': `Page ${n}` })} />
    </Group>
  )
}

const RunLink = ({ run }: { run: Execution }) => (
  <Anchor component={Link} to={`/runs/${run.id}`} fw={500} style={{ overflowWrap: 'anywhere' }}>
    {run.job_id === trials ? `${run.job_name} (a trial)` : run.job_name}
  </Anchor>
)

/** What runs, and what waits to. */
export function GoingOn() {
  const { every } = useLive()
  const [page, turn] = usePage('now')
  const live = useQuery({ ...activityQuery({ state: 'live', page, limit: perPage }), refetchInterval: every(3000) })
  return (
    <Panel title="Going on now" query={live} room={110}>
      {({ executions, total }) =>
        executions.length === 0 && page === 1 ? (
          <Text size="sm" c="dimmed">
            Nothing runs or waits at the moment. What is started, by its schedule or by hand, shows up here by itself.
          </Text>
        ) : (
          <>
            <Rows label="Going on now">
              {executions.map((run) => (
                <Row key={run.id}>
                  <Live run={run} />
                </Row>
              ))}
            </Rows>
            <Pages label="Pages of what goes on" total={total} size={perPage} page={page} turn={turn} />
          </>
        )
      }
    </Panel>
  )
}

function Live({ run }: { run: Execution }) {
  const now = useNow()
  const since = run.started_at ? Math.max(0, Math.floor((now - new Date(run.started_at).getTime()) / 1000)) : 0
  const due = dueAt(run)
  const isLate = late(run, now)
  return (
    <Stack gap={6}>
      <Group justify="space-between" wrap="nowrap" gap="sm">
        <Box style={{ minWidth: 0 }}>
          <Group gap="xs">
            <RunLink run={run} />
            <StatusBadge status={run.status} size="sm" />
            {isLate && (
              <Group gap={4} wrap="nowrap">
                <IconClockExclamation size={15} color="var(--mantine-color-error)" aria-hidden />
                <Text size="xs" fw={600}>
                  late by {duration(Math.floor((now - new Date(due).getTime()) / 1000))}
                </Text>
              </Group>
            )}
          </Group>
          <Text size="xs" c="dimmed" style={{ overflowWrap: 'anywhere' }}>
            {run.status === 'running' ? (
              <>
                for {duration(since)}
                {run.execution_host ? ` on ${run.execution_host}` : ''}
                {run.attempts.length > 1 ? `, attempt ${run.attempts.length}` : ''}
              </>
            ) : isLate ? (
              'waits for a worker with a free slot that fits'
            ) : (
              <>
                {run.status === 'retrying' ? 'next attempt in ' : 'starts in '}
                <Countdown at={due} />
              </>
            )}
          </Text>
        </Box>
        <CancelRun run={run} compact />
      </Group>
      <RunProgress run={run} />
    </Stack>
  )
}

const failuresRead = 50

/** What failed within a day, and what ought to run and does not. */
export function Attention({ overview }: { overview: Overview | undefined }) {
  const { every } = useLive()
  const now = useNow()
  const [page, turn] = usePage('failures')
  const [whole, setWhole] = useState(false)
  const failed = useQuery({ ...activityQuery({ state: 'failed', page, limit: failuresRead }), refetchInterval: every(3000) })
  const behind = overview?.backlog_since && new Date(overview.backlog_since).getTime() < now - 60_000 ? overview : null
  return (
    <Panel title="Failed or late" aside={<Text size="xs" c="dimmed">in the last 24 hours</Text>} query={failed} room={60}>
      {({ executions, total }) => {
        const groups = byJob(executions)
        const most = 6
        const shown = whole ? groups : groups.slice(0, most)
        return (
          <>
            {behind && (
              <Group gap="xs" wrap="nowrap" align="flex-start" mb="sm">
                <IconClockExclamation size={20} color="var(--mantine-color-error)" aria-hidden style={{ flex: 'none' }} />
                <Text size="sm">
                  <b>
                    {count(behind.backlog)} {behind.backlog === 1 ? 'run is' : 'runs are'} late
                  </b>
                  , the first since <RelativeTime at={behind.backlog_since} />.{' '}
                  {behind.workers === 0
                    ? 'No worker is connected.'
                    : behind.slots_used >= behind.slots
                      ? 'All slots of the workers are in use: wait, or start another worker.'
                      : 'There are free slots: see whether a worker has the templates and labels that they need, and is not draining.'}
                </Text>
              </Group>
            )}
            {groups.length === 0 && page === 1 && !behind && (
              <Group gap="xs">
                <IconCheck size={18} color="var(--mantine-color-dimmed)" aria-hidden />
                <Text size="sm" c="dimmed">
                  Nothing failed, and nothing is late.
                </Text>
              </Group>
            )}
            {groups.length > 0 && (
              <Rows label="Failures by job">
                {shown.map(({ latest, count: times }) => (
                  <Row key={latest.id}>
                    <Group justify="space-between" wrap="nowrap" gap="sm" align="flex-start">
                      <Box style={{ minWidth: 0 }}>
                        <Group gap="xs">
                          <RunLink run={latest} />
                          <StatusBadge status={latest.status} size="sm" />
                          {times > 1 && (
                            <Text size="xs" fw={600}>
                              {times} times
                            </Text>
                          )}
                        </Group>
                        {(latest.error ?? latest.reason) && (
                          <Text size="sm" className={classes.short} title={latest.error ?? latest.reason ?? ''}>
                            {latest.error ?? latest.reason}
                          </Text>
                        )}
                        <Text size="xs" c="dimmed">
                          <RelativeTime at={latest.completed_at} />
                        </Text>
                      </Box>
                      <Again run={latest} />
                    </Group>
                  </Row>
                ))}
              </Rows>
            )}
            {groups.length > most && (
              <Button size="xs" variant="default" mt="sm" onClick={() => setWhole(!whole)}>
                {whole ? 'Show fewer' : `Show all ${groups.length} jobs`}
              </Button>
            )}
            <Pages label="Pages of failures" total={total} size={failuresRead} page={page} turn={turn} />
          </>
        )
      }}
    </Panel>
  )
}

/** Run again, for a row: what it needs to know is asked for when it is pressed. */
function Again({ run }: { run: Execution }) {
  const queries = useQueryClient()
  const superAdmin = useMay('super_admin')
  const templates = useQuery(templatesQuery())
  const template = templates.data?.find((t) => t.id === run.template_type)
  const [job, setJob] = useState<Job | null>(null)
  const [busy, setBusy] = useState(false)
  const [refusal, setRefusal] = useState<string | null>(null)
  if (run.job_id === trials || run.job_id === notifications || run.status === 'unknown') return null

  async function ask() {
    setBusy(true)
    setRefusal(null)
    try {
      const read = await queries.fetchQuery({ ...jobQuery(run.job_id), staleTime: 0 })
      const against = notAgain(run, read, template, superAdmin)
      if (against) setRefusal(against)
      else setJob(read)
    } catch (error) {
      setRefusal(error instanceof Error ? error.message : String(error))
    } finally {
      setBusy(false)
    }
  }
  return (
    <Stack gap={4} align="flex-end" style={{ flex: 'none' }} maw="45%">
      <Button size="xs" variant="default" loading={busy} onClick={() => void ask()} aria-label={`Run ${run.job_name} again`}>
        Run again
      </Button>
      {refusal && (
        <Text size="xs" ta="end" role="alert">
          {refusal}
        </Text>
      )}
      {job && <RunAgainDialog run={run} job={job} template={template} close={() => setJob(null)} />}
    </Stack>
  )
}

const nextPerPage = 8

/** What comes next, each job once: one that runs each minute hides no other. */
export function Next() {
  const { every } = useLive()
  const [page, turn] = usePage('next')
  const next = useQuery({ ...jobsQuery({ enabled: true, sort: 'next_run_at', runs: 0, page, limit: nextPerPage }), refetchInterval: every(3000) })
  return (
    <Panel title="What comes next" query={next} room={110}>
      {({ jobs, total }) => {
        const planned = jobs.filter((job) => job.next_run_at)
        // Those without a next run come last, and are none of this list's.
        const known = planned.length < jobs.length ? (page - 1) * nextPerPage + planned.length : total
        return (
          <>
            {planned.length === 0 ? (
              <Text size="sm" c="dimmed">
                {page === 1 ? 'Nothing is planned: no enabled job has a schedule with times to come. Enable a job, or give one a schedule.' : 'No more: the other enabled jobs have no times to come.'}
              </Text>
            ) : (
              <Rows label="What comes next">
                {planned.map((job) => (
                  <Row key={job.id}>
                    <Group justify="space-between" wrap="nowrap" gap="sm">
                      <Box style={{ minWidth: 0 }}>
                        <Anchor component={Link} to={`/jobs/${job.id}`} fw={500} style={{ overflowWrap: 'anywhere' }}>
                          {job.name}
                        </Anchor>
                        <Text size="xs" c="dimmed">
                          {scheduleInWords(job.schedule)}
                        </Text>
                      </Box>
                      <Text size="sm" style={{ whiteSpace: 'nowrap' }}>
                        <Countdown at={job.next_run_at!} />
                      </Text>
                    </Group>
                  </Row>
                ))}
              </Rows>
            )}
            <Pages label="Pages of what comes next" total={known} size={nextPerPage} page={page} turn={turn} />
          </>
        )
      }}
    </Panel>
  )
}

const workerStates: Record<Worker['status'], string> = { ready: '', draining: 'draining: gets no more work', stopping: 'about to end' }

/** Who does the work, the busiest first. */
export function Workers() {
  const { every } = useLive()
  const workers = useQuery({ ...workersQuery(), refetchInterval: every(3000) })
  const most = 6
  return (
    <Panel title="Workers" more={{ to: '/workers', name: workers.data && workers.data.length > most ? `All ${count(workers.data.length)}` : 'Details' }} query={workers} room={60}>
      {(list) =>
        list.length === 0 ? (
          <Text size="sm" c="dimmed">
            None is connected.
          </Text>
        ) : (
          <Rows label="Workers">
            {[...list]
              .sort((a, b) => b.load - a.load || a.host.localeCompare(b.host))
              .slice(0, most)
              .map((worker) => (
                <Row key={worker.id}>
                  <Group justify="space-between" gap="xs" wrap="nowrap" mb={4}>
                    <Group gap="xs" style={{ minWidth: 0 }}>
                      <Text size="sm" fw={500} style={{ overflowWrap: 'anywhere' }}>
                        {worker.host}
                      </Text>
                      {workerStates[worker.status] && (
                        <Text size="xs" c="dimmed">
                          {workerStates[worker.status]}
                        </Text>
                      )}
                    </Group>
                    <Text size="xs" c="dimmed" style={{ whiteSpace: 'nowrap' }}>
                      {count(worker.running)} of {count(worker.slots)} slots
                    </Text>
                  </Group>
                  <Tooltip label={`${Math.round(worker.load * 100)} % busy`}>
                    <div className={classes.slots} aria-hidden>
                      <span style={{ width: `${Math.min(100, worker.load * 100)}%` }} />
                    </div>
                  </Tooltip>
                </Row>
              ))}
          </Rows>
        )
      }
    </Panel>
  )
}

/** That nobody is there to do the work. */
export function NoWorkers() {
  return (
    <Alert icon={<IconPlugConnectedX aria-hidden />} color="red" variant="outline" role="alert" title="No worker is connected: nothing runs" styles={{ title: { color: 'var(--mantine-color-error)' }, message: { color: 'var(--mantine-color-text)' } }}>
      <Text size="sm">
        Jobs stay planned, and what is due waits; nothing is lost meanwhile. Start one on any machine that reaches this registry, with the executors' token in a file. If one should be running, its log says
        why it cannot connect.
      </Text>
      <Code block mt="xs" tabIndex={0}>
        executor --registries HOST:9090 --token-file FILE
      </Code>
    </Alert>
  )
}
