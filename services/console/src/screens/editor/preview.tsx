// The next runs of a schedule while it is typed.
import { Group, Table, Text } from '@mantine/core'
import { IconClockExclamation } from '@tabler/icons-react'
import { Fragment, memo } from 'react'
import type { Occurrence } from '../../api/types'
import { EmptyState, ErrorNotice, Waiting } from '../../parts/page'
import { myZone, RelativeTime } from '../../parts/time'
import { ApiError } from '../../api/client'

// Making a format takes longer than a hundred uses of it.
const formats = new Map<string, { clock: Intl.DateTimeFormat; date: Intl.DateTimeFormat }>()
function formatsOf(zone: string) {
  let made = formats.get(zone)
  if (!made) {
    made = {
      clock: new Intl.DateTimeFormat('en-GB', { timeZone: zone, hour: '2-digit', minute: '2-digit', second: '2-digit' }),
      date: new Intl.DateTimeFormat('en-GB', { timeZone: zone, weekday: 'short', day: 'numeric', month: 'short' }),
    }
    formats.set(zone, made)
  }
  return made
}

const time = (at: string, zone: string) => formatsOf(zone).clock.format(new Date(at)).replace(/:00$/, '')
const day = (at: string, zone: string) => formatsOf(zone).date.format(new Date(at))

/** Zones in which to show times: the job's, the reader's and UTC, each once. Zones that
 * show the same clock for all these times are the same. */
export function columns(occurrences: Occurrence[], zone: string, mine: string): { zone: string; name: string }[] {
  const wanted = [
    { zone, name: zone === mine ? 'Your time' : zone },
    { zone: mine, name: 'Your time' },
    { zone: 'UTC', name: 'UTC' },
  ]
  const seen = new Set<string>()
  return wanted.filter(({ zone: z }) => {
    const face = occurrences.map((o) => `${day(o.at, z)} ${time(o.at, z)}`).join()
    if (seen.has(face)) return false
    seen.add(face)
    return true
  })
}

/** "also: a, b and 3 more" */
export function neighboursInWords(o: Pick<Occurrence, 'neighbours' | 'neighbour_count'>): string {
  const names = o.neighbours.slice(0, 2)
  if (names.length === 0) return ''
  const more = o.neighbour_count - names.length
  return `also: ${names.join(', ')}${more > 0 ? ` and ${more} more` : ''}`
}

type Props = {
  /** By hand only. */
  manual: boolean
  /** What keeps the schedule from being read; told beside its field too. */
  incomplete: boolean
  occurrences: Occurrence[] | undefined
  error: unknown
  retry: () => unknown
  zone: string
}

export const Preview = memo(function Preview({ manual, incomplete, occurrences, error, retry, zone }: Props) {
  if (manual) {
    return (
      <Text size="sm" c="dimmed">
        None by itself: it waits until somebody starts it.
      </Text>
    )
  }
  if (incomplete || (error instanceof ApiError && error.status === 400)) {
    return (
      <Text size="sm" c="dimmed">
        They are shown as soon as the schedule is complete.
      </Text>
    )
  }
  if (error) return <ErrorNotice error={error} retry={() => void retry()} title="The next runs cannot be told" />
  if (!occurrences) return <Waiting label="Working out the next runs" />
  if (occurrences.length === 0) return <EmptyState title="No run to come">This schedule has no time in the future.</EmptyState>
  const shown = columns(occurrences, zone, myZone)
  return (
    <Table.ScrollContainer minWidth={shown.length > 2 ? 380 : 300} type="native" tabIndex={0}>
    <Table verticalSpacing={4} horizontalSpacing={6} fz="sm" aria-label="Next runs">
      <Table.Thead>
        <Table.Tr>
          {shown.map((c) => (
            <Table.Th key={c.name} scope="col" style={{ overflowWrap: 'anywhere' }}>
              {c.name}
            </Table.Th>
          ))}
          <Table.Th scope="col">In</Table.Th>
        </Table.Tr>
      </Table.Thead>
      <Table.Tbody>
        {occurrences.map((o) => {
          const first = day(o.at, shown[0]!.zone)
          const also = neighboursInWords(o)
          const remarks = o.note !== '' || also !== ''
          return (
            <Fragment key={o.at}>
              <Table.Tr style={remarks ? { borderBottom: 0 } : undefined}>
                {shown.map((c, i) => (
                  <Table.Td key={c.name} style={{ whiteSpace: 'nowrap' }}>
                    {i > 0 && day(o.at, c.zone) === first ? '' : `${day(o.at, c.zone)}, `}
                    {time(o.at, c.zone)}
                  </Table.Td>
                ))}
                <Table.Td c="dimmed" style={{ whiteSpace: 'nowrap' }}>
                  <RelativeTime at={o.at} />
                </Table.Td>
              </Table.Tr>
              {remarks && (
                <Table.Tr>
                  <Table.Td colSpan={shown.length + 1} pt={0}>
                    {o.note && (
                      <Group gap={4} wrap="nowrap" align="flex-start">
                        <IconClockExclamation size={14} aria-hidden style={{ flexShrink: 0, marginTop: 2 }} />
                        <Text size="xs" fw={600}>
                          Clocks change: {o.note}
                        </Text>
                      </Group>
                    )}
                    {also && (
                      <Text size="xs" c="dimmed" style={{ overflowWrap: 'anywhere' }}>
                        {also}
                      </Text>
                    )}
                  </Table.Td>
                </Table.Tr>
              )}
            </Fragment>
          )
        })}
      </Table.Tbody>
    </Table>
    </Table.ScrollContainer>
  )
})
