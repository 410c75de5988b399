import { ActionIcon, Anchor, Box, Button, Card, Code, CopyButton, Group, SimpleGrid, Stack, Table, Text, Title, Tooltip } from '@mantine/core'
import { useMediaQuery } from '@mantine/hooks'
import { IconArrowLeft, IconCheck, IconCopy, IconPlus } from '@tabler/icons-react'
import type { UseQueryResult } from '@tanstack/react-query'
import { type ReactNode, useMemo } from 'react'
import { Link } from 'react-router'
import type { Template } from '../../api/types'
import { Copyable, fieldName } from '../../parts/json'
import { EmptyState, Loaded, Page } from '../../parts/page'
import { RiskBadge } from '../../parts/status'
import { TemplateIcon } from '../../parts/template-icon'
import { useMay } from '../../shell/session'
import { AvailabilityBadge, DestructiveBadge } from './badges'
import { exampleOf, type Parameter, parametersOf } from './schema'
import classes from './templates.module.css'

const Back = () => (
  <Anchor component={Link} to="/templates" size="sm">
    <Group gap={4} component="span" display="inline-flex">
      <IconArrowLeft size={14} aria-hidden /> All templates
    </Group>
  </Anchor>
)

/** All about one template. */
export function Detail({ type, templates }: { type: string; templates: UseQueryResult<Template[]> }) {
  const known = templates.data?.find((t) => t.id === type)
  if (known) return <Shown template={known} />
  return (
    <Page title="Template">
      <Loaded query={templates}>
        {() => (
          <EmptyState title={`There is no template ${type}`} action={<Button component={Link} to="/templates">All templates</Button>}>
            No worker has ever announced it, or its name is mistyped.
          </EmptyState>
        )}
      </Loaded>
    </Page>
  )
}

function Shown({ template: t }: { template: Template }) {
  const may = useMay('super_admin')
  const parameters = useMemo(() => parametersOf(t.parameters_schema), [t.parameters_schema])
  const example = useMemo(() => JSON.stringify(exampleOf(t.parameters_schema), null, 2), [t.parameters_schema])
  const schema = useMemo(() => JSON.stringify(t.parameters_schema, null, 2), [t.parameters_schema])
  return (
    <Page
      title={t.name}
      heading={
        <Group gap="sm" wrap="nowrap" component="span">
          <TemplateIcon type={t.id} sign={t.icon} size={40} />
          {t.name}
        </Group>
      }
      actions={
        may && (
          <Button component={Link} to={`/jobs/new?template=${encodeURIComponent(t.id)}`} leftSection={<IconPlus size={16} aria-hidden />}>
            Use this template
          </Button>
        )
      }
    >
      <Stack gap="sm" mt="-sm">
        <Back />
        <Text maw={720}>{t.description}</Text>
        <Group gap={6}>
          <RiskBadge risk={t.risk_level} />
          {t.destructive && <DestructiveBadge />}
          <AvailabilityBadge available={t.available} />
        </Group>
        {!may && (
          <Text size="sm" c="dimmed">
            Jobs are made by super admins; your role may look, and run what destroys nothing.
          </Text>
        )}
      </Stack>

      <SimpleGrid cols={{ base: 1, sm: 2, lg: 3 }} spacing="md" component="dl" m={0}>
        <Fact name="Takes about">{t.estimated_duration || 'The template does not say'}</Fact>
        <Fact name="Load on the worker">{fieldName(t.resource_usage || 'unknown')}</Fact>
        <Fact name="At the same time">{t.max_concurrency > 0 ? `At most ${t.max_concurrency} ${t.max_concurrency === 1 ? 'run' : 'runs'} on all workers together` : 'Any number of runs'}</Fact>
        <Fact name="After an interruption">
          {t.idempotent ? 'It is safe to repeat: a run that was cut off starts again by itself' : 'It is not safe to repeat: a run that was cut off waits as unknown for a person to decide'}
        </Fact>
        <Fact name="Data">
          {t.destructive ? 'It deletes or overwrites unless it is a dry run, which is what it is until you switch dryRun off' : 'It deletes and overwrites nothing that exists'}
        </Fact>
        <Fact name="Type, for the API">
          <Copyable value={t.id} label="the type" /> <Text span size="sm" c="dimmed">version {t.version}</Text>
        </Fact>
      </SimpleGrid>

      <section aria-labelledby="parameters">
        <Title order={2} size="h4" mb="sm" id="parameters">
          Parameters
        </Title>
        {parameters.length === 0 ? <Text c="dimmed">It takes none.</Text> : <Parameters rows={parameters} />}
      </section>

      <Json title="Example" text={example} label="the example">
        What stands in angle brackets is yours to fill in; everything with a default may be left out.
      </Json>
      <details>
        <Text component="summary" size="sm" style={{ cursor: 'pointer' }}>
          JSON schema of the parameters, for programs
        </Text>
        <Code block className={classes.code} mt="sm" tabIndex={0} role="region" aria-label="JSON schema of the parameters">
          {schema}
        </Code>
      </details>
    </Page>
  )
}

const Fact = ({ name, children }: { name: string; children: ReactNode }) => (
  <Box>
    <Text component="dt" size="sm" c="dimmed">
      {name}
    </Text>
    <Text component="dd" m={0} size="sm">
      {children}
    </Text>
  </Box>
)

function Json({ title, text, label, children }: { title: string; text: string; label: string; children: ReactNode }) {
  return (
    <section aria-label={title}>
      <Group justify="space-between" mb={4}>
        <Title order={2} size="h4">
          {title}
        </Title>
        <CopyButton value={text}>
          {({ copied, copy }) => (
            <Tooltip label={copied ? 'Copied' : `Copy ${label}`}>
              <ActionIcon variant="default" onClick={copy} aria-label={`Copy ${label}`}>
                {copied ? <IconCheck size={16} /> : <IconCopy size={16} />}
              </ActionIcon>
            </Tooltip>
          )}
        </CopyButton>
      </Group>
      <Text size="sm" c="dimmed" mb="xs">
        {children}
      </Text>
      <Code block className={classes.code} tabIndex={0} role="region" aria-label={`${title}, as JSON`}>
        {text}
      </Code>
    </section>
  )
}

const Fallback = ({ row }: { row: Parameter }) => {
  if (row.fallback) return <Code style={{ overflowWrap: 'anywhere' }}>{row.fallback}</Code>
  return <Text span size="sm" c="dimmed">{row.required ? 'required' : 'none'}</Text>
}

const Rules = ({ row }: { row: Parameter }) => (
  <Text size="sm" style={{ overflowWrap: 'anywhere' }}>
    <b>{row.type}</b>
    {row.rules.length > 0 && `: ${row.rules.join('; ')}`}
  </Text>
)

function Parameters({ rows }: { rows: Parameter[] }) {
  const narrow = useMediaQuery('(max-width: 62em)', false, { getInitialValueInEffect: false })
  if (narrow) {
    return (
      <Stack gap="sm">
        {rows.map((row) => (
          <Card key={row.path} withBorder padding="sm" ml={row.depth * 12}>
            <Stack gap={4}>
              <Group gap="xs">
                <Code fw={600}>{row.name}</Code>
                {row.required && <Text span size="sm" fw={600}>required</Text>}
              </Group>
              <Rules row={row} />
              {row.fallback && (
                <Text size="sm">
                  Default <Fallback row={row} />
                </Text>
              )}
              <Text size="sm" c="dimmed" className={classes.description}>
                {row.description}
              </Text>
            </Stack>
          </Card>
        ))}
      </Stack>
    )
  }
  return (
    <Table verticalSpacing="sm" withTableBorder aria-labelledby="parameters">
      <Table.Thead>
        <Table.Tr>
          <Table.Th w="18%">Name</Table.Th>
          <Table.Th w="27%">What it takes</Table.Th>
          <Table.Th w="13%">Default</Table.Th>
          <Table.Th>Meaning</Table.Th>
        </Table.Tr>
      </Table.Thead>
      <Table.Tbody>
        {rows.map((row) => (
          <Table.Tr key={row.path} style={{ verticalAlign: 'top' }}>
            <Table.Th scope="row" pl={`calc(var(--mantine-spacing-sm) + ${row.depth * 20}px)`}>
              <Code title={row.path}>{row.name}</Code>
            </Table.Th>
            <Table.Td>
              <Rules row={row} />
            </Table.Td>
            <Table.Td>
              <Fallback row={row} />
            </Table.Td>
            <Table.Td>
              <Text size="sm" className={classes.description}>
                {row.description}
              </Text>
            </Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  )
}
