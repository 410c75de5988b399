// The rows of the list: a table, on phones cards.
import { ActionIcon, Anchor, Card, Checkbox, Group, Menu, Stack, Table, Text, UnstyledButton, VisuallyHidden } from '@mantine/core'
import { IconArrowDown, IconArrowsSort, IconArrowUp, IconCopy, IconDots, IconPencil, IconPlayerPlay, IconTrash } from '@tabler/icons-react'
import { memo, type ReactNode } from 'react'
import { Link } from 'react-router'
import type { Job, Template } from '../../api/types'
import { RunStrip, StateBadge } from '../../parts/status'
import { TemplateIcon } from '../../parts/template-icon'
import { duration, RelativeTime } from '../../parts/time'
import { scheduleInWords } from '../../parts/words'
import { useMay } from '../../shell/session'
import { Labels } from './labels'
import { NextRun } from './next-run'
import { EnabledSwitch } from './toggle'
import { type SortField, runsShown } from './view'

export type Action = 'run' | 'delete'
type RowProps = { job: Job; template: Template | undefined; selected: boolean; onSelect: (job: Job, selected: boolean) => void; onAct: (action: Action, job: Job) => void }

function LastRuns({ job }: { job: Job }) {
  const last = job.recent_runs.find((run) => run.duration_seconds !== null)
  return (
    <Group gap="xs" wrap="nowrap">
      <RunStrip runs={job.recent_runs} most={runsShown} />
      {last && (
        <Text span size="xs" c="dimmed" style={{ whiteSpace: 'nowrap' }}>
          <VisuallyHidden>the last one took </VisuallyHidden>
          {duration(last.duration_seconds)}
        </Text>
      )}
    </Group>
  )
}

function Name({ job, template }: { job: Job; template: Template | undefined }) {
  return (
    <Group gap="sm" wrap="nowrap">
      <TemplateIcon type={job.template_type} sign={template?.icon} />
      <Stack gap={2} miw={0}>
        <Anchor component={Link} to={`/jobs/${job.id}`} fw={600} size="sm" style={{ overflowWrap: 'anywhere' }}>
          {job.name}
        </Anchor>
        <Group gap={6}>
          <Text size="xs" c="dimmed">{template?.name ?? job.template_type}</Text>
          <Labels of={job.labels} />
        </Group>
      </Stack>
    </Group>
  )
}

function RowMenu({ job, onAct }: { job: Job; onAct: (action: Action, job: Job) => void }) {
  const superAdmin = useMay('super_admin')
  return (
    <Menu position="bottom-end" withArrow>
      <Menu.Target>
        <ActionIcon variant="subtle" color="gray" size="lg" aria-label={`Actions for ${job.name}`}>
          <IconDots size={18} />
        </ActionIcon>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Item leftSection={<IconPlayerPlay size={16} aria-hidden />} onClick={() => onAct('run', job)}>Run now</Menu.Item>
        {superAdmin ? (
          <>
            <Menu.Item component={Link} to={`/jobs/${job.id}/edit`} leftSection={<IconPencil size={16} aria-hidden />}>Edit</Menu.Item>
            <Menu.Item component={Link} to={`/jobs/new?from=${job.id}`} leftSection={<IconCopy size={16} aria-hidden />}>Clone</Menu.Item>
            <Menu.Divider />
            <Menu.Item c="var(--mantine-color-error)" leftSection={<IconTrash size={16} aria-hidden />} onClick={() => onAct('delete', job)}>Delete</Menu.Item>
          </>
        ) : (
          <Menu.Label maw={220}>Changing jobs needs the role super admin.</Menu.Label>
        )}
      </Menu.Dropdown>
    </Menu>
  )
}

// Drawn again only when the job itself has changed: lists of a hundred stay smooth.
const Row = memo(function Row({ job, template, selected, onSelect, onAct }: RowProps) {
  return (
    <Table.Tr bg={selected ? 'var(--mantine-color-default-hover)' : undefined}>
      <Table.Td>
        <Checkbox aria-label={`Select ${job.name}`} checked={selected} onChange={(e) => onSelect(job, e.currentTarget.checked)} />
      </Table.Td>
      <Table.Td><EnabledSwitch job={job} /></Table.Td>
      <Table.Td><Name job={job} template={template} /></Table.Td>
      <Table.Td>{job.state === 'never' ? <Text c="dimmed">–</Text> : <StateBadge state={job.state} />}</Table.Td>
      <Table.Td><LastRuns job={job} /></Table.Td>
      <Table.Td visibleFrom="lg"><Text size="sm" lineClamp={3} style={{ overflowWrap: 'anywhere' }}>{scheduleInWords(job.schedule)}</Text></Table.Td>
      <Table.Td><Text size="sm"><NextRun job={job} /></Text></Table.Td>
      <Table.Td visibleFrom="xl"><RelativeTime at={job.updated_at} size="sm" /></Table.Td>
      <Table.Td visibleFrom="xl"><RelativeTime at={job.created_at} size="sm" /></Table.Td>
      <Table.Td><RowMenu job={job} onAct={onAct} /></Table.Td>
    </Table.Tr>
  )
})

function SortHead({ field, sort, onSort, children, w, visibleFrom }: { field: SortField; sort: string; onSort: (field: SortField) => void; children: ReactNode; w?: number; visibleFrom?: 'xl' }) {
  const by = sort === field ? 'ascending' : sort === `-${field}` ? 'descending' : undefined
  const Icon = by === 'ascending' ? IconArrowUp : by === 'descending' ? IconArrowDown : IconArrowsSort
  return (
    <Table.Th aria-sort={by} w={w} visibleFrom={visibleFrom}>
      <UnstyledButton onClick={() => onSort(field)} fw={600} fz="sm" mih={24} style={{ whiteSpace: 'nowrap' }}>
        <Group gap={4} wrap="nowrap">
          {children}
          <Icon size={14} aria-hidden color={by ? undefined : 'var(--mantine-color-dimmed)'} />
        </Group>
      </UnstyledButton>
    </Table.Th>
  )
}

type ListProps = {
  jobs: Job[]
  templates: Map<string, Template>
  selected: ReadonlyMap<string, Job>
  onSelect: (job: Job, selected: boolean) => void
  onSelectAll: (selected: boolean) => void
  onAct: (action: Action, job: Job) => void
}

export function JobTable({ jobs, templates, selected, onSelect, onSelectAll, onAct, sort, onSort }: ListProps & { sort: string; onSort: (field: SortField) => void }) {
  const here = jobs.filter((job) => selected.has(job.id)).length
  const head = { sort, onSort }
  return (
    <Table.ScrollContainer minWidth={860} type="native" tabIndex={0} aria-label="Jobs" role="region">
      <Table verticalSpacing="sm" highlightOnHover layout="fixed" aria-label="Jobs">
        <Table.Thead>
          <Table.Tr>
            <Table.Th w={44}>
              <Checkbox aria-label="Select all jobs of this page" checked={here > 0 && here === jobs.length} indeterminate={here > 0 && here < jobs.length} onChange={(e) => onSelectAll(e.currentTarget.checked)} />
            </Table.Th>
            <Table.Th w={62}>On</Table.Th>
            <SortHead field="name" {...head}>Name</SortHead>
            <Table.Th w={110}>State</Table.Th>
            <Table.Th w={215}>Last runs</Table.Th>
            <Table.Th w={170} visibleFrom="lg">Schedule</Table.Th>
            <SortHead field="next_run_at" w={130} {...head}>Next run</SortHead>
            <SortHead field="updated_at" w={130} visibleFrom="xl" {...head}>Changed</SortHead>
            <SortHead field="created_at" w={130} visibleFrom="xl" {...head}>Created</SortHead>
            <Table.Th w={56}><VisuallyHidden>Actions</VisuallyHidden></Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {jobs.map((job) => (
            <Row key={job.id} job={job} template={templates.get(job.template_type)} selected={selected.has(job.id)} onSelect={onSelect} onAct={onAct} />
          ))}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  )
}

const JobCard = memo(function JobCard({ job, template, selected, onSelect, onAct }: RowProps) {
  return (
    <Card withBorder padding="sm" component="li" bg={selected ? 'var(--mantine-color-default-hover)' : undefined}>
      <Stack gap="xs">
        <Group justify="space-between" wrap="nowrap" align="flex-start">
          <Name job={job} template={template} />
          <RowMenu job={job} onAct={onAct} />
        </Group>
        <Group gap="sm">
          {job.state !== 'never' && <StateBadge state={job.state} />}
          <LastRuns job={job} />
        </Group>
        <Text size="sm">{scheduleInWords(job.schedule)}</Text>
        <Group justify="space-between">
          <Text size="sm">Next run: <NextRun job={job} /></Text>
          <Group gap="md">
            <Checkbox label="Select" aria-label={`Select ${job.name}`} checked={selected} onChange={(e) => onSelect(job, e.currentTarget.checked)} />
            <EnabledSwitch job={job} />
          </Group>
        </Group>
      </Stack>
    </Card>
  )
})

export function JobCards({ jobs, templates, selected, onSelect, onAct }: Omit<ListProps, 'onSelectAll'>) {
  return (
    <Stack gap="sm" component="ul" p={0} m={0} style={{ listStyle: 'none' }} aria-label="Jobs">
      {jobs.map((job) => (
        <JobCard key={job.id} job={job} template={templates.get(job.template_type)} selected={selected.has(job.id)} onSelect={onSelect} onAct={onAct} />
      ))}
    </Stack>
  )
}
