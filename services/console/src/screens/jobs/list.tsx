// The rows of the list: a table, on phones cards.
import { Group, Menu, Table, UnstyledButton, VisuallyHidden } from '@mantine/core'
import { IconArrowDown, IconArrowsSort, IconArrowUp, IconCopy, IconDots, IconPencil, IconPlayerPlay, IconTrash } from '@tabler/icons-react'
import { type ChangeEvent, type ComponentProps, memo, type ReactNode, useEffect, useState } from 'react'
import { Link } from 'react-router'
import type { Job, Template } from '../../api/types'
import { RunStrip, StateBadge } from '../../parts/status'
import { TemplateIcon } from '../../parts/template-icon'
import { duration, RelativeTime } from '../../parts/time'
import { scheduleInWords } from '../../parts/words'
import { useMay } from '../../shell/session'
import { Labels } from './labels'
import classes from './list.module.css'
import { NextRun } from './next-run'
import { type SortField, runsShown } from './view'

export type Action = 'run' | 'delete'
type Does = {
  onSelect: (job: Job, selected: boolean) => void
  /** False when nothing was done. */
  onToggle: (job: Job, enabled: boolean) => boolean
  onAct: (action: Action, job: Job) => void
}
type RowProps = Does & { job: Job; template: Template | undefined; selected: boolean }

function LastRuns({ job }: { job: Job }) {
  const last = job.recent_runs.find((run) => run.duration_seconds !== null)
  return (
    <div className={classes.runs}>
      <RunStrip runs={job.recent_runs} most={runsShown} />
      {last && (
        <span className={classes.dim}>
          <VisuallyHidden>the last one took </VisuallyHidden>
          {duration(last.duration_seconds)}
        </span>
      )}
    </div>
  )
}

function Name({ job, template }: { job: Job; template: Template | undefined }) {
  return (
    <div className={classes.name}>
      <TemplateIcon type={job.template_type} sign={template?.icon} />
      <div>
        <Link to={`/jobs/${job.id}`} className={classes.link}>
          {job.name}
        </Link>
        <div className={classes.tags}>
          <span className={classes.dim}>{template?.name ?? job.template_type}</span>
          <Labels of={job.labels} />
        </div>
      </div>
    </div>
  )
}

const Select = ({ job, selected, onSelect }: Pick<RowProps, 'job' | 'selected' | 'onSelect'>) => (
  <input type="checkbox" className={classes.check} aria-label={`Select ${job.name}`} checked={selected} onChange={(e) => onSelect(job, e.currentTarget.checked)} />
)

function Enabled({ job, onToggle }: Pick<RowProps, 'job' | 'onToggle'>) {
  const may = useMay('super_admin')
  // The list may be drawn a moment after the click: until then the switch shows what was wished.
  const [wish, setWish] = useState<boolean | null>(null)
  useEffect(() => setWish(null), [job])
  if (!may) return <span className={job.enabled ? undefined : classes.faint}>{job.enabled ? 'On' : 'Paused'}</span>
  const toggle = (event: ChangeEvent<HTMLInputElement>) => {
    const enabled = event.currentTarget.checked
    if (onToggle(job, enabled)) setWish(enabled)
  }
  return <input type="checkbox" role="switch" className={classes.switch} aria-label={`Enabled: ${job.name}`} checked={wish ?? job.enabled} onChange={toggle} />
}

// The menu that it opens passes it a class and more.
function Dots({ job, className, ...rest }: { job: Job } & ComponentProps<'button'>) {
  return (
    <button type="button" className={`${classes.dots} ${className ?? ''}`} aria-label={`Actions for ${job.name}`} aria-haspopup="menu" {...rest}>
      <IconDots size={18} aria-hidden />
    </button>
  )
}

function RowMenu({ job, onAct }: Pick<RowProps, 'job' | 'onAct'>) {
  const superAdmin = useMay('super_admin')
  // A menu is made when it is first asked for.
  const [used, setUsed] = useState(false)
  const [opened, setOpened] = useState(false)
  // Opened only once it is there: then it knows where the focus was, and gives it back.
  useEffect(() => setOpened(used), [used])
  if (!used) return <Dots job={job} aria-expanded={false} onClick={() => setUsed(true)} />
  return (
    <Menu position="bottom-end" withArrow opened={opened} onChange={setOpened}>
      <Menu.Target>
        <Dots job={job} autoFocus />
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

// Of which columns there are: more on wider screens.
type Columns = { schedule: boolean; dates: boolean }

const Row = memo(function Row({ selected, onSelect, ...cells }: RowProps & Columns) {
  return (
    <tr data-selected={selected || undefined}>
      <td><Select job={cells.job} selected={selected} onSelect={onSelect} /></td>
      <Cells {...cells} />
    </tr>
  )
})

// Drawn again only when the job itself has changed, not when it is selected.
const Cells = memo(function Cells({ job, template, onToggle, onAct, schedule, dates }: Omit<RowProps, 'selected' | 'onSelect'> & Columns) {
  return (
    <>
      <td><Enabled job={job} onToggle={onToggle} /></td>
      <td><Name job={job} template={template} /></td>
      <td>{job.state === 'never' ? <span className={classes.faint}>–</span> : <StateBadge state={job.state} />}</td>
      <td><LastRuns job={job} /></td>
      {schedule && <td><span className={classes.clamp}>{scheduleInWords(job.schedule)}</span></td>}
      <td><NextRun job={job} /></td>
      {dates && <td><RelativeTime at={job.updated_at} /></td>}
      {dates && <td><RelativeTime at={job.created_at} /></td>}
      <td><RowMenu job={job} onAct={onAct} /></td>
    </>
  )
})

function SortHead({ field, sort, onSort, children, width }: { field: SortField; sort: string; onSort: (field: SortField) => void; children: ReactNode; width?: number }) {
  const by = sort === field ? 'ascending' : sort === `-${field}` ? 'descending' : undefined
  const Icon = by === 'ascending' ? IconArrowUp : by === 'descending' ? IconArrowDown : IconArrowsSort
  return (
    <th scope="col" aria-sort={by} style={{ width }}>
      <UnstyledButton onClick={() => onSort(field)} fw={600} fz="sm" mih={24} style={{ whiteSpace: 'nowrap' }}>
        <Group gap={4} wrap="nowrap">
          {children}
          <Icon size={14} aria-hidden color={by ? undefined : 'var(--mantine-color-dimmed)'} />
        </Group>
      </UnstyledButton>
    </th>
  )
}

type ListProps = Does & { jobs: Job[]; templates: ReadonlyMap<string, Template>; selected: ReadonlyMap<string, Job> }

type TableProps = ListProps & Columns & { onSelectAll: (selected: boolean) => void; sort: string; onSort: (field: SortField) => void }

export const JobTable = memo(function JobTable({ jobs, templates, selected, onSelectAll, sort, onSort, schedule, dates, ...does }: TableProps) {
  const here = jobs.filter((job) => selected.has(job.id)).length
  const head = { sort, onSort }
  return (
    <Table.ScrollContainer minWidth={860} type="native" tabIndex={0} aria-label="Jobs" role="group">
      <table className={classes.table} aria-label="Jobs">
        <thead>
          <tr>
            <th scope="col" style={{ width: 44 }}>
              <input
                type="checkbox"
                className={classes.check}
                aria-label="Select all jobs of this page"
                checked={here > 0 && here === jobs.length}
                ref={(box) => {
                  if (box) box.indeterminate = here > 0 && here < jobs.length
                }}
                onChange={(e) => onSelectAll(e.currentTarget.checked)}
              />
            </th>
            <th scope="col" style={{ width: 62 }}>On</th>
            <SortHead field="name" {...head}>Name</SortHead>
            <th scope="col" style={{ width: 110 }}>State</th>
            <th scope="col" style={{ width: 215 }}>Last runs</th>
            {schedule && <th scope="col" style={{ width: 170 }}>Schedule</th>}
            <SortHead field="next_run_at" width={130} {...head}>Next run</SortHead>
            {dates && <SortHead field="updated_at" width={130} {...head}>Changed</SortHead>}
            {dates && <SortHead field="created_at" width={130} {...head}>Created</SortHead>}
            <th scope="col" style={{ width: 56 }}><VisuallyHidden>Actions</VisuallyHidden></th>
          </tr>
        </thead>
        <tbody>
          {jobs.map((job) => (
            <Row key={job.id} job={job} template={templates.get(job.template_type)} selected={selected.has(job.id)} schedule={schedule} dates={dates} {...does} />
          ))}
        </tbody>
      </table>
    </Table.ScrollContainer>
  )
})

const JobCard = memo(function JobCard({ job, template, selected, onSelect, onToggle, onAct }: RowProps) {
  return (
    <li className={classes.card} data-selected={selected || undefined}>
      <div className={classes.line}>
        <Name job={job} template={template} />
        <RowMenu job={job} onAct={onAct} />
      </div>
      <div className={`${classes.line} ${classes.start}`}>
        {job.state !== 'never' && <StateBadge state={job.state} />}
        <LastRuns job={job} />
      </div>
      <span>{scheduleInWords(job.schedule)}</span>
      <div className={classes.line}>
        <span>
          Next run: <NextRun job={job} />
        </span>
        <span className={classes.line}>
          <label className={classes.choice}>
            <Select job={job} selected={selected} onSelect={onSelect} />
            Select
          </label>
          <Enabled job={job} onToggle={onToggle} />
        </span>
      </div>
    </li>
  )
})

export const JobCards = memo(function JobCards({ jobs, templates, selected, ...does }: ListProps) {
  return (
    <ul className={classes.cards} aria-label="Jobs">
      {jobs.map((job) => (
        <JobCard key={job.id} job={job} template={templates.get(job.template_type)} selected={selected.has(job.id)} {...does} />
      ))}
    </ul>
  )
})
