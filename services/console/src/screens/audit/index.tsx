import { Anchor, Autocomplete, Button, Card, Code, Group, Pagination, Stack, Table, Text, TextInput, UnstyledButton } from '@mantine/core'
import { useDebouncedCallback, useMediaQuery } from '@mantine/hooks'
import { IconChevronDown, IconChevronRight } from '@tabler/icons-react'
import { useQuery } from '@tanstack/react-query'
import { Fragment, useEffect, useState } from 'react'
import { Link } from 'react-router'
import { auditQuery, usersQuery } from '../../api/queries'
import type { AuditEntry } from '../../api/types'
import { useAddress } from '../../parts/address'
import { Copyable } from '../../parts/json'
import { EmptyState, Loaded, Page } from '../../parts/page'
import { RelativeTime } from '../../parts/time'
import { useLive } from '../../shell/live'
import { useMay } from '../../shell/session'
import { actionInWords, actions, changesOf, subjectOf } from './changes'

const perPage = 50
const filters = ['object', 'user', 'action'] as const

/** Who did what, when and from where. */
export function Component() {
  const may = useMay('super_admin')
  if (!may) {
    return (
      <Page title="Audit">
        <EmptyState title="The audit log is for super admins">It shows who changed what, with all values. Ask a super admin for the role, or to look for you.</EmptyState>
      </Page>
    )
  }
  return <Log />
}

function Log() {
  const { every } = useLive()
  const { params, change: choose, clear } = useAddress({ pagesKept: true })
  const chosen = Object.fromEntries(filters.map((name) => [name, params.get(name) ?? ''])) as Record<(typeof filters)[number], string>
  const page = Math.max(1, Math.trunc(Number(params.get('page'))) || 1)
  const filtered = filters.some((name) => chosen[name])
  const query = useQuery({
    ...auditQuery({ object: chosen.object || undefined, user: chosen.user || undefined, action: chosen.action || undefined, page, limit: perPage }),
    refetchInterval: every(5000),
  })
  const users = useQuery(usersQuery())

  return (
    <Page title="Audit">
      <Text c="dimmed" size="sm" maw={720}>
        Every change and every run that a person started, latest first. Open an entry to see what it changed.
      </Text>
      <Group align="flex-end" gap="sm">
        <Filter label="Who" placeholder="Username" value={chosen.user} options={(users.data ?? []).map((u) => u.username)} choose={(v) => choose('user', v)} />
        <Filter label="Action" placeholder="Such as job.update" value={chosen.action} options={Object.keys(actions)} choose={(v) => choose('action', v)} />
        <Filter label="Id of a job, run, worker or user" placeholder="job_…" value={chosen.object} choose={(v) => choose('object', v)} wide />
        {filtered && (
          <Button variant="default" onClick={clear}>
            Clear
          </Button>
        )}
      </Group>
      <Loaded query={query}>
        {({ entries, total }) => {
          const pages = Math.max(1, Math.ceil(total / perPage))
          return (
            <Stack>
              {entries.length === 0 ? (
                filtered || page > 1 ? (
                  <EmptyState title="No entry matches" action={<Button variant="default" onClick={clear}>Show all entries</Button>}>
                    Names and ids have to be given in full.
                  </EmptyState>
                ) : (
                  <EmptyState title="Nothing was changed yet">As soon as somebody makes a job, starts a run or adds a user, it is recorded here.</EmptyState>
                )
              ) : (
                <Entries entries={entries} only={(object) => choose('object', object)} />
              )}
              {total > 0 && (
                <Group justify="space-between">
                  <Text size="sm" c="dimmed" role="status">
                    {total.toLocaleString('en')} {total === 1 ? 'entry' : 'entries'}
                  </Text>
                  {pages > 1 && (
                    <Pagination
                      total={pages}
                      value={Math.min(page, pages)}
                      onChange={(p) => choose('page', p === 1 ? '' : String(p))}
                      getControlProps={(control) => ({ 'aria-label': `${control} page` })}
                      getItemProps={(p) => ({ 'aria-label': `Page ${p}` })}
                    />
                  )}
                </Group>
              )}
            </Stack>
          )
        }}
      </Loaded>
    </Page>
  )
}

/** A text that filters shortly after the last key. */
function Filter({ label, placeholder, value, options, choose, wide }: { label: string; placeholder: string; value: string; options?: string[]; choose: (value: string) => void; wide?: boolean }) {
  const [text, setText] = useState(value)
  const later = useDebouncedCallback((v: string) => choose(v.trim()), 400)
  useEffect(() => setText((now) => (now.trim() === value ? now : value)), [value])
  const change = (v: string) => {
    setText(v)
    later(v)
  }
  const width = { base: '100%', sm: wide ? 320 : 200 }
  if (options) return <Autocomplete label={label} placeholder={placeholder} data={options} value={text} onChange={change} w={width} clearable clearButtonProps={{ 'aria-label': `Clear ${label.toLowerCase()}` }} />
  return <TextInput label={label} placeholder={placeholder} value={text} onChange={(e) => change(e.currentTarget.value)} w={width} spellCheck={false} />
}

function Subject({ entry }: { entry: AuditEntry }) {
  const { name, to } = subjectOf(entry)
  if (!to) return <span style={{ overflowWrap: 'anywhere' }}>{name}</span>
  return (
    <Anchor component={Link} to={to} size="sm" underline="always" style={{ overflowWrap: 'anywhere' }}>
      {name}
    </Anchor>
  )
}

function Entries({ entries, only }: { entries: AuditEntry[]; only: (object: string) => void }) {
  const narrow = useMediaQuery('(max-width: 48em)', false, { getInitialValueInEffect: false })
  const [open, setOpen] = useState<ReadonlySet<string>>(new Set())
  const toggle = (id: string) =>
    setOpen((now) => {
      const next = new Set(now)
      if (!next.delete(id)) next.add(id)
      return next
    })
  const what = (entry: AuditEntry) => (
    <UnstyledButton onClick={() => toggle(entry.id)} aria-expanded={open.has(entry.id)} aria-label={`What ${entry.user} changed: ${actionInWords(entry.action)} ${subjectOf(entry).name}`} mih={24}>
      <Group gap={4} wrap="nowrap">
        {open.has(entry.id) ? <IconChevronDown size={16} aria-hidden /> : <IconChevronRight size={16} aria-hidden />}
        <Text span size="sm">
          {actionInWords(entry.action)}
        </Text>
      </Group>
    </UnstyledButton>
  )

  if (narrow) {
    return (
      <Stack gap="sm">
        {entries.map((entry) => (
          <Card key={entry.id} withBorder padding="sm">
            <Stack gap={4}>
              <Group justify="space-between" gap="xs">
                <Text size="sm" fw={600}>
                  {entry.user}
                </Text>
                <Text size="sm" c="dimmed" component="div">
                  <RelativeTime at={entry.at} />
                </Text>
              </Group>
              {what(entry)}
              <Text size="sm" component="div">
                <Subject entry={entry} />
              </Text>
              {open.has(entry.id) && <Difference entry={entry} only={only} narrow />}
            </Stack>
          </Card>
        ))}
      </Stack>
    )
  }
  return (
    <Table verticalSpacing="xs" withTableBorder aria-label="Entries of the audit log">
      <Table.Thead>
        <Table.Tr>
          <Table.Th w={150}>When</Table.Th>
          <Table.Th w={140}>Who</Table.Th>
          <Table.Th w={220}>Did</Table.Th>
          <Table.Th>What</Table.Th>
          <Table.Th w={150}>From</Table.Th>
        </Table.Tr>
      </Table.Thead>
      <Table.Tbody>
        {entries.map((entry) => (
          <Fragment key={entry.id}>
            <Table.Tr>
              <Table.Td>
                <RelativeTime at={entry.at} size="sm" />
              </Table.Td>
              <Table.Td style={{ overflowWrap: 'anywhere' }}>{entry.user}</Table.Td>
              <Table.Td>{what(entry)}</Table.Td>
              <Table.Td>
                <Subject entry={entry} />
              </Table.Td>
              <Table.Td style={{ overflowWrap: 'anywhere' }}>{entry.address || '–'}</Table.Td>
            </Table.Tr>
            {open.has(entry.id) && (
              <Table.Tr>
                <Table.Td colSpan={5}>
                  <Difference entry={entry} only={only} />
                </Table.Td>
              </Table.Tr>
            )}
          </Fragment>
        ))}
      </Table.Tbody>
    </Table>
  )
}

function ChangedValue({ value }: { value: unknown }) {
  if (value === undefined) return <Text span size="sm" c="dimmed">–</Text>
  if (value === null) return <Text span size="sm" c="dimmed">none</Text>
  const text = typeof value === 'string' ? value : JSON.stringify(value)
  return <span style={{ overflowWrap: 'anywhere', whiteSpace: 'pre-wrap' }}>{text === '' ? '(empty)' : text}</span>
}

function Difference({ entry, only, narrow }: { entry: AuditEntry; only: (object: string) => void; narrow?: boolean }) {
  const changes = changesOf(entry.before, entry.after)
  const [born, gone] = [entry.before === null, entry.after === null]
  return (
    <Stack gap="xs" py={4}>
      <Group gap="md">
        <Group gap={6}>
          <Text size="sm" c="dimmed">
            Action
          </Text>
          <Code>{entry.action}</Code>
        </Group>
        <Group gap={6}>
          <Text size="sm" c="dimmed">
            Of
          </Text>
          <Copyable value={entry.object} label="the id" />
        </Group>
        {narrow && entry.address && (
          <Group gap={6}>
            <Text size="sm" c="dimmed">
              From
            </Text>
            <Text size="sm">{entry.address}</Text>
          </Group>
        )}
        <Button size="compact-xs" variant="default" onClick={() => only(entry.object)}>
          Only entries of this
        </Button>
      </Group>
      {changes.length === 0 ? (
        <Text size="sm" c="dimmed">
          No field has another value than before.
        </Text>
      ) : (
        <Table.ScrollContainer minWidth={narrow && !born && !gone ? 420 : 0} scrollAreaProps={{ viewportProps: { tabIndex: 0 } }}>
          <Table layout="fixed" verticalSpacing={4} aria-label={`What changed in ${subjectOf(entry).name}`}>
            <Table.Thead>
              <Table.Tr>
                <Table.Th w={born || gone ? '40%' : '28%'}>Field</Table.Th>
                {!born && <Table.Th>{gone ? 'What it was' : 'Before'}</Table.Th>}
                {!gone && <Table.Th>{born ? 'Value' : 'After'}</Table.Th>}
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {changes.map((c) => (
                <Table.Tr key={c.path} style={{ verticalAlign: 'top' }}>
                  <Table.Th scope="row" fw={500} style={{ overflowWrap: 'anywhere' }}>
                    {c.path}
                  </Table.Th>
                  {!born && (
                    <Table.Td>
                      <ChangedValue value={c.before} />
                    </Table.Td>
                  )}
                  {!gone && (
                    <Table.Td>
                      <ChangedValue value={c.after} />
                    </Table.Td>
                  )}
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      )}
      <details>
        <Text component="summary" size="sm" style={{ cursor: 'pointer' }}>
          Everything, as JSON
        </Text>
        <Code block mt="xs" style={{ maxHeight: 360, overflow: 'auto' }} tabIndex={0} role="region" aria-label="Everything, as JSON">
          {JSON.stringify({ before: entry.before, after: entry.after }, null, 2)}
        </Code>
      </details>
    </Stack>
  )
}
