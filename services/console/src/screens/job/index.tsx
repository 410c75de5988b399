// One job: what it does, when and how, how its runs went and what comes next.
import { ActionIcon, Alert, Box, Button, Group, Menu, Stack, Tabs, Text } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { IconCopy, IconDots, IconPencil, IconPlayerPlay, IconTrash } from '@tabler/icons-react'
import { useState } from 'react'
import { Link, useNavigate, useParams, useSearchParams } from 'react-router'
import { ApiError } from '../../api/client'
import { executionsQuery, jobQuery, templatesQuery } from '../../api/queries'
import type { Job, Template } from '../../api/types'
import { EmptyState, ErrorNotice, Loaded, Page, Waiting } from '../../parts/page'
import { StateBadge } from '../../parts/status'
import { TemplateIcon } from '../../parts/template-icon'
import { useLive } from '../../shell/live'
import { useMay } from '../../shell/session'
import { Labels } from '../jobs/labels'
import { EnabledSwitch } from '../jobs/toggle'
import { notifications, trials } from '../run/story'
import { Changes } from './changes'
import { Definition, Raw } from './definition'
import { DeleteDialog } from './delete-dialog'
import { RunDialog } from './run-dialog'
import { Runs } from './runs'
import { Statistics } from './statistics'
import { UpcomingRuns } from './upcoming'

export function Component() {
  const { id = '' } = useParams()
  const { every } = useLive()
  const query = useQuery({ ...jobQuery(id), refetchInterval: every(4000) })
  const templates = useQuery(templatesQuery())
  // Also when it was there a moment ago: somebody has just deleted it.
  if (query.error instanceof ApiError && query.error.status === 404) return <Gone id={id} />
  if (query.data) {
    return (
      <>
        {query.error && <ErrorNotice error={query.error} retry={() => void query.refetch()} title="What you see may be out of date" />}
        <JobPage key={id} job={query.data} template={templates.data?.find((t) => t.id === query.data.template_type)} />
      </>
    )
  }
  return <Page title="Job">{query.error ? <ErrorNotice error={query.error} retry={() => void query.refetch()} /> : <Waiting />}</Page>
}

function JobPage({ job, template }: { job: Job; template: Template | undefined }) {
  const superAdmin = useMay('super_admin')
  const navigate = useNavigate()
  const [dialog, setDialog] = useState<'run' | 'delete' | null>(null)
  const [leaving, setLeaving] = useState(false)
  const close = () => setDialog(null)
  if (leaving) return <Waiting />

  const actions = (
    <>
      <EnabledSwitch job={job} />
      <Button leftSection={<IconPlayerPlay size={16} aria-hidden />} onClick={() => setDialog('run')}>
        Run now
      </Button>
      {superAdmin && (
        <>
          <Button component={Link} to={`/jobs/${job.id}/edit`} variant="default" leftSection={<IconPencil size={16} aria-hidden />}>
            Edit
          </Button>
          <Menu position="bottom-end" withArrow>
            <Menu.Target>
              <ActionIcon variant="default" size={36} aria-label="More actions">
                <IconDots size={18} />
              </ActionIcon>
            </Menu.Target>
            <Menu.Dropdown>
              <Menu.Item component={Link} to={`/jobs/new?from=${job.id}`} leftSection={<IconCopy size={16} aria-hidden />}>
                Clone
              </Menu.Item>
              <Menu.Item c="var(--mantine-color-error)" leftSection={<IconTrash size={16} aria-hidden />} onClick={() => setDialog('delete')}>
                Delete
              </Menu.Item>
            </Menu.Dropdown>
          </Menu>
        </>
      )}
    </>
  )
  const heading = (
    <Group gap="sm" wrap="nowrap">
      <TemplateIcon type={job.template_type} sign={template?.icon} size={38} />
      <span>{job.name}</span>
    </Group>
  )

  return (
    <Page title={job.name} heading={heading} actions={actions}>
      <Stack gap="xs">
        <Group gap="xs">
          <StateBadge state={job.state} />
          <Labels of={job.labels} />
        </Group>
        {job.description && (
          <Text size="sm" maw={800} style={{ whiteSpace: 'pre-wrap', overflowWrap: 'anywhere' }}>
            {job.description}
          </Text>
        )}
        {!superAdmin && (
          <Text size="sm" c="dimmed">
            Changing, pausing or deleting a job needs the role super admin.
          </Text>
        )}
      </Stack>
      {template && !template.available && (
        <Alert color="yellow" variant="outline" title="No worker can run it at the moment" styles={{ title: { color: 'var(--mantine-color-text)' }, message: { color: 'var(--mantine-color-text)' } }}>
          No connected executor has the template {template.name}. Runs wait until one does; see <Link to="/workers">Workers</Link>.
        </Alert>
      )}
      <Definition job={job} template={template} />
      <JobTabs job={job} />
      {dialog === 'run' && <RunDialog job={job} onClose={close} />}
      {dialog === 'delete' && (
        <DeleteDialog
          job={job}
          onClose={close}
          onDeleted={() => {
            setLeaving(true)
            return navigate('/jobs')
          }}
        />
      )}
    </Page>
  )
}

const tabs = ['runs', 'statistics', 'upcoming', 'changes', 'json'] as const

function JobTabs({ job }: { job: Job }) {
  const [params, setParams] = useSearchParams()
  const tab = tabs.find((name) => name === params.get('tab')) ?? 'runs'
  return (
    <Tabs value={tab} onChange={(name) => setParams(name && name !== 'runs' ? { tab: name } : {}, { replace: true })} keepMounted={false}>
      {/* On phones the tabs scroll within their own row. */}
      <Box style={{ overflowX: 'auto', overflowY: 'hidden' }}>
        <Tabs.List aria-label="About this job" style={{ flexWrap: 'nowrap', width: 'max-content', minWidth: '100%' }}>
          <Tabs.Tab value="runs" px={{ base: 8, sm: 'md' }}>Runs</Tabs.Tab>
          <Tabs.Tab value="statistics" px={{ base: 8, sm: 'md' }}>Statistics</Tabs.Tab>
          <Tabs.Tab value="upcoming" px={{ base: 8, sm: 'md' }}>Upcoming</Tabs.Tab>
          <Tabs.Tab value="changes" px={{ base: 8, sm: 'md' }}>Changes</Tabs.Tab>
          <Tabs.Tab value="json" px={{ base: 8, sm: 'md' }}>JSON</Tabs.Tab>
        </Tabs.List>
      </Box>
      <Box pt="md">
        <Tabs.Panel value="runs"><Runs id={job.id} job={job} /></Tabs.Panel>
        <Tabs.Panel value="statistics"><Statistics id={job.id} /></Tabs.Panel>
        <Tabs.Panel value="upcoming"><UpcomingRuns job={job} /></Tabs.Panel>
        <Tabs.Panel value="changes"><Changes id={job.id} /></Tabs.Panel>
        <Tabs.Panel value="json"><Raw job={job} /></Tabs.Panel>
      </Box>
    </Tabs>
  )
}

/** A job that is not there, or no more: its runs stay. */
function Gone({ id }: { id: string }) {
  const superAdmin = useMay('super_admin')
  const query = useQuery(executionsQuery(id, { limit: 1 }))
  const nobodys = id === trials ? 'Trials' : id === notifications ? 'Notifications' : null
  const name = nobodys ?? query.data?.executions[0]?.job_name
  return (
    <Page title={name ?? 'Job'}>
      <Loaded query={query}>
        {({ total }) => {
          if (nobodys) {
            return (
              <>
                <Text size="sm">
                  {id === trials ? 'Runs of jobs that were tried before they were saved.' : 'Runs that told somebody how another run ended.'}
                </Text>
                <Runs id={id} />
              </>
            )
          }
          if (total === 0) {
            return (
              <EmptyState title="There is no such job" action={<Button component={Link} to="/jobs">All jobs</Button>}>
                Nothing ever ran under {id}. The address may be mistyped, or the job was deleted before its first run.
              </EmptyState>
            )
          }
          return (
            <>
              <Alert color="gray" variant="outline" title="This job was deleted" styles={{ message: { color: 'var(--mantine-color-text)' }, title: { color: 'var(--mantine-color-text)' } }}>
                It runs no more. What it did stays readable{superAdmin ? <>; <Link to={`/audit?object=${id}`}>who changed and deleted it</Link> too</> : ''}.
              </Alert>
              <Runs id={id} />
            </>
          )
        }}
      </Loaded>
    </Page>
  )
}
