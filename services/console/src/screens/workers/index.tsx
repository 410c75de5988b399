import { Alert, Anchor, Badge, Button, Card, Code, Group, Pagination, Paper, Progress, SimpleGrid, Stack, Table, Text, TextInput, Title, Tooltip, UnstyledButton, VisuallyHidden } from '@mantine/core'
import { useMediaQuery } from '@mantine/hooks'
import { notifications } from '@mantine/notifications'
import { IconAlertTriangle, IconCheck, IconChevronDown, IconChevronRight, IconPlayerPause, IconPlayerStop, IconSearch } from '@tabler/icons-react'
import { useQuery } from '@tanstack/react-query'
import { Fragment, useState } from 'react'
import { Link } from 'react-router'
import { registriesQuery, templatesQuery, useDrainWorker, workersQuery } from '../../api/queries'
import type { Registry, Worker } from '../../api/types'
import { useAddress } from '../../parts/address'
import { Confirm } from '../../parts/confirm'
import { Copyable } from '../../parts/json'
import { EmptyState, Loaded, Page } from '../../parts/page'
import { LookBadge } from '../../parts/status'
import { duration, RelativeTime } from '../../parts/time'
import { useLive } from '../../shell/live'
import { useMay } from '../../shell/session'
import { beatIsLate, fleetOf, matching } from './fleet'

const perPage = 25

/** The processes of the fleet: workers and registries. */
export function Component() {
  const { every } = useLive()
  const workers = useQuery({ ...workersQuery(), refetchInterval: every(2000) })
  const registries = useQuery({ ...registriesQuery(), refetchInterval: every(5000) })
  const [asked, setAsked] = useState<Worker | null>(null)

  return (
    <Page title="Workers">
      <Text c="dimmed" size="sm" maw={720}>
        Workers are the executor processes that do the jobs' work. Each carries some templates and runs as many jobs at a time as it has slots.
      </Text>
      <Loaded query={workers}>{(all) => (all.length === 0 ? <NoWorker /> : <Fleet workers={all} ask={setAsked} />)}</Loaded>
      <section aria-labelledby="registries">
        <Title order={2} size="h4" mb="sm" id="registries">
          Registries
        </Title>
        <Loaded query={registries}>{(all) => <Registries all={all} />}</Loaded>
      </section>
      {asked && <DrainQuestion worker={asked} onClose={() => setAsked(null)} />}
    </Page>
  )
}

const NoWorker = () => (
  <Paper withBorder p="md">
    <EmptyState title="No worker is connected">
      <Stack gap="xs">
        <Text size="sm">Due runs wait, and start as soon as a worker that carries their template connects. Nothing is lost meanwhile.</Text>
        <Text size="sm">
          Start one on any machine that reaches this registry: <Code>executor --registries HOST:9090 --token-file FILE</Code>, with the executors' token in the file. If one should be running,
          look at its log: it says why it cannot connect, such as a wrong token or address.
        </Text>
      </Stack>
    </EmptyState>
  </Paper>
)

function Fleet({ workers, ask }: { workers: Worker[]; ask: (worker: Worker) => void }) {
  const { params, change } = useAddress()
  const search = params.get('search') ?? ''
  const fleet = fleetOf(workers)
  const found = matching(workers, search)
  const pages = Math.max(1, Math.ceil(found.length / perPage))
  const page = Math.min(Math.max(1, Number(params.get('page')) || 1), pages)
  const shown = found.slice((page - 1) * perPage, page * perPage)

  return (
    <Stack>
      <SimpleGrid cols={{ base: 2, sm: 4 }} spacing="md">
        <Figure name="Connected" value={String(fleet.workers)} />
        <Figure name="Runs now" value={String(fleet.running)} />
        <Figure name="Slots that take work" value={String(fleet.slots)} />
        <Figure name="Draining or stopping" value={String(fleet.leaving)} />
      </SimpleGrid>
      {fleet.slots === 0 && (
        <Alert color="orange" icon={<IconAlertTriangle aria-hidden />} title="No worker takes work" styles={{ title: { color: 'var(--mantine-color-text)' } }}>
          All of them drain or stop: due runs wait until one is resumed or another connects.
        </Alert>
      )}
      {workers.length > 5 && (
        <TextInput
          label="Search"
          placeholder="Host, label, template, version"
          leftSection={<IconSearch size={16} aria-hidden />}
          maw={420}
          type="search"
          value={search}
          onChange={(e) => change('search', e.currentTarget.value)}
        />
      )}
      {found.length === 0 ? (
        <EmptyState title="No worker matches" action={<Button variant="default" onClick={() => change('search', '')}>Show all {workers.length}</Button>}>
          None has all of “{search}” in its host, labels, templates or version.
        </EmptyState>
      ) : (
        <Workers workers={shown} ask={ask} />
      )}
      {pages > 1 && (
        <Group justify="space-between">
          <Text size="sm" c="dimmed">
            {found.length} workers
          </Text>
          <Pagination total={pages} value={page} onChange={(p) => change('page', p === 1 ? '' : String(p))} getControlProps={(c) => ({ 'aria-label': `${c} page` })} getItemProps={(p) => ({ 'aria-label': `Page ${p}` })} />
        </Group>
      )}
    </Stack>
  )
}

const Figure = ({ name, value }: { name: string; value: string }) => (
  <Paper withBorder p="sm">
    <Text size="sm" c="dimmed">
      {name}
    </Text>
    <Text size="xl" fw={700}>
      {value}
    </Text>
  </Paper>
)

function WorkerStatus({ worker }: { worker: Worker }) {
  if (worker.status === 'stopping') return <LookBadge look={{ word: 'Stopping', color: 'gray', icon: IconPlayerStop }} />
  if (worker.draining) return <LookBadge look={{ word: worker.running > 0 ? 'Draining' : 'Drained', color: 'yellow', icon: IconPlayerPause }} />
  return <LookBadge look={{ word: 'Ready', color: 'green', icon: IconCheck }} />
}

const Slots = ({ worker }: { worker: Worker }) => (
  <Stack gap={4} miw={110}>
    <Text size="sm">
      {worker.running} of {worker.slots} in use
    </Text>
    <Progress value={worker.slots > 0 ? (100 * worker.running) / worker.slots : 0} aria-label={`Slots of ${worker.host} in use`} color={worker.running >= worker.slots ? 'orange' : undefined} />
  </Stack>
)

function Beat({ worker }: { worker: Worker }) {
  if (beatIsLate(worker.last_beat_age_seconds)) {
    return (
      <Tooltip label="Workers report about every second. One that stays silent is given up, and its work is done elsewhere as far as that is safe." multiline maw={300}>
        <Group gap={4} wrap="nowrap" tabIndex={0} display="inline-flex">
          <IconAlertTriangle size={16} color="var(--mantine-color-error)" aria-hidden />
          <Text span size="sm" c="var(--mantine-color-error)" fw={600}>
            silent for {duration(worker.last_beat_age_seconds)}
          </Text>
        </Group>
      </Tooltip>
    )
  }
  return <RelativeTime at={worker.last_beat_at} size="sm" />
}

function DrainButton({ worker, ask }: { worker: Worker; ask: (worker: Worker) => void }) {
  const may = useMay('super_admin')
  if (!may || worker.status === 'stopping') return null
  return (
    <Button size="xs" variant="default" onClick={() => ask(worker)} aria-label={`${worker.draining ? 'Resume' : 'Drain'} ${worker.host}`}>
      {worker.draining ? 'Resume' : 'Drain'}
    </Button>
  )
}

function Workers({ workers, ask }: { workers: Worker[]; ask: (worker: Worker) => void }) {
  const narrow = useMediaQuery('(max-width: 62em)', false, { getInitialValueInEffect: false })
  const [open, setOpen] = useState<ReadonlySet<string>>(new Set())
  const toggle = (id: string) =>
    setOpen((now) => {
      const next = new Set(now)
      if (!next.delete(id)) next.add(id)
      return next
    })
  const More = ({ worker }: { worker: Worker }) => (
    <UnstyledButton onClick={() => toggle(worker.id)} aria-expanded={open.has(worker.id)} aria-label={`Details of ${worker.host}`} mih={24}>
      <Group gap={4} wrap="nowrap">
        {open.has(worker.id) ? <IconChevronDown size={16} aria-hidden /> : <IconChevronRight size={16} aria-hidden />}
        <Text span fw={600} style={{ overflowWrap: 'anywhere' }}>
          {worker.host}
        </Text>
      </Group>
    </UnstyledButton>
  )

  if (narrow) {
    return (
      <Stack gap="sm">
        {workers.map((w) => (
          <Card key={w.id} withBorder padding="sm">
            <Stack gap="xs">
              <Group justify="space-between" wrap="nowrap">
                {More({ worker: w })}
                <WorkerStatus worker={w} />
              </Group>
              <Slots worker={w} />
              <Group justify="space-between">
                <Text size="sm" component="div">
                  Last heard <Beat worker={w} />
                </Text>
                <DrainButton worker={w} ask={ask} />
              </Group>
              {open.has(w.id) && <WorkerDetails worker={w} all />}
            </Stack>
          </Card>
        ))}
      </Stack>
    )
  }
  return (
    <Table verticalSpacing="sm" withTableBorder aria-label="Workers">
      <Table.Thead>
        <Table.Tr>
          <Table.Th>Host</Table.Th>
          <Table.Th>Status</Table.Th>
          <Table.Th>Slots</Table.Th>
          <Table.Th>Templates</Table.Th>
          <Table.Th>Version</Table.Th>
          <Table.Th>Connected</Table.Th>
          <Table.Th>Last heard</Table.Th>
          <Table.Th>
            <VisuallyHidden>Actions</VisuallyHidden>
          </Table.Th>
        </Table.Tr>
      </Table.Thead>
      <Table.Tbody>
        {workers.map((w) => (
          <Fragment key={w.id}>
            <Table.Tr>
              <Table.Td>{More({ worker: w })}</Table.Td>
              <Table.Td>
                <WorkerStatus worker={w} />
              </Table.Td>
              <Table.Td>
                <Slots worker={w} />
              </Table.Td>
              <Table.Td>{w.templates.length}</Table.Td>
              <Table.Td>{w.version || '–'}</Table.Td>
              <Table.Td>
                <RelativeTime at={w.connected_at} size="sm" />
              </Table.Td>
              <Table.Td>
                <Beat worker={w} />
              </Table.Td>
              <Table.Td ta="right">
                <DrainButton worker={w} ask={ask} />
              </Table.Td>
            </Table.Tr>
            {open.has(w.id) && (
              <Table.Tr>
                <Table.Td colSpan={8}>
                  <WorkerDetails worker={w} />
                </Table.Td>
              </Table.Tr>
            )}
          </Fragment>
        ))}
      </Table.Tbody>
    </Table>
  )
}

/** What the row has no room for; on a phone that is more. */
function WorkerDetails({ worker: w, all }: { worker: Worker; all?: boolean }) {
  const templates = useQuery(templatesQuery())
  const nameOf = (type: string) => templates.data?.find((t) => t.id === type)?.name ?? type
  const labels = Object.entries(w.labels)
  return (
    <Stack gap="xs" py={4}>
      <Group gap="xs">
        <Text size="sm" c="dimmed" w={90}>
          Id
        </Text>
        <Copyable value={w.id} label={`the id of ${w.host}`} />
      </Group>
      <Group gap="xs" align="flex-start" wrap="nowrap">
        <Text size="sm" c="dimmed" w={90} style={{ flexShrink: 0 }}>
          Labels
        </Text>
        {labels.length === 0 ? (
          <Text size="sm" c="dimmed">
            none
          </Text>
        ) : (
          <Group gap={6}>
            {labels.map(([key, value]) => (
              <Badge key={key} variant="default" tt="none" radius="sm">
                {key}={value}
              </Badge>
            ))}
          </Group>
        )}
      </Group>
      <Group gap="xs" align="flex-start" wrap="nowrap">
        <Text size="sm" c="dimmed" w={90} style={{ flexShrink: 0 }}>
          Templates
        </Text>
        <Group gap="xs">
          {w.templates.map((type) => (
            <Anchor key={type} component={Link} to={`/templates?type=${encodeURIComponent(type)}`} size="sm" underline="always">
              {nameOf(type)}
            </Anchor>
          ))}
        </Group>
      </Group>
      {all && (
        <Group gap="xs">
          <Text size="sm" c="dimmed" w={90}>
            Connected
          </Text>
          <Text size="sm" component="div">
            <RelativeTime at={w.connected_at} size="sm" />, version {w.version || 'unknown'}
          </Text>
        </Group>
      )}
    </Stack>
  )
}

function DrainQuestion({ worker, onClose }: { worker: Worker; onClose: () => void }) {
  const drain = useDrainWorker()
  if (worker.draining) {
    return (
      <Confirm
        title={`Resume ${worker.host}?`}
        confirm={`Resume ${worker.host}`}
        act={async () => {
          await drain.mutateAsync({ id: worker.id, drain: false })
          notifications.show({ message: `${worker.host} takes work again.` })
        }}
        onClose={onClose}
      >
        <Text size="sm">It gets work again at once, up to its {worker.slots} slots.</Text>
      </Confirm>
    )
  }
  return (
    <Confirm
      title={`Drain ${worker.host}?`}
      confirm={`Drain ${worker.host}`}
      act={async () => {
        await drain.mutateAsync({ id: worker.id, drain: true })
        notifications.show({ message: `${worker.host} gets no more work.` })
      }}
      onClose={onClose}
    >
      <Text size="sm">
        It gets no more work, for instance before its machine is maintained. {worker.running > 0 ? `The ${worker.running === 1 ? 'run' : `${worker.running} runs`} on it may finish; ` : ''}
        other workers take what comes next. This lasts until you resume it or it ends.
      </Text>
    </Confirm>
  )
}

function Registries({ all }: { all: Registry[] }) {
  if (all.length === 0) {
    return (
      <Text size="sm" c="dimmed" maw={720}>
        This registry has its store to itself. Registries that share a MongoDB store are listed here.
      </Text>
    )
  }
  return (
    <Table.ScrollContainer minWidth={460} scrollAreaProps={{ viewportProps: { tabIndex: 0 } }}>
      <Table verticalSpacing="sm" withTableBorder aria-label="Registries">
        <Table.Thead>
          <Table.Tr>
            <Table.Th>Name</Table.Th>
            <Table.Th>Version</Table.Th>
            <Table.Th>Started</Table.Th>
            <Table.Th>Last heard</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {all.map((r) => (
            <Table.Tr key={r.id}>
              <Table.Td>
                <Text size="sm" fw={600}>
                  {r.name}
                </Text>
                <Copyable value={r.id} label={`the id of ${r.name}`} />
              </Table.Td>
              <Table.Td>{r.version || '–'}</Table.Td>
              <Table.Td>
                <RelativeTime at={r.connected_at} size="sm" />
              </Table.Td>
              <Table.Td>
                <RelativeTime at={r.last_beat_at} size="sm" />
              </Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  )
}
