// All jobs: found, judged at a glance, switched and started.
import { Anchor, Button, Group, LoadingOverlay, Pagination, Paper, Select, Stack, Text } from '@mantine/core'
import { useMediaQuery } from '@mantine/hooks'
import { notifications } from '@mantine/notifications'
import { useQuery } from '@tanstack/react-query'
import { IconPlayerPause, IconPlayerPlay, IconPlus, IconPower, IconX } from '@tabler/icons-react'
import { type ReactNode, useCallback, useDeferredValue, useEffect, useMemo, useRef, useState } from 'react'
import { Link, useNavigate, useSearchParams } from 'react-router'
import { newKey } from '../../api/key'
import { jobsQuery, templatesQuery, useRunJob } from '../../api/queries'
import type { Job, Template } from '../../api/types'
import { EmptyState, Loaded, Page } from '../../parts/page'
import { useLive } from '../../shell/live'
import { useMay, useSession } from '../../shell/session'
import { DeleteDialog } from '../job/delete-dialog'
import { RunDialog } from '../job/run-dialog'
import { destroys } from '../run/again'
import type { BulkAction } from './bulk'
import { BulkDialog } from './bulk-dialog'
import { Filters, SortSelect } from './filters'
import { type Action, JobCards, JobTable } from './list'
import { useToggle } from './toggle'
import { changedView, filtersOf, jobFilter, limits, nextSort, noFilters, readView, type SortField, type View, writeView } from './view'

type Dialog = { kind: Action; job: Job; refused?: unknown } | { kind: BulkAction; jobs: Job[] }

export function Component() {
  const [params, setParams] = useSearchParams()
  const view = useMemo(() => readView(params), [params])
  const change = (part: Partial<View>) => setParams(writeView(changedView(view, part)), { replace: !('page' in part) })

  const { every } = useLive()
  const superAdmin = useMay('super_admin')
  const { max_jobs: maxJobs } = useSession()
  const phone = useMediaQuery('(max-width: 48em)', false, { getInitialValueInEffect: false })
  const narrow = useMediaQuery('(max-width: 75em)', false, { getInitialValueInEffect: false })
  const wide = useMediaQuery('(min-width: 88em)', false, { getInitialValueInEffect: false })
  const query = useQuery({ ...jobsQuery(jobFilter(view)), refetchInterval: every(5000) })
  const templateList = useQuery(templatesQuery())
  const templates = useMemo(() => new Map((templateList.data ?? []).map((t) => [t.id, t])), [templateList.data])

  const [selected, setSelected] = useState<ReadonlyMap<string, Job>>(new Map())
  const [dialog, setDialog] = useState<Dialog | null>(null)
  const close = () => setDialog(null)

  const onSelect = useCallback((job: Job, on: boolean) => setSelected((old) => withSelected(old, [job], on)), [])
  const jobs = query.data?.jobs
  const onSelectAll = useLatest((on: boolean) => setSelected((old) => withSelected(old, jobs ?? [], on)))
  const onSort = useLatest((field: SortField) => change({ sort: nextSort(view.sort, field) }))
  // Jobs that were changed since they were selected are changed as they are now.
  const chosen = useMemo(() => [...selected.values()].map((old) => jobs?.find((job) => job.id === old.id) ?? old), [selected, jobs])

  const onAct = useLatest(useStarter(templates, setDialog))
  const onToggle = useLatest(useToggle())

  // A page that is gone, as the last one's last job was deleted or filtered out.
  const pages = query.data && !query.isPlaceholderData ? query.data.pages : 0
  const beyond = pages > 0 && view.page > pages
  useEffect(() => {
    if (beyond) setParams(writeView({ ...view, page: pages }), { replace: true })
  }, [beyond, pages, setParams, view])

  const newJob = superAdmin && (
    <Button component={Link} to="/jobs/new" leftSection={<IconPlus size={16} aria-hidden />}>
      New job
    </Button>
  )

  return (
    <Page title="Jobs" actions={newJob}>
      <Filters view={view} onChange={change} templates={templateList.data} phone={phone} />
      <Loaded query={query}>
        {(page) => {
          if (page.total === 0 && filtersOf(view) === 0) return <NoJobs />
          return (
            <Stack gap="sm">
              <Group justify="space-between" gap="xs" mih={36}>
                {selected.size > 0 ? (
                  <BulkBar chosen={chosen} onDo={(kind) => setDialog({ kind, jobs: chosen })} onClear={() => setSelected(new Map())} />
                ) : (
                  <Group gap="md">
                    <Text size="sm" role="status">
                      {page.total === 1 ? '1 job' : `${page.total.toLocaleString('en')} jobs`}
                      {filtersOf(view) > 0 ? ' found' : maxJobs > 0 ? ` of at most ${maxJobs}` : ''}
                    </Text>
                    {filtersOf(view) > 0 && (
                      <Button variant="subtle" size="compact-sm" leftSection={<IconX size={14} aria-hidden />} onClick={() => change(noFilters)}>
                        Clear filters
                      </Button>
                    )}
                  </Group>
                )}
                <SortSelect view={view} onChange={change} />
              </Group>
              {page.total === 0 ? (
                <EmptyState title="No job matches" action={<Button variant="default" onClick={() => change(noFilters)}>Clear filters</Button>}>
                  Nothing has all of what you asked for. Search for fewer words, or take a filter away.
                </EmptyState>
              ) : (
                <div style={{ position: 'relative' }} aria-busy={query.isPlaceholderData}>
                  <LoadingOverlay visible={query.isPlaceholderData} overlayProps={{ backgroundOpacity: 0.4 }} loaderProps={{ type: 'dots' }} transitionProps={{ enterDelay: 300 }} />
                  <Rows jobs={page.jobs}>
                    {(rows) =>
                      phone ? (
                        <JobCards jobs={rows} templates={templates} selected={selected} onSelect={onSelect} onToggle={onToggle} onAct={onAct} />
                      ) : (
                        <Paper withBorder>
                          <JobTable jobs={rows} templates={templates} selected={selected} onSelect={onSelect} onSelectAll={onSelectAll} onToggle={onToggle} onAct={onAct} schedule={!narrow} dates={wide} sort={view.sort} onSort={onSort} />
                        </Paper>
                      )
                    }
                  </Rows>
                </div>
              )}
              {page.total > limits[0]! && (
                <Group justify="space-between">
                  <Select
                    aria-label="Jobs per page"
                    size="xs"
                    w={130}
                    allowDeselect={false}
                    data={limits.map((n) => ({ value: String(n), label: `${n} per page` }))}
                    value={String(view.limit)}
                    onChange={(n) => n && change({ limit: Number(n) })}
                  />
                  <Pagination
                    size="sm"
                    siblings={phone ? 0 : 1}
                    total={page.pages}
                    value={view.page}
                    onChange={(n) => change({ page: n })}
                    getControlProps={(control) => ({ 'aria-label': { first: 'First page', previous: 'Previous page', next: 'Next page', last: 'Last page' }[control] })}
                    getItemProps={(n) => ({ 'aria-label': `Page ${n}` })}
                  />
                </Group>
              )}
            </Stack>
          )
        }}
      </Loaded>
      {dialog?.kind === 'delete' && <DeleteDialog job={dialog.job} onClose={close} onDeleted={() => onSelect(dialog.job, false)} />}
      {dialog && 'job' in dialog && dialog.kind === 'run' && <RunDialog job={dialog.job} refused={dialog.refused} onClose={close} />}
      {dialog && 'jobs' in dialog && (
        <BulkDialog action={dialog.kind} jobs={dialog.jobs} templates={templates} onClose={close} onDone={(done) => setSelected((old) => withSelected(old, done, false))} />
      )}
    </Page>
  )
}

const none: Job[] = []

/** Has many rows drawn piece by piece, so that typing and clicks never wait for them. */
function Rows({ jobs, children }: { jobs: Job[]; children: (rows: Job[]) => ReactNode }) {
  return children(useDeferredValue(jobs, none))
}

function withSelected(old: ReadonlyMap<string, Job>, jobs: Job[], on: boolean): ReadonlyMap<string, Job> {
  const next = new Map(old)
  for (const job of jobs) {
    if (on) next.set(job.id, job)
    else next.delete(job.id)
  }
  return next
}

/** What the menu of a row does: a run that destroys nothing starts at once, everything else asks first. */
function useStarter(templates: ReadonlyMap<string, Template>, ask: (dialog: Dialog) => void) {
  const run = useRunJob()
  const navigate = useNavigate()
  const act = (action: Action, job: Job) => {
    const template = templates.get(job.template_type)
    if (action !== 'run' || !template || destroys(template, job.parameters)) return ask({ kind: action, job })
    run.mutate(
      { id: job.id, key: newKey() },
      {
        onSuccess: ({ execution_id }) => {
          notifications.show({
            title: `“${job.name}” was started`,
            // The notifications stand outside of the router: a plain button leads there.
            message: <Anchor component="button" type="button" size="sm" underline="always" onClick={() => void navigate(`/runs/${execution_id}`)}>Show the run</Anchor>,
            color: 'green',
          })
        },
        // The dialog tells why not, and what can be done.
        onError: (refused) => ask({ kind: 'run', job, refused }),
      },
    )
  }
  return act
}

/** The function as it is at the moment, under one name for good: rows that know it are not drawn again. */
function useLatest<Args extends unknown[], Out>(now: (...args: Args) => Out): (...args: Args) => Out {
  const latest = useRef(now)
  useEffect(() => {
    latest.current = now
  })
  return useCallback((...args: Args) => latest.current(...args), [])
}

function BulkBar({ chosen, onDo, onClear }: { chosen: Job[]; onDo: (action: BulkAction) => void; onClear: () => void }) {
  const superAdmin = useMay('super_admin')
  return (
    <Group gap="xs" role="toolbar" aria-label="Selected jobs">
      <Text size="sm" fw={600} role="status">{chosen.length} selected</Text>
      <Button size="compact-sm" variant="default" leftSection={<IconPlayerPlay size={14} aria-hidden />} onClick={() => onDo('run')}>Run now</Button>
      {superAdmin && (
        <>
          <Button size="compact-sm" variant="default" leftSection={<IconPower size={14} aria-hidden />} onClick={() => onDo('enable')}>Enable</Button>
          <Button size="compact-sm" variant="default" leftSection={<IconPlayerPause size={14} aria-hidden />} onClick={() => onDo('pause')}>Pause</Button>
        </>
      )}
      <Button size="compact-sm" variant="subtle" onClick={onClear}>Clear the selection</Button>
    </Group>
  )
}

function NoJobs() {
  const superAdmin = useMay('super_admin')
  return superAdmin ? (
    <EmptyState
      title="No jobs yet"
      action={
        <Group>
          <Button component={Link} to="/jobs/new?template=test_scheduler">Start with a test job</Button>
          <Button component={Link} to="/jobs/new" variant="default">See all templates</Button>
        </Group>
      }
    >
      A job is a template, such as a database clean-up or a report, with your parameters and a schedule. The test job writes a line to its log and harms nothing: a
      good one to begin with.
    </EmptyState>
  ) : (
    <EmptyState title="No jobs yet">Jobs are made by super admins. What they make appears here, with how its runs went.</EmptyState>
  )
}
