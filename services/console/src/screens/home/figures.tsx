// How the day went and how things stand, in numbers.
import { Anchor, Group, Paper, SimpleGrid, Skeleton, Text, Title } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import type { ReactNode } from 'react'
import { Link } from 'react-router'
import { overviewQuery, statisticsQuery } from '../../api/queries'
import type { Overview, Statistics } from '../../api/types'
import { ErrorNotice } from '../../parts/page'
import { RelativeTime, useNow } from '../../parts/time'
import { useLive } from '../../shell/live'
import classes from './home.module.css'
import { all, bad, type Hour, hours, midnight, percent } from './today'

const count = (n: number) => n.toLocaleString('en')

export function Figures({ overview }: { overview: { data: Overview | undefined } }) {
  const { every } = useLive()
  const now = useNow()
  const today = useQuery({ ...statisticsQuery({ from: midnight(now), step_seconds: 3600 }), refetchInterval: every(5000) })
  const stand = overview.data
  return (
    <SimpleGrid cols={{ base: 1, md: 2 }} spacing="md">
      <Paper component="section" aria-label="Today" withBorder p="md">
        <Group justify="space-between" align="flex-start" mb="sm">
          <Title order={2} size="h5">
            Today
          </Title>
        </Group>
        <div style={{ minHeight: 184 }}>
          {today.data ? <Day of={today.data} /> : today.error ? <ErrorNotice error={today.error} retry={() => void today.refetch()} /> : <Skeleton height={184} role="status" aria-label="Loading: Today" />}
        </div>
      </Paper>
      <SimpleGrid cols={2} spacing="md">
        <Figure title="Running now" value={stand && count(stand.running)}>
          {stand && (stand.slots > 0 ? `${count(stand.slots_used)} of ${count(stand.slots)} slots in use` : 'No slots: no worker is connected')}
        </Figure>
        <Figure title="Backlog" value={stand && count(stand.backlog)}>
          {stand &&
            (stand.backlog > 0 && stand.backlog_since ? (
              <>
                due since <RelativeTime at={stand.backlog_since} />
              </>
            ) : (
              'Nothing that is due waits'
            ))}
        </Figure>
        <Figure title="Waiting in all" value={stand && count(stand.waiting)}>
          {stand && 'for their time, a retry or a worker'}
        </Figure>
        <Figure
          title="Jobs"
          value={
            stand && (
              <Anchor component={Link} to="/jobs" inherit c="inherit" aria-label={`${count(stand.jobs)} jobs, to the list`}>
                {count(stand.jobs)}
              </Anchor>
            )
          }
        >
          {stand && (stand.jobs === 0 ? 'none yet' : stand.enabled_jobs === stand.jobs ? 'all enabled' : `${count(stand.enabled_jobs)} enabled`)}
        </Figure>
      </SimpleGrid>
    </SimpleGrid>
  )
}

function Figure({ title, value, children }: { title: string; value: ReactNode; children: ReactNode }) {
  return (
    <Paper component="section" aria-label={title} withBorder p="md">
      <Title order={2} size="h6" c="dimmed" fw={500}>
        {title}
      </Title>
      {value === undefined ? <Skeleton height={34} width={60} /> : <div className={classes.figure}>{value}</div>}
      <Text size="xs" c="dimmed" mih={36}>
        {children}
      </Text>
    </Paper>
  )
}

function Day({ of }: { of: Statistics }) {
  const { totals } = of
  const failed = bad(totals)
  return (
    <>
      <Group gap="xl" mb="sm" align="flex-end">
        <div>
          <div className={classes.figure}>{percent(of.success_rate)}</div>
          <Text size="xs" c="dimmed">
            success rate
          </Text>
        </div>
        <div>
          <div className={classes.figure}>{count(all(totals))}</div>
          <Text size="xs" c="dimmed">
            {all(totals) === 1 ? 'run' : 'runs'} ended
          </Text>
        </div>
        <div>
          <div className={classes.figure}>{count(failed)}</div>
          <Text size="xs" c="dimmed">
            failed
          </Text>
        </div>
        {totals.skipped + totals.cancelled > 0 && (
          <div>
            <div className={classes.figure}>{count(totals.skipped + totals.cancelled)}</div>
            <Text size="xs" c="dimmed">
              skipped or cancelled
            </Text>
          </div>
        )}
      </Group>
      <Bars day={hours(of)} />
    </>
  )
}

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' })

/** An hour in words: "13:00: 4 succeeded, 1 failed". */
export function hourInWords(hour: Hour): string {
  const said = [hour.good > 0 && `${count(hour.good)} succeeded`, hour.bad > 0 && `${count(hour.bad)} failed`, hour.other > 0 && `${count(hour.other)} skipped or cancelled`].filter(Boolean)
  return `${clock.format(new Date(hour.from))}: ${said.length > 0 ? said.join(', ') : 'no runs'}`
}

/** Runs by the hour: what succeeded stands on the line, what failed hangs below it. */
function Bars({ day }: { day: Hour[] }) {
  const up = Math.max(1, ...day.map((h) => h.good + h.other))
  const down = Math.max(0, ...day.map((h) => h.bad))
  // Each side gets its share of the height, but enough to see a single failure.
  const below = down === 0 ? 2 : Math.max(14, (58 * down) / (up + down))
  const base = 62 - below
  const scale = Math.max(up / base, down / below)
  const wide = 100 / Math.max(day.length, 1)
  const said = day.filter((h) => h.good + h.bad + h.other > 0)
  return (
    <>
      <svg className={classes.bars} viewBox="0 0 100 62" preserveAspectRatio="none" role="img" aria-label={`Runs by the hour. ${said.length > 0 ? said.map(hourInWords).join('; ') : 'None yet today.'}`}>
        {day.map((hour, i) => {
          const x = i * wide + wide * 0.12
          const width = wide * 0.76
          const tall = (n: number) => (n === 0 ? 0 : Math.max(2, n / scale))
          const good = tall(hour.good)
          const other = tall(hour.other)
          return (
            <g key={hour.from}>
              <title>{hourInWords(hour)}</title>
              <rect x={i * wide} y={0} width={wide} height={62} fill="transparent" />
              <rect className={classes.good} x={x} y={base - good} width={width} height={good} />
              <rect className={classes.other} x={x} y={base - good - other} width={width} height={other} />
              <rect className={classes.bad} x={x} y={base + 1} width={width} height={tall(hour.bad)} />
            </g>
          )
        })}
        <line className={classes.line} x1={0} x2={100} y1={base + 0.5} y2={base + 0.5} vectorEffect="non-scaling-stroke" />
      </svg>
      <Group justify="space-between" gap={0} aria-hidden>
        {[0, 6, 12, 18].map((i) => (
          <Text key={i} size="xs" c="dimmed" w="25%">
            {day[i] ? clock.format(new Date(day[i].from)) : ''}
          </Text>
        ))}
      </Group>
    </>
  )
}

/** The overview, kept up to date; the home screen asks once for all its parts. */
export function useOverview() {
  const { every } = useLive()
  return useQuery({ ...overviewQuery(), refetchInterval: every(3000) })
}
