// Asks before a change of several jobs, and tells how far it is.
import { Alert, Button, Group, Modal, Progress, ScrollArea, Stack, Switch, Table, Text } from '@mantine/core'
import { useQueryClient } from '@tanstack/react-query'
import { IconAlertTriangle, IconCheck } from '@tabler/icons-react'
import { useEffect, useRef, useState } from 'react'
import { Link } from 'react-router'
import { ApiError, answer, client } from '../../api/client'
import { refresh } from '../../api/queries'
import type { Job, Template } from '../../api/types'
import { useMay, useSession } from '../../shell/session'
import { type BulkAction, bulkParameters, deleting, perform, type Step, stepsOf } from './bulk'
import { setEnabled } from './toggle'

const words: Record<BulkAction, { title: string; button: string; doing: string; did: string }> = {
  enable: { title: 'Enable', button: 'Enable', doing: 'Enabling', did: 'enabled' },
  pause: { title: 'Pause', button: 'Pause', doing: 'Pausing', did: 'paused' },
  run: { title: 'Run now', button: 'Start', doing: 'Starting', did: 'started' },
}

const count = (n: number) => (n === 1 ? '1 job' : `${n} jobs`)

/** Shown while mounted. onDone is told of the jobs that it worked for. */
export function BulkDialog({ action, jobs, templates, onClose, onDone }: { action: BulkAction; jobs: Job[]; templates: Map<string, Template>; onClose: () => void; onDone: (done: Job[]) => void }) {
  const superAdmin = useMay('super_admin')
  const perHour = useSession().manual_runs_per_hour
  const queries = useQueryClient()
  const [steps, setSteps] = useState<Step[]>(() => stepsOf(jobs))
  const [phase, setPhase] = useState<'ask' | 'doing' | 'over'>('ask')
  const [dry, setDry] = useState(true)
  const stopped = useRef(false)
  useEffect(() => {
    stopped.current = false
    return () => {
      stopped.current = true
    }
  }, [])

  const { title, button, doing, did } = words[action]
  const deletes = action === 'run' ? deleting(jobs, templates) : []
  const done = steps.filter((s) => s.done).length
  const failed = steps.filter((s) => s.error !== null)

  async function start() {
    setPhase('doing')
    stopped.current = false
    const act = (job: Job) =>
      action === 'run'
        ? answer(client.POST('/api/admin/scheduler-jobs/{id}/run', { params: { path: { id: job.id } }, body: { parameters: bulkParameters(job, deletes, dry) } }))
        : setEnabled(job, action === 'enable')
    const end = await perform(steps, act, setSteps, () => stopped.current)
    await refresh(queries)
    setPhase('over')
    onDone(end.filter((s) => s.done).map((s) => s.job))
  }

  return (
    <Modal opened onClose={onClose} title={`${title}: ${count(jobs.length)}`} size="lg" closeOnClickOutside={phase !== 'doing'}>
      <Stack>
        {phase === 'ask' && action === 'run' && perHour > 0 && (
          <Text size="sm">
            You may start {perHour} runs an hour by hand{jobs.length > perHour ? `: not all of these ${jobs.length} will start.` : '.'}
          </Text>
        )}
        {phase === 'ask' && deletes.length > 0 && (
          <Alert color="red" icon={<IconAlertTriangle aria-hidden />} title={`${deletes.length} of them really ${deletes.length === 1 ? 'deletes' : 'delete'}`} styles={{ title: { color: 'var(--mantine-color-error)' }, message: { color: 'var(--mantine-color-text)' } }}>
            <Stack gap="xs">
              <Text size="sm" style={{ overflowWrap: 'anywhere' }}>{deletes.map((job) => job.name).join(', ')}</Text>
              <Switch
                checked={dry}
                disabled={!superAdmin}
                onChange={(event) => setDry(event.currentTarget.checked)}
                label="Only dry runs of these"
                aria-label="Only dry runs of these"
                description={superAdmin ? undefined : 'Runs that really delete need the role super admin.'}
              />
            </Stack>
          </Alert>
        )}
        {phase !== 'ask' && (
          <Stack gap={4}>
            <Progress value={(100 * (done + failed.length)) / steps.length} aria-label={doing} />
            <Text size="sm" role="status">
              {phase === 'doing' ? `${doing}: ${done + failed.length} of ${steps.length}` : `${count(done)} ${did}${failed.length > 0 ? `, ${failed.length} not` : ''}${done + failed.length < steps.length ? ', the rest was left' : ''}.`}
            </Text>
          </Stack>
        )}
        <ScrollArea.Autosize mah={280} viewportProps={{ tabIndex: 0, 'aria-label': 'The jobs', role: 'region' }}>
          <Table aria-label="The jobs" verticalSpacing={6}>
            <Table.Tbody>
              {steps.map((step) => (
                <Table.Tr key={step.job.id}>
                  <Table.Td style={{ overflowWrap: 'anywhere' }}>{step.job.name}</Table.Td>
                  <Table.Td w="55%">
                    <Outcome step={step} did={dry && deletes.some((job) => job.id === step.job.id) ? 'dry run started' : did} />
                  </Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </ScrollArea.Autosize>
        <Group justify="flex-end">
          {phase === 'ask' && <Button variant="default" onClick={onClose}>Go back</Button>}
          {phase === 'doing' && <Button variant="default" onClick={() => { stopped.current = true }}>Stop here</Button>}
          {phase === 'over' && <Button variant="default" onClick={onClose}>Close</Button>}
          {phase === 'over' && done < steps.length ? (
            <Button onClick={() => void start()}>Try the rest again</Button>
          ) : phase !== 'over' ? (
            <Button onClick={() => void start()} loading={phase === 'doing'} color={action === 'run' && deletes.length > 0 && !dry ? 'red' : undefined}>
              {button} {count(jobs.length)}
            </Button>
          ) : null}
        </Group>
      </Stack>
    </Modal>
  )
}

function Outcome({ step, did }: { step: Step; did: string }) {
  if (step.done) {
    return (
      <Group gap={4} wrap="nowrap">
        <IconCheck size={14} aria-hidden />
        <Text size="sm">{did}</Text>
      </Group>
    )
  }
  if (step.error === null) return null
  const running = step.error instanceof ApiError ? step.error.info.execution_id : undefined
  return (
    <Text size="sm" c="var(--mantine-color-error)" style={{ overflowWrap: 'anywhere' }}>
      {running ? (
        <>
          a <Link to={`/runs/${running}`} style={{ color: 'inherit' }}>run of it</Link> is not over yet, and its runs must not overlap
        </>
      ) : step.error instanceof ApiError && step.error.status === 412 ? (
        'somebody changed it meanwhile: go back and select it again'
      ) : step.error instanceof Error ? (
        step.error.message
      ) : (
        String(step.error)
      )}
    </Text>
  )
}
