// What a registry without jobs shows: the way to the first one.
import { Button, Code, Group, Paper, Stack, Text, Title } from '@mantine/core'
import { notifications as toast } from '@mantine/notifications'
import { IconPlus } from '@tabler/icons-react'
import { useState } from 'react'
import { Link, useNavigate } from 'react-router'
import { useCreateJob } from '../../api/queries'
import type { JobInput } from '../../api/types'
import { ErrorNotice } from '../../parts/page'
import { useMay } from '../../shell/session'

/** A job that works everywhere and touches nothing. */
export const example: JobInput = {
  name: 'first_example',
  description: 'Shows that jobs run: logs a message each minute and touches no data',
  template_type: 'test_scheduler',
  parameters: { message: 'Hello from the first job', duration_seconds: 5 },
  schedule: { type: 'interval', interval_seconds: 60 },
}

export function Welcome() {
  const superAdmin = useMay('super_admin')
  const create = useCreateJob()
  const navigate = useNavigate()
  const [key] = useState(() => `first-example-${Math.random().toString(36).slice(2)}`)

  async function make() {
    try {
      const job = await create.mutateAsync({ job: example, key })
      toast.show({ message: `${job.name} is made. It first runs within a minute.` })
      await navigate(`/jobs/${job.id}`)
    } catch {
      // shown beside the button
    }
  }
  return (
    <Paper component="section" aria-label="Welcome" withBorder p="xl">
      <Stack gap="md" align="flex-start" maw={720}>
        <Title order={2} size="h3">
          Welcome. There are no jobs yet.
        </Title>
        <Text>
          A job is a template, such as <b>database clean-up</b> or <b>e-mail</b>, with its parameters and a schedule. Almanac runs it when it is due, tries it again when it fails, and shows here how it
          went.
        </Text>
        {superAdmin ? (
          <>
            <Group>
              <Button component={Link} to="/jobs/new" leftSection={<IconPlus size={16} aria-hidden />}>
                Make the first job
              </Button>
              <Button variant="default" loading={create.isPending} onClick={() => void make()}>
                Make an example
              </Button>
            </Group>
            <Text size="sm" c="dimmed">
              The example is <Code>{example.name}</Code>: each minute it logs a message, takes five seconds and touches no data. Delete it whenever you like.
            </Text>
            {create.error && <ErrorNotice error={create.error} title="The example was not made" />}
          </>
        ) : (
          <Text size="sm">
            Making jobs takes the role super admin: ask somebody who has it. What you can do meanwhile is look at the <Link to="/templates">templates</Link>.
          </Text>
        )}
      </Stack>
    </Paper>
  )
}
