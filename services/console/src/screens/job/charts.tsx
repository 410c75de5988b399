// The charts of a job. Each end has a colour and a shape, and each chart a table that
// says the same.
import { Anchor, Box, Button, Group, Paper, Table, Text, useComputedColorScheme } from '@mantine/core'
import { useDisclosure } from '@mantine/hooks'
import { type ReactNode, useId } from 'react'
import { Link, useNavigate } from 'react-router'
import { Bar, BarChart, CartesianGrid, ResponsiveContainer, Tooltip, XAxis, YAxis } from 'recharts'
import { StatusBadge, statusLooks } from '../../parts/status'
import { absolute, duration, shortTime } from '../../parts/time'
import { type Day, type Duration, type End, countsInWords, ends } from './figures'

// At a contrast of 3 or more with what they are drawn on.
const colours: Record<'light' | 'dark', Record<End, string>> = {
  light: { success: '#2b8a3e', failed: '#c92a2a', timed_out: '#d9480f', unknown: '#862e9c', cancelled: '#868e96', skipped: '#868e96' },
  dark: { success: '#51cf66', failed: '#ff6b6b', timed_out: '#ff922b', unknown: '#cc5de8', cancelled: '#adb5bd', skipped: '#adb5bd' },
}
const useColours = () => colours[useComputedColorScheme('light')]

const endOf = (status: string): End => ends.find((end) => end === status) ?? 'unknown'

/** The sign of an end, 10 wide around (x, y). */
function Sign({ end, x, y, colour }: { end: End; x: number; y: number; colour: string }) {
  switch (end) {
    case 'success':
      return <circle cx={x} cy={y} r={4} fill={colour} />
    case 'failed':
      return <path d={`M${x} ${y - 5}l5 9h-10z`} fill={colour} />
    case 'timed_out':
      return <rect x={x - 4} y={y - 4} width={8} height={8} fill={colour} />
    case 'unknown':
      return <path d={`M${x} ${y - 5}l5 5l-5 5l-5 -5z`} fill={colour} />
    case 'cancelled':
      return <circle cx={x} cy={y} r={3.5} fill="none" stroke={colour} strokeWidth={2} />
    case 'skipped':
      return <path d={`M${x - 4} ${y - 4}l8 8M${x + 4} ${y - 4}l-8 8`} stroke={colour} strokeWidth={2} />
  }
}

function Legend({ of, swatch }: { of: End[]; swatch?: (end: End) => string }) {
  const colour = useColours()
  return (
    <Group gap="md" component="ul" p={0} m={0} style={{ listStyle: 'none' }} aria-label="What the signs mean">
      {of.map((end) => (
        <Group key={end} gap={6} component="li">
          <svg width={14} height={14} aria-hidden>
            {swatch ? <rect width={14} height={14} rx={2} fill={swatch(end)} stroke={colour[end]} /> : <Sign end={end} x={7} y={7} colour={colour[end]} />}
          </svg>
          <Text size="sm">{statusLooks[end].word}</Text>
        </Group>
      ))}
    </Group>
  )
}

/** A drawing, with its content as a table for whoever cannot or would rather not see it. */
function Chart({ label, legend, swatch, table, children }: { label: string; legend: End[]; swatch?: (end: End) => string; table: ReactNode; children: ReactNode }) {
  const [asTable, { toggle }] = useDisclosure(false)
  const id = useId()
  return (
    <Paper withBorder p="md">
      <Group justify="space-between" mb="sm">
        <Legend of={legend} swatch={swatch} />
        <Button size="compact-sm" variant="default" onClick={toggle} aria-expanded={asTable} aria-controls={id}>
          {asTable ? 'Hide the table' : 'Show as a table'}
        </Button>
      </Group>
      <Box h={220} role="img" aria-label={label}>
        <ResponsiveContainer width="100%" height="100%">
          {children}
        </ResponsiveContainer>
      </Box>
      <Box id={id} mt={asTable ? 'md' : 0} mah={360} style={{ overflow: 'auto' }} {...(asTable && { tabIndex: 0, role: 'region', 'aria-label': 'The chart as a table' })}>
        {asTable && table}
      </Box>
    </Paper>
  )
}

const axis = { stroke: 'var(--mantine-color-dimmed)', tick: { fill: 'var(--mantine-color-dimmed)', fontSize: 12 }, tickLine: false } as const
const grid = <CartesianGrid vertical={false} stroke="var(--mantine-color-default-border)" />

function Bubble({ children }: { children: ReactNode }) {
  return (
    <Paper withBorder shadow="sm" px="sm" py={6}>
      {children}
    </Paper>
  )
}

type BarProps = { x?: number; y?: number; width?: number; height?: number; payload?: Duration }

export function DurationChart({ runs }: { runs: Duration[] }) {
  const colour = useColours()
  const navigate = useNavigate()
  const present = ends.filter((end) => runs.some((run) => endOf(run.status) === end))
  const longest = Math.max(...runs.map((run) => run.seconds))
  const label = `Duration of the last ${runs.length} runs, oldest first: the latest took ${duration(runs.at(-1)?.seconds)}, the longest ${duration(longest)}.`
  const bar = ({ x = 0, y = 0, width = 0, height = 0, payload }: BarProps) => {
    const end = endOf(payload?.status ?? '')
    const middle = x + width / 2
    return (
      <g style={{ cursor: 'pointer' }} onClick={() => payload && void navigate(`/runs/${payload.id}`)}>
        <rect x={middle - Math.min(width, 8) / 2} y={y} width={Math.min(width, 8)} height={Math.max(height, 1)} fill={colour[end]} fillOpacity={0.45} />
        <Sign end={end} x={middle} y={y} colour={colour[end]} />
      </g>
    )
  }
  return (
    <Chart
      label={label}
      legend={present}
      table={
        <Table aria-label="Durations" stickyHeader>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Due</Table.Th>
              <Table.Th>Status</Table.Th>
              <Table.Th>Took</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {runs.toReversed().map((run) => (
              <Table.Tr key={run.id}>
                <Table.Td><Anchor component={Link} to={`/runs/${run.id}`} size="sm">{shortTime(run.at)}</Anchor></Table.Td>
                <Table.Td><StatusBadge status={run.status} size="sm" /></Table.Td>
                <Table.Td>{duration(run.seconds)}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      }
    >
      <BarChart data={runs} margin={{ top: 10, right: 8, bottom: 0, left: 0 }} accessibilityLayer={false}>
        {grid}
        <XAxis dataKey="id" {...axis} tick={false} height={8} />
        <YAxis {...axis} width={70} axisLine={false} tickFormatter={(seconds: number) => duration(seconds)} />
        <Tooltip
          cursor={{ fill: 'var(--mantine-color-default-hover)' }}
          isAnimationActive={false}
          content={({ active, payload }) => {
            const run = payload?.[0]?.payload as Duration | undefined
            if (!active || !run) return null
            return (
              <Bubble>
                <Text size="sm">{statusLooks[run.status].word} after {duration(run.seconds)}</Text>
                <Text size="xs" c="dimmed">{absolute(run.at)}</Text>
              </Bubble>
            )
          }}
        />
        <Bar dataKey="seconds" shape={bar} isAnimationActive={false} />
      </BarChart>
    </Chart>
  )
}

const dayFormat = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', timeZone: 'UTC' })
const dayInWords = (day: string) => dayFormat.format(new Date(`${day}T00:00:00Z`))

export function DayChart({ days }: { days: Day[] }) {
  const colour = useColours()
  const patterns = useId()
  const present = ends.filter((end) => days.some((day) => day[end] > 0))
  const total = days.reduce((sum, day) => sum + ends.reduce((n, end) => n + day[end], 0), 0)
  if (total === 0) return <Text size="sm" c="dimmed">Nothing ended in the last 30 days.</Text>
  // All but the successes are hatched, each at its own angle, so that colour is not needed.
  const fill = (end: End) => (end === 'success' ? colour[end] : `url(#${patterns}${end})`)
  return (
    <Chart
      label={`Runs of each of the last ${days.length} days by how they ended, ${total.toLocaleString('en')} in all.`}
      legend={present}
      swatch={fill}
      table={
        <Table aria-label="Runs by day" stickyHeader>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Day</Table.Th>
              <Table.Th>Runs</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {days.toReversed().map((day) => (
              <Table.Tr key={day.day}>
                <Table.Td>{dayInWords(day.day)}</Table.Td>
                <Table.Td>{countsInWords(day)}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      }
    >
      <BarChart data={days} margin={{ top: 10, right: 8, bottom: 0, left: 0 }} accessibilityLayer={false}>
        <defs>
          {ends.map((end, i) => (
            <pattern key={end} id={`${patterns}${end}`} width={6} height={6} patternUnits="userSpaceOnUse" patternTransform={`rotate(${30 * i})`}>
              <rect width={6} height={6} fill={colour[end]} fillOpacity={0.35} />
              <rect width={3} height={6} fill={colour[end]} />
            </pattern>
          ))}
        </defs>
        {grid}
        <XAxis dataKey="day" {...axis} tickFormatter={dayInWords} interval="equidistantPreserveStart" minTickGap={16} />
        <YAxis {...axis} width={46} axisLine={false} allowDecimals={false} />
        <Tooltip
          cursor={{ fill: 'var(--mantine-color-default-hover)' }}
          isAnimationActive={false}
          content={({ active, payload }) => {
            const day = payload?.[0]?.payload as Day | undefined
            if (!active || !day) return null
            return (
              <Bubble>
                <Text size="sm" fw={600}>{dayInWords(day.day)}</Text>
                <Text size="sm">{countsInWords(day)}</Text>
              </Bubble>
            )
          }}
        />
        {present.map((end) => (
          <Bar key={end} dataKey={end} stackId="runs" fill={fill(end)} stroke={colour[end]} strokeWidth={end === 'success' ? 0 : 1} maxBarSize={28} isAnimationActive={false} />
        ))}
      </BarChart>
    </Chart>
  )
}
