// Free-form objects for people: a table of names and values; nested ones within.
// Everything is text, never markup.
import { Anchor, Box, Code, CopyButton, Group, Table, Text, Tooltip, ActionIcon } from '@mantine/core'
import { IconCheck, IconCopy } from '@tabler/icons-react'
import type { ReactNode } from 'react'
import type { Json } from '../api/types'

/** records_deleted as "Records deleted". */
export function fieldName(key: string): string {
  const words = key.replace(/_/g, ' ').replace(/([a-z])([A-Z])/g, '$1 $2').toLowerCase()
  return words.charAt(0).toUpperCase() + words.slice(1)
}

function Value({ value, depth }: { value: unknown; depth: number }): ReactNode {
  if (value === null || value === undefined) return <Text span size="sm" c="dimmed">none</Text>
  if (typeof value === 'boolean') return value ? 'yes' : 'no'
  if (typeof value === 'number') return value.toLocaleString('en')
  if (typeof value === 'string') {
    if (/^https?:\/\/\S+$/.test(value)) return <Anchor href={value} target="_blank" rel="noreferrer" size="sm" style={{ overflowWrap: 'anywhere' }}>{value}</Anchor>
    return <span style={{ overflowWrap: 'anywhere', whiteSpace: 'pre-wrap' }}>{value}</span>
  }
  if (Array.isArray(value)) {
    if (value.length === 0) return <Text span size="sm" c="dimmed">none</Text>
    if (value.every((v) => typeof v !== 'object' || v === null)) return <span style={{ overflowWrap: 'anywhere' }}>{value.map(String).join(', ')}</span>
  }
  const columns = columnsOf(value)
  if (columns) return <Rows of={value as Json[]} columns={columns} />
  if (depth >= 2) return <Code block>{JSON.stringify(value, null, 2)}</Code>
  if (Array.isArray(value)) {
    return (
      <>
        {value.map((v, i) => (
          <Fields key={i} of={v as Json} depth={depth + 1} />
        ))}
      </>
    )
  }
  return <Fields of={value as Json} depth={depth + 1} />
}

const plain = (value: unknown) => typeof value !== 'object' || value === null

/** The names in a list of flat objects, when they make a table that can be read. */
export function columnsOf(value: unknown): string[] | null {
  if (!Array.isArray(value) || value.length < 2) return null
  if (!value.every((row) => !plain(row) && !Array.isArray(row) && Object.values(row as Json).every(plain))) return null
  const names = [...new Set((value as Json[]).flatMap((row) => Object.keys(row)))]
  return names.length > 0 && names.length <= 8 ? names : null
}

/** Flat objects of the same kind, a row for each. */
function Rows({ of, columns }: { of: Json[]; columns: string[] }) {
  return (
    <Box style={{ overflowX: 'auto' }} tabIndex={0} role="group" aria-label="Table">
      <Table verticalSpacing={4}>
        <Table.Thead>
          <Table.Tr>
            {columns.map((name) => (
              <Table.Th key={name} scope="col" fw={500} ta={of.every((row) => typeof row[name] === 'number') ? 'end' : undefined}>{fieldName(name)}</Table.Th>
            ))}
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {of.map((row, i) => (
            <Table.Tr key={i}>
              {columns.map((name) => (
                <Table.Td key={name} ta={typeof row[name] === 'number' ? 'end' : undefined}>{name in row ? <Value value={row[name]} depth={3} /> : null}</Table.Td>
              ))}
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Box>
  )
}

/** An object as a table of its fields. names is how wide the column of their names is. */
export function Fields({ of, depth = 0, label, names: width = 190 }: { of: Json; depth?: number; label?: string; names?: number }) {
  const names = Object.keys(of)
  if (names.length === 0) return <Text size="sm" c="dimmed">none</Text>
  if (depth > 0) {
    // Within a table's cell a value goes below its name where there is no room beside.
    return (
      <dl style={{ margin: 0, paddingInlineStart: 10, borderInlineStart: '2px solid var(--mantine-color-default-border)' }}>
        {names.map((name) => (
          <div key={name} style={{ display: 'flex', flexWrap: 'wrap', columnGap: 12, paddingBlock: 2 }}>
            <dt style={{ minWidth: 110, color: 'var(--mantine-color-dimmed)' }}>{fieldName(name)}</dt>
            <dd style={{ flex: '1 1 130px', minWidth: 0, margin: 0 }}><Value value={of[name]} depth={depth} /></dd>
          </div>
        ))}
      </dl>
    )
  }
  return (
    <Table variant="vertical" layout="auto" verticalSpacing={6} aria-label={label}>
      <Table.Tbody>
        {names.map((name) => (
          <Table.Tr key={name}>
            <Table.Th scope="row" w={width} style={{ verticalAlign: 'top', fontWeight: 500 }}>{fieldName(name)}</Table.Th>
            <Table.Td><Value value={of[name]} depth={depth} /></Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  )
}

/** A short text that is often copied, such as an id. */
export function Copyable({ value, label }: { value: string; label: string }) {
  return (
    <Group gap={4} wrap="nowrap" display="inline-flex">
      <Code style={{ overflowWrap: 'anywhere' }}>{value}</Code>
      <CopyButton value={value}>
        {({ copied, copy }) => (
          <Tooltip label={copied ? 'Copied' : `Copy ${label}`}>
            <ActionIcon variant="subtle" color="gray" size="sm" onClick={copy} aria-label={`Copy ${label}`}>
              {copied ? <IconCheck size={14} /> : <IconCopy size={14} />}
            </ActionIcon>
          </Tooltip>
        )}
      </CopyButton>
    </Group>
  )
}
