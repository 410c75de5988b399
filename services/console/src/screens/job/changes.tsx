// Who changed a job, and what.
import { Group, Pagination, Paper, Stack, Table, Text } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { auditQuery } from '../../api/queries'
import type { AuditEntry } from '../../api/types'
import { fieldName } from '../../parts/json'
import { EmptyState, Loaded } from '../../parts/page'
import { RelativeTime } from '../../parts/time'
import { useLive } from '../../shell/live'
import { useMay } from '../../shell/session'
import { actionInWords, changesOf } from '../audit/changes'
import { valueInWords } from './sentences'

const perPage = 20

export function Changes({ id }: { id: string }) {
  const superAdmin = useMay('super_admin')
  if (!superAdmin) return <EmptyState title="For super admins">Who changed what is in the audit log, which needs the role super admin.</EmptyState>
  return <List id={id} />
}

function List({ id }: { id: string }) {
  const [page, setPage] = useState(1)
  const { every } = useLive()
  const query = useQuery({ ...auditQuery({ object: id, page, limit: perPage }), refetchInterval: every(5000) })
  return (
    <Loaded query={query}>
      {({ entries, total }) =>
        entries.length === 0 ? (
          <EmptyState title="Nothing is recorded">Whoever changes this job from now on appears here.</EmptyState>
        ) : (
          <Stack>
            {entries.map((entry) => (
              <Entry key={entry.id} entry={entry} />
            ))}
            {total > perPage && (
              <Pagination size="sm" total={Math.ceil(total / perPage)} value={page} onChange={setPage} getControlProps={(control) => ({ 'aria-label': `${control} page` })} getItemProps={(n) => ({ 'aria-label': `Page ${n}` })} />
            )}
          </Stack>
        )
      }
    </Loaded>
  )
}

// They follow from the schedule and the clock: nobody changed them.
const derived = new Set(['id', 'created_at', 'created_by', 'last_run_at', 'next_run_at'])
const path = (field: string) => {
  const [first = '', ...rest] = field.split('.')
  return [fieldName(first), ...rest].join(' › ')
}

function Entry({ entry }: { entry: AuditEntry }) {
  const fields = changesOf(entry.before, entry.after).filter((change) => !derived.has(change.path))
  const both = entry.before !== null && entry.after !== null
  const table = (
    <Table.ScrollContainer minWidth={both ? 420 : 280} type="native" tabIndex={0} role="region" aria-label={`What ${entry.user} changed`}>
      <Table verticalSpacing={6} layout="fixed" aria-label={`What ${entry.user} changed`}>
        <Table.Thead>
          <Table.Tr>
            <Table.Th w="30%">Field</Table.Th>
            {entry.before && <Table.Th>Before</Table.Th>}
            {entry.after && <Table.Th>{both ? 'After' : 'Value'}</Table.Th>}
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {fields.map((change) => (
            <Table.Tr key={change.path} style={{ verticalAlign: 'top', overflowWrap: 'anywhere' }}>
              <Table.Th scope="row" fw={500}>{path(change.path)}</Table.Th>
              {entry.before && <Table.Td>{valueInWords(change.before)}</Table.Td>}
              {entry.after && <Table.Td>{valueInWords(change.after)}</Table.Td>}
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  )
  return (
    <Paper withBorder p="sm">
      <Stack gap="xs">
        <Group justify="space-between" gap="xs">
          <Text size="sm" style={{ overflowWrap: 'anywhere' }}>
            <b>{entry.user}</b> {actionInWords(entry.action)}
            {entry.address && <Text span c="dimmed" size="sm"> from {entry.address}</Text>}
          </Text>
          <Text size="sm" c="dimmed"><RelativeTime at={entry.at} /></Text>
        </Group>
        {fields.length === 0 ? (
          <Text size="sm" c="dimmed">Saved without a change.</Text>
        ) : both ? (
          table
        ) : (
          // A job as it was made or deleted has too many fields to show unasked.
          <details>
            <Text component="summary" size="sm" style={{ cursor: 'pointer' }}>{entry.after ? 'As it was made' : 'As it was deleted'}</Text>
            {table}
          </details>
        )}
      </Stack>
    </Paper>
  )
}
