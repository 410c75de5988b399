// What can be done about a run, each after a question.
import { Alert, Button, Group, Modal, Radio, Stack, Table, Text, Textarea, TextInput } from '@mantine/core'
import { useDisclosure } from '@mantine/hooks'
import { notifications as toast } from '@mantine/notifications'
import { IconAlertTriangle, IconBan, IconGavel, IconRotate } from '@tabler/icons-react'
import { type FormEvent, useState } from 'react'
import { useNavigate } from 'react-router'
import { useCancelRun, useResolveRun, useRunJob } from '../../api/queries'
import type { Execution, Job, Template } from '../../api/types'
import { fieldName } from '../../parts/json'
import { ErrorNotice } from '../../parts/page'
import { useMay, useSession } from '../../shell/session'
import { destroys, overridesOf } from './again'

/** A button that asks whether a run shall be cancelled, and why; absent for those who
 * may not. done is called when the registry has agreed. */
export function CancelRun({ run, done, compact }: { run: Execution; done?: () => void; compact?: boolean }) {
  const [opened, dialog] = useDisclosure(false)
  const [reason, setReason] = useState('')
  const cancel = useCancelRun()
  const session = useSession()
  const superAdmin = useMay('super_admin')
  if (!superAdmin && run.triggered_by_user !== session.username) return null

  async function submit(event: FormEvent) {
    event.preventDefault()
    try {
      await cancel.mutateAsync({ id: run.id, reason: reason.trim() || undefined })
    } catch {
      return // shown in the dialog
    }
    dialog.close()
    toast.show({ message: run.status === 'running' ? `${run.job_name} was asked to stop.` : `The run of ${run.job_name} is cancelled.` })
    done?.()
  }
  return (
    <>
      <Button
        variant="default"
        size={compact ? 'xs' : 'sm'}
        leftSection={<IconBan size={16} aria-hidden />}
        onClick={() => {
          cancel.reset()
          dialog.open()
        }}
        disabled={run.cancel_requested}
        aria-label={compact ? `Cancel ${run.job_name}` : undefined}
      >
        {run.cancel_requested ? 'Being cancelled' : 'Cancel'}
      </Button>
      <Modal opened={opened} onClose={dialog.close} title={`Cancel this run of ${run.job_name}?`}>
        <form onSubmit={(event) => void submit(event)}>
          <Stack>
            <Text size="sm">
              {run.status === 'running' ? 'It is asked to stop. What it did so far stays done.' : 'It does not start, and is not tried again. The schedule of the job stays as it is.'}
            </Text>
            <TextInput label="Reason" description="Optional; kept with the run" maxLength={1000} value={reason} onChange={(e) => setReason(e.currentTarget.value)} data-autofocus />
            {cancel.error && <ErrorNotice error={cancel.error} title="It was not cancelled" />}
            <Group justify="flex-end">
              <Button variant="default" onClick={dialog.close}>
                Let it run
              </Button>
              <Button type="submit" color="red.9" loading={cancel.isPending}>
                Cancel the run
              </Button>
            </Group>
          </Stack>
        </form>
      </Modal>
    </>
  )
}

const short = (value: unknown) => (value === undefined ? 'not set' : typeof value === 'string' ? value : JSON.stringify(value))

type AgainProps = { run: Execution; job: Job; template: Template | undefined }

/** A button that asks whether the job shall run with the same parameters again. Only
 * for what notAgain has nothing against. */
export function RunAgain(props: AgainProps) {
  const [opened, dialog] = useDisclosure(false)
  return (
    <>
      <Button variant="default" leftSection={<IconRotate size={16} aria-hidden />} onClick={dialog.open}>
        Run again
      </Button>
      {opened && <RunAgainDialog {...props} close={dialog.close} />}
    </>
  )
}

/** The question before a run is run again, open as long as it is there; a yes leads to
 * the new run. */
export function RunAgainDialog({ run, job, template, close }: AgainProps & { close: () => void }) {
  const start = useRunJob()
  const navigate = useNavigate()
  const { overrides, added } = overridesOf(run.parameters, job.parameters)
  const different = Object.keys(overrides)
  const dangerous = destroys(template, run.parameters)

  async function submit() {
    let id: string
    try {
      id = (await start.mutateAsync({ id: job.id, parameters: different.length > 0 ? overrides : undefined })).execution_id
    } catch {
      return // shown in the dialog
    }
    close()
    toast.show({ message: `${job.name} was started.` })
    await navigate(`/runs/${id}`)
  }
  return (
      <Modal opened onClose={close} title={`Run ${job.name} again?`} size="lg">
        <Stack>
          <Text size="sm">It runs at once, with the same parameters as this run.</Text>
          {different.length > 0 && (
            <>
              <Text size="sm">The job has changed since; for this run alone, these are taken from the run before:</Text>
              <Table.ScrollContainer minWidth={360}>
                <Table aria-label="Parameters that differ">
                  <Table.Thead>
                    <Table.Tr>
                      <Table.Th scope="col">Parameter</Table.Th>
                      <Table.Th scope="col">This time</Table.Th>
                      <Table.Th scope="col">In the job</Table.Th>
                    </Table.Tr>
                  </Table.Thead>
                  <Table.Tbody>
                    {different.map((name) => (
                      <Table.Tr key={name}>
                        <Table.Th scope="row" fw={500}>
                          {fieldName(name)}
                        </Table.Th>
                        <Table.Td style={{ overflowWrap: 'anywhere' }}>{short(overrides[name])}</Table.Td>
                        <Table.Td style={{ overflowWrap: 'anywhere' }}>{short(job.parameters[name])}</Table.Td>
                      </Table.Tr>
                    ))}
                  </Table.Tbody>
                </Table>
              </Table.ScrollContainer>
            </>
          )}
          {added.length > 0 && <Text size="sm">New in the job, and so part of this run: {added.map(fieldName).join(', ')}.</Text>}
          {dangerous && (
            <Group gap="xs" wrap="nowrap" align="flex-start">
              <IconAlertTriangle size={20} color="var(--mantine-color-error)" aria-hidden style={{ flex: 'none' }} />
              <Text size="sm" fw={600}>
                This is not a dry run: what it deletes is gone.
              </Text>
            </Group>
          )}
          {start.error && <ErrorNotice error={start.error} title="It was not started" />}
          <Group justify="flex-end">
            <Button variant="default" onClick={close}>
              Not now
            </Button>
            <Button color={dangerous ? 'red.9' : undefined} loading={start.isPending} onClick={() => void submit()} data-autofocus>
              {dangerous ? 'Run again and delete' : 'Start the run'}
            </Button>
          </Group>
        </Stack>
      </Modal>
  )
}

type Ending = 'success' | 'failed' | 'cancelled'

/** That nobody knows how the run ended, what that means, and for super admins the
 * button that settles it. */
export function ResolveRun({ run, advice }: { run: Execution; advice: string | null }) {
  const [opened, dialog] = useDisclosure(false)
  const [status, setStatus] = useState<Ending | ''>('')
  const [reason, setReason] = useState('')
  const [tried, setTried] = useState(false)
  const resolve = useResolveRun()
  const superAdmin = useMay('super_admin')

  async function submit(event: FormEvent) {
    event.preventDefault()
    setTried(true)
    if (!status || !reason.trim()) return
    try {
      await resolve.mutateAsync({ id: run.id, status, reason: reason.trim() })
    } catch {
      return // shown in the dialog
    }
    dialog.close()
    toast.show({ message: `The run of ${run.job_name} is settled.` })
  }
  return (
    <Alert icon={<IconGavel aria-hidden />} color="gray" variant="outline" title="This run waits for somebody to look" styles={{ title: { color: 'var(--mantine-color-text)' }, message: { color: 'var(--mantine-color-text)' } }}>
      <Stack gap="sm" align="flex-start">
        <Text size="sm">{advice}</Text>
        {superAdmin ? (
          <Button
            size="xs"
            onClick={() => {
              resolve.reset()
              dialog.open()
            }}
          >
            Settle this run
          </Button>
        ) : (
          <Text size="sm">Ask a super admin to settle it.</Text>
        )}
      </Stack>
      <Modal opened={opened} onClose={dialog.close} title={`How did this run of ${run.job_name} end?`}>
        <form onSubmit={(event) => void submit(event)} noValidate>
          <Stack>
            <Radio.Group label="What you found" required value={status} onChange={(value) => setStatus(value as Ending)} error={tried && !status ? 'Choose what you found.' : undefined}>
              <Stack gap="xs" my="xs">
                <Radio value="success" label="Success: it did its work" />
                <Radio value="failed" label="Failed: it did not, or only in part" />
                <Radio value="cancelled" label="Cancelled: its work is not wanted any more" />
              </Stack>
            </Radio.Group>
            <Textarea
              label="Reason"
              description="What you looked at and saw; kept with the run and in the audit"
              required
              autosize
              minRows={2}
              maxLength={1000}
              value={reason}
              onChange={(e) => setReason(e.currentTarget.value)}
              error={tried && !reason.trim() ? 'Say what you found, for those who look at this later.' : undefined}
            />
            {resolve.error && <ErrorNotice error={resolve.error} title="It was not settled" />}
            <Group justify="flex-end">
              <Button variant="default" onClick={dialog.close}>
                Not now
              </Button>
              <Button type="submit" loading={resolve.isPending}>
                Settle the run
              </Button>
            </Group>
          </Stack>
        </form>
      </Modal>
    </Alert>
  )
}
