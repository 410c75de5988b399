// What a job does, when and how, in words; and as JSON for those who write code.
import { ActionIcon, Alert, Box, Code, CopyButton, Divider, Grid, Group, Paper, Stack, Text, Title, Tooltip } from '@mantine/core'
import { IconAlertTriangle, IconCheck, IconCopy } from '@tabler/icons-react'
import type { ReactNode } from 'react'
import type { Job, Template } from '../../api/types'
import { Copyable, Fields } from '../../parts/json'
import { RiskBadge } from '../../parts/status'
import { RelativeTime } from '../../parts/time'
import { scheduleInWords } from '../../parts/words'
import { NextRun } from '../jobs/next-run'
import { destroys } from '../run/again'
import { inWords } from './parameters'
import { definitionOf, rules, scheduleNotes, telling } from './sentences'

function Part({ title, span, children }: { title: string; span: number; children: ReactNode }) {
  return (
    <Grid.Col span={{ base: 12, lg: span }}>
      <Paper withBorder p="md" component="section" aria-label={title} h="100%">
        <Stack gap="xs">
          <Title order={2} size="h4">{title}</Title>
          {children}
        </Stack>
      </Paper>
    </Grid.Col>
  )
}

const Sentences = ({ of, dimmed }: { of: string[]; dimmed?: boolean }) =>
  of.map((sentence) => (
    <Text key={sentence} size="sm" c={dimmed ? 'dimmed' : undefined} style={{ overflowWrap: 'anywhere' }}>
      {sentence}
    </Text>
  ))

export function Definition({ job, template }: { job: Job; template: Template | undefined }) {
  return (
    <Grid>
      <Part title="What it does" span={4}>
        <Group gap="xs">
          <Text fw={600} size="sm">{template?.name ?? job.template_type}</Text>
          {template && <RiskBadge risk={template.risk_level} />}
        </Group>
        {template && <Text size="sm" c="dimmed">{template.description}</Text>}
        {template?.destructive &&
          (destroys(template, job.parameters) ? (
            <Alert color="red" p="xs" icon={<IconAlertTriangle aria-hidden />} styles={{ message: { color: 'var(--mantine-color-text)' } }}>
              It really deletes.
            </Alert>
          ) : (
            <Text size="sm">Dry runs only: it counts what it would delete, and deletes nothing.</Text>
          ))}
        <Fields of={inWords(job.parameters, template)} label="Parameters" names={140} />
      </Part>
      <Part title="When" span={3}>
        <Text size="sm" fw={600}>{scheduleInWords(job.schedule)}</Text>
        <Sentences of={scheduleNotes(job)} dimmed />
        <Text size="sm">Next run: <NextRun job={job} /></Text>
        <Text size="sm">Last run: <RelativeTime at={job.last_run_at} none="never yet" /></Text>
      </Part>
      <Part title="How" span={5}>
        <Sentences of={rules(job)} />
        <Sentences of={telling(job)} />
        <Divider />
        <Box>
          <Text size="sm" c="dimmed">
            Made by {job.created_by || 'an unknown user'} <RelativeTime at={job.created_at} />; changed <RelativeTime at={job.updated_at} />, version {job.version}.
          </Text>
          <Copyable value={job.id} label="the job's id" />
        </Box>
      </Part>
    </Grid>
  )
}

/** The definition as the API takes it. */
export function Raw({ job }: { job: Job }) {
  const text = JSON.stringify(definitionOf(job), null, 2)
  return (
    <Stack gap="xs">
      <Group justify="space-between">
        <Text size="sm" c="dimmed">
          For developers: the body of POST /api/admin/scheduler-jobs that makes such a job. Its id is <Code>{job.id}</Code>.
        </Text>
        <CopyButton value={text}>
          {({ copied, copy }) => (
            <Tooltip label={copied ? 'Copied' : 'Copy the JSON'}>
              <ActionIcon variant="default" size="lg" onClick={copy} aria-label="Copy the JSON">
                {copied ? <IconCheck size={16} /> : <IconCopy size={16} />}
              </ActionIcon>
            </Tooltip>
          )}
        </CopyButton>
      </Group>
      <Code block tabIndex={0} role="region" aria-label="The definition as JSON" style={{ overflow: 'auto', maxHeight: '70vh' }}>
        {text}
      </Code>
    </Stack>
  )
}
