// A run of what is in the form, before anything is saved.
import { Alert, Button, Drawer, Group, Stack, Text, Title } from '@mantine/core'
import { IconInfoCircle, IconPlayerPlay } from '@tabler/icons-react'
import { useState } from 'react'
import type { Execution, Json, Template } from '../../api/types'
import { Fields } from '../../parts/json'
import { LiveRun } from '../run/live-run'
import { asProperty } from './schema'

export type Trial = { id: string; dryRun: boolean; fingerprint: string }

/** Whether trying a job of the template can be harmless. */
export const canDryRun = (template: Template) => template.destructive || asProperty(template.parameters_schema).properties?.dryRun?.type === 'boolean'

/** How many records a finished dry run found; null when it does not say. */
export function recordsFound(run: Pick<Execution, 'status' | 'result'>): number | null {
  const found = run.result?.records_processed
  return run.status === 'success' && typeof found === 'number' ? found : null
}

// The sentence first, then the numbers.
const told = ({ message, ...rest }: Json): Json => (message === undefined ? rest : { message, ...rest })

type Props = { name: string; trial: Trial | null; opened: boolean; close: () => void; again: () => void; onEnd: (run: Execution) => void }

export function TrialDrawer({ name, trial, opened, close, again, onEnd }: Props) {
  return (
    <Drawer opened={opened} onClose={close} position="right" size="xl" title={`Trying “${name || 'the job'}” once`}>
      {trial && <Running key={trial.id} trial={trial} close={close} again={again} onEnd={onEnd} />}
    </Drawer>
  )
}

function Running({ trial, close, again, onEnd }: { trial: Trial; close: () => void; again: () => void; onEnd: (run: Execution) => void }) {
  const [run, setRun] = useState<Execution | null>(null)
  return (
    <Stack gap="md">
      <Alert variant="default" icon={<IconInfoCircle aria-hidden />} title={trial.dryRun ? 'This is a dry run' : 'This is a real run'}>
        <Text size="sm">
          {trial.dryRun
            ? 'It looks and counts with the values in the form, and changes nothing. Nobody is told of it, and the job is not saved yet.'
            : 'The template has no dry run, so it does what the values in the form say. Nobody is told of it, and the job is not saved yet.'}
        </Text>
      </Alert>
      <LiveRun
        id={trial.id}
        height={260}
        onEnd={(ended) => {
          setRun(ended)
          onEnd(ended)
        }}
      />
      {run && (
        <>
          <div>
            <Title order={2} size="h4" mb="xs">
              Result
            </Title>
            {run.result ? (
              <Fields of={told(run.result)} label="Result of the trial" />
            ) : (
              <Text size="sm" c="dimmed">
                It left no result{run.error ? `: ${run.error}` : '.'}
              </Text>
            )}
          </div>
          <Group>
            <Button onClick={close}>Back to the form</Button>
            <Button variant="default" leftSection={<IconPlayerPlay size={16} aria-hidden />} onClick={again}>
              Try it again
            </Button>
          </Group>
        </>
      )}
    </Stack>
  )
}
