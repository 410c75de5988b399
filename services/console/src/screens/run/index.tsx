// One run: how it stands and why, its log, and what can be done about it.
import { Anchor, Box, Button, Code, Collapse, CopyButton, Grid, Group, Paper, Stack, Table, Text, Title } from '@mantine/core'
import { useDisclosure } from '@mantine/hooks'
import { IconCalendarTime, IconFlask, IconInfoCircle } from '@tabler/icons-react'
import { useQuery } from '@tanstack/react-query'
import { Fragment, type ReactNode } from 'react'
import { Link, useParams, useSearchParams } from 'react-router'
import { ApiError } from '../../api/client'
import { jobQuery, templatesQuery } from '../../api/queries'
import type { Attempt, Execution, Job, Json, Notice, Template } from '../../api/types'
import { Copyable, Fields } from '../../parts/json'
import { EmptyState, ErrorNotice, Page, Waiting } from '../../parts/page'
import { ended, StatusBadge } from '../../parts/status'
import { TemplateIcon } from '../../parts/template-icon'
import { absolute, duration, RelativeTime, useNow } from '../../parts/time'
import { triggerInWords } from '../../parts/words'
import { useMay } from '../../shell/session'
import { inWords } from '../job/parameters'
import { CancelRun, ResolveRun, RunAgain } from './actions'
import { notAgain } from './again'
import { type LogChoice, RunLog } from './log'
import { levels } from './log-lines'
import { RunProgress } from './progress'
import { advice, notifications, story, trials, waited } from './story'
import { Broken } from './trouble'
import { useRun } from './use-run'

export function Component() {
  const { id = '' } = useParams()
  return <Run key={id} id={id} />
}

function Run({ id }: { id: string }) {
  const watched = useRun(id)
  const { run, trouble, again } = watched
  if (run) return <Told {...watched} run={run} />
  const gone = trouble?.error instanceof ApiError && trouble.error.status === 404
  return (
    <Page title="Run">
      {gone ? (
        <EmptyState title="There is no such run" action={<Button component={Link} to="/jobs">To the jobs</Button>}>
          The address may be mistyped, or the run so old that its record was removed.
        </EmptyState>
      ) : trouble ? (
        <ErrorNotice error={trouble.error} retry={again} />
      ) : (
        <Waiting label="Loading the run" />
      )}
    </Page>
  )
}

function Told({ run, log, over, trouble, again }: ReturnType<typeof useRun> & { run: Execution }) {
  const now = useNow()
  const superAdmin = useMay('super_admin')
  const nobodys = run.job_id === trials || run.job_id === notifications
  const job = useQuery({ ...jobQuery(run.job_id), enabled: !nobodys })
  const templates = useQuery(templatesQuery())
  const template = templates.data?.find((t) => t.id === run.template_type)
  const [search, setSearch] = useSearchParams()

  const isOver = ended(run.status)
  const known = job.data ?? null
  const unread = !nobodys && !known && !(job.error instanceof ApiError && job.error.status === 404)
  const refusal = unread ? null : notAgain(run, known, template, superAdmin)
  const other = /\bexec_[\w-]+/.exec(run.reason ?? '')?.[0]
  const about = run.job_id === notifications ? (run.parameters.data as Json | undefined)?.execution_id : undefined

  const choice: LogChoice = {
    levels: levels.filter((level) => search.get('levels')?.split(',').includes(level)),
    find: search.get('find') ?? '',
  }
  function keep(to: LogChoice) {
    if (to.find === choice.find && to.levels.join() === choice.levels.join()) return
    setSearch(
      (before) => {
        const next = new URLSearchParams(before)
        if (to.levels.length > 0) next.set('levels', to.levels.join())
        else next.delete('levels')
        if (to.find) next.set('find', to.find)
        else next.delete('find')
        return next
      },
      { replace: true, preventScrollReset: true },
    )
  }

  return (
    <Page
      title={`${run.job_name}, run`}
      heading={
        <Group gap="sm" wrap="nowrap">
          <TemplateIcon type={run.template_type} sign={template?.icon} size={38} />
          <span style={{ overflowWrap: 'anywhere' }}>{run.job_name}</span>
        </Group>
      }
      actions={
        <>
          {!isOver && <CancelRun run={run} done={again} />}
          {isOver && known && refusal === null && <RunAgain run={run} job={known} template={template} />}
          {known && (
            <Button component={Link} to={`/jobs/${known.id}`} variant="default" leftSection={<IconCalendarTime size={16} aria-hidden />}>
              The job
            </Button>
          )}
        </>
      }
    >
      <Stack gap="sm">
        <Group gap="sm" align="center">
          <Box role="status" aria-label="State" style={{ flex: 'none' }}>
            <StatusBadge status={run.status} size="lg" />
          </Box>
          <Text size="lg" style={{ overflowWrap: 'anywhere', flex: '1 1 270px' }}>
            {story(run, now)}
          </Text>
        </Group>
        {run.job_id === trials && <Hint icon="trial">A trial of a job that was not saved{run.parameters.dryRun === true ? '; a dry run, which changes nothing' : ''}. It is run again from the editor.</Hint>}
        {run.job_id !== trials && run.parameters.dryRun === true && <Hint icon="trial">A dry run: it only looks, and changes nothing.</Hint>}
        {run.job_id === notifications && (
          <Hint>
            It tells somebody how another run ended
            {typeof about === 'string' ? (
              <>
                :{' '}
                <Anchor component={Link} to={`/runs/${about}`} size="sm" underline="always">
                  that run
                </Anchor>
              </>
            ) : (
              '.'
            )}
          </Hint>
        )}
        {other && (
          <Text size="sm">
            <Anchor component={Link} to={`/runs/${other}`}>
              Look at the run that was in the way
            </Anchor>
          </Text>
        )}
        {run.status !== 'unknown' && advice(run) && <Hint>{advice(run)}</Hint>}
        {isOver && refusal && !nobodys && <Text size="sm" c="dimmed">It cannot be run again from here. {refusal}</Text>}
      </Stack>
      {run.status === 'unknown' && <ResolveRun run={run} advice={advice(run)} />}
      <RunProgress run={run} />
      <Grid gap="lg">
        <Grid.Col span={{ base: 12, md: 8 }}>
          <Stack gap="lg">
            {run.result && <Result of={run.result} />}
            <Section title="Log">
              <Stack gap="xs">
                <Broken trouble={trouble} again={again} />
                <RunLog log={log} startedAt={run.started_at} live={!over && !isOver} name={`${run.job_name}-${run.id}`} height="min(560px, 62vh)" choice={choice} told={keep} />
              </Stack>
            </Section>
            {run.attempts.length > 0 && <Attempts run={run} />}
            <Parameters run={run} job={known} template={template} />
          </Stack>
        </Grid.Col>
        <Grid.Col span={{ base: 12, md: 4 }}>
          <Stack gap="lg">
            <Facts run={run} job={known} deleted={!nobodys && !known && !unread} template={template?.name ?? run.template_type} />
            {run.notifications.length > 0 && <Notices of={run.notifications} />}
          </Stack>
        </Grid.Col>
      </Grid>
    </Page>
  )
}

function Hint({ icon, children }: { icon?: 'trial'; children: ReactNode }) {
  const Icon = icon === 'trial' ? IconFlask : IconInfoCircle
  return (
    <Group gap="xs" wrap="nowrap" align="flex-start">
      <Icon size={18} aria-hidden style={{ flex: 'none', marginTop: 2 }} color="var(--mantine-color-dimmed)" />
      <Text size="sm">{children}</Text>
    </Group>
  )
}

const Section = ({ title, aside, children }: { title: string; aside?: ReactNode; children: ReactNode }) => (
  <section aria-label={title}>
    <Group justify="space-between" mb="xs">
      <Title order={2} size="h4">
        {title}
      </Title>
      {aside}
    </Group>
    {children}
  </section>
)

function Result({ of }: { of: Record<string, unknown> }) {
  const { message, ...rest } = of
  return (
    <Section title="Result">
      <Paper withBorder p="md">
        {typeof message === 'string' && (
          <Text fw={500} mb={Object.keys(rest).length > 0 ? 'sm' : 0} style={{ overflowWrap: 'anywhere', whiteSpace: 'pre-wrap' }}>
            {message}
          </Text>
        )}
        {Object.keys(rest).length > 0 && <Fields of={rest} label="Result" names={150} />}
      </Paper>
    </Section>
  )
}

function Attempts({ run }: { run: Execution }) {
  return (
    <Section title="Attempts">
      <Table.ScrollContainer minWidth={300} scrollAreaProps={{ viewportProps: { tabIndex: 0, role: 'region', 'aria-label': 'Attempts, table' } }}>
        <Table aria-label="Attempts" verticalSpacing="xs">
          <Table.Thead>
            <Table.Tr>
              <Table.Th scope="col">No.</Table.Th>
              <Table.Th scope="col">State</Table.Th>
              <Table.Th scope="col">Started</Table.Th>
              <Table.Th scope="col">Took</Table.Th>
              <Table.Th scope="col" visibleFrom="sm">
                Worker
              </Table.Th>
              <Table.Th scope="col" visibleFrom="sm">
                Error
              </Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {run.attempts.map((a) => (
              <Fragment key={a.number}>
                <Table.Tr>
                  <Table.Th scope="row">{a.number}</Table.Th>
                  <Table.Td>
                    <StatusBadge status={a.status} />
                  </Table.Td>
                  <Table.Td style={{ whiteSpace: 'nowrap' }}>
                    <RelativeTime at={a.started_at} />
                  </Table.Td>
                  <Table.Td style={{ whiteSpace: 'nowrap' }}>{duration(a.duration_seconds)}</Table.Td>
                  <Table.Td visibleFrom="sm" style={{ whiteSpace: 'nowrap' }}>
                    {a.execution_host ?? '–'}
                  </Table.Td>
                  <Table.Td visibleFrom="sm" style={{ overflowWrap: 'anywhere', minWidth: 160 }}>
                    <Cause of={a} />
                  </Table.Td>
                </Table.Tr>
                {a.error && (
                  // on phones, where there is no room beside
                  <Table.Tr hiddenFrom="sm">
                    <Table.Td colSpan={4} style={{ overflowWrap: 'anywhere' }}>
                      <Cause of={a} />
                    </Table.Td>
                  </Table.Tr>
                )}
              </Fragment>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
    </Section>
  )
}

const Cause = ({ of }: { of: Attempt }) => (
  <>
    {of.error ?? '–'}
    {of.error_code && (
      <Text span size="xs" c="dimmed">
        {' '}
        ({of.error_code})
      </Text>
    )}
  </>
)

function Parameters({ run, job, template }: { run: Execution; job: Job | null; template: Template | undefined }) {
  const [raw, { toggle }] = useDisclosure(false)
  const json = JSON.stringify(run.parameters, null, 2)
  return (
    <Section
      title="Parameters"
      aside={
        <Button size="xs" variant="default" onClick={toggle} aria-expanded={raw}>
          {raw ? 'Hide JSON' : 'Show JSON'}
        </Button>
      }
    >
      <Text size="sm" c="dimmed" mb="xs">
        As they were when the run was recorded{job && job.version !== run.job_version ? '; the job has been changed since' : ''}.
      </Text>
      <Paper withBorder p="md">
        <Fields of={inWords(run.parameters, template)} label="Parameters" names={140} />
        <Collapse expanded={raw}>
          <Box mt="md">
            <CopyButton value={json}>
              {({ copied, copy }) => (
                <Button size="xs" variant="default" onClick={copy}>
                  {copied ? 'Copied' : 'Copy JSON'}
                </Button>
              )}
            </CopyButton>
            <Code block mt="xs" tabIndex={0}>
              {json}
            </Code>
          </Box>
        </Collapse>
      </Paper>
    </Section>
  )
}

function When({ at }: { at: string }) {
  return (
    <>
      {absolute(at)}
      <Text span display="block" size="xs" c="dimmed">
        <RelativeTime at={at} />
      </Text>
    </>
  )
}

function Facts({ run, job, deleted, template }: { run: Execution; job: Job | null; deleted: boolean; template: string }) {
  const wait = waited(run)
  const labels = Object.entries(run.executor_selector)
  const facts: [string, ReactNode][] = [
    [
      'Job',
      job ? (
        <Anchor component={Link} to={`/jobs/${job.id}`} size="sm">
          {job.name}
        </Anchor>
      ) : deleted ? (
        `${run.job_name} (deleted)`
      ) : (
        run.job_name
      ),
    ],
    ['Template', template],
    ['Triggered', triggerInWords(run.triggered_by, run.triggered_by_user)],
    ['Scheduled for', <When at={run.scheduled_for} />],
  ]
  if (run.started_at) facts.push(['Started', <When at={run.started_at} />])
  if (run.completed_at) facts.push(['Ended', <When at={run.completed_at} />])
  if (run.duration_seconds !== null) facts.push(['Took', duration(run.duration_seconds)])
  if (wait !== null) facts.push(['Waited', duration(wait)])
  if (run.missed_count !== null && run.missed_from && run.missed_until) {
    facts.push(['Times skipped', run.missed_count.toLocaleString('en')], ['First of them', <When at={run.missed_from} />], ['Last of them', <When at={run.missed_until} />])
  }
  if (run.execution_host) facts.push(['Worker', run.execution_host])
  if (run.isolation.length > 0) facts.push(['Kept apart by', run.isolation.join(', ')])
  if (run.error_code) facts.push(['Kind of error', run.error_code])
  if (run.organisation && run.organisation !== 'default') facts.push(['Organisation', run.organisation])
  if (run.priority !== 0) facts.push(['Priority', String(run.priority)])
  if (labels.length > 0) facts.push(['Only on workers with', labels.map(([k, v]) => `${k}=${v}`).join(', ')])
  facts.push(['Run', <Copyable value={run.id} label="the run's id" />])
  return (
    <Section title="Details">
      <Paper withBorder p="md">
        <dl style={{ display: 'grid', gridTemplateColumns: 'minmax(90px, max-content) 1fr', gap: '8px 16px', margin: 0 }}>
          {facts.map(([name, value]) => (
            <Fragment key={name}>
              <Text component="dt" size="sm" c="dimmed">
                {name}
              </Text>
              <Text component="dd" size="sm" m={0} style={{ overflowWrap: 'anywhere' }}>
                {value}
              </Text>
            </Fragment>
          ))}
        </dl>
      </Paper>
    </Section>
  )
}

const events: Record<string, string> = { succeeded: 'that it succeeded', failed: 'that it failed', recovered: 'that it works again' }
const ways: Record<string, string> = { email_notification: 'Mail', channel_message: 'Channel message' }

function Notices({ of }: { of: Notice[] }) {
  return (
    <Section title="Who was told">
      <Paper withBorder p="md">
        <Stack gap="sm">
          {of.map((notice) => (
            <Box key={notice.execution_id}>
              <Group justify="space-between" gap="xs">
                <Anchor component={Link} to={`/runs/${notice.execution_id}`} size="sm">
                  {ways[notice.template_type] ?? notice.template_type} {events[notice.event] ?? notice.event}
                </Anchor>
                <StatusBadge status={notice.status} size="sm" />
              </Group>
              {notice.error && (
                <Text size="xs" mt={4} style={{ overflowWrap: 'anywhere' }}>
                  {notice.error}
                </Text>
              )}
            </Box>
          ))}
        </Stack>
      </Paper>
    </Section>
  )
}
