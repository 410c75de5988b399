// Asks how a job is to be run now, and starts it.
import { Alert, Anchor, Button, Group, Modal, Stack, Switch, Text, Title } from '@mantine/core'
import { notifications } from '@mantine/notifications'
import { hashKey, useQuery } from '@tanstack/react-query'
import { IconAlertTriangle, IconPlayerPlay } from '@tabler/icons-react'
import { type FormEvent, lazy, Suspense, useRef, useState } from 'react'
import { Link, useNavigate } from 'react-router'
import { ApiError, type Violation } from '../../api/client'
import { newKey } from '../../api/key'
import { templatesQuery, useRunJob } from '../../api/queries'
import type { Job, Json, Template } from '../../api/types'
import { Fields } from '../../parts/json'
import { ErrorNotice, Loaded, Waiting } from '../../parts/page'
import { absolute, relative, useNow } from '../../parts/time'
import { useMay, useSession } from '../../shell/session'
import { destroys } from '../run/again'
import { inWords } from './parameters'
import { choiceOf, dryRun, knowsDryRun, refusalOf } from './running'

// The library of forms is large, and most runs are started as they are.
const OverrideForm = lazy(() => import('./override-form').then((m) => ({ default: m.OverrideForm })))

/** Shown while mounted; leads to the run once it is started. refused is why an attempt
 * without this dialog did not work. */
export function RunDialog({ job, refused, onClose }: { job: Job; refused?: unknown; onClose: () => void }) {
  const templates = useQuery(templatesQuery())
  return (
    <Modal opened onClose={onClose} title={`Run “${job.name}” now`} size="lg">
      <Loaded query={templates}>
        {(all) => <RunForm job={job} template={all.find((t) => t.id === job.template_type)} refused={refused} onClose={onClose} />}
      </Loaded>
    </Modal>
  )
}

function RunForm({ job, template, refused, onClose }: { job: Job; template: Template | undefined; refused: unknown; onClose: () => void }) {
  const superAdmin = useMay('super_admin')
  const perHour = useSession().manual_runs_per_hour
  const navigate = useNavigate()
  const run = useRunJob()
  // Of what can destroy, admins may choose nothing but the dry run.
  const fixed = !superAdmin && !!template?.destructive
  const [parameters, setParameters] = useState<Json>(fixed ? { ...job.parameters, [dryRun]: true } : job.parameters)
  const [changing, setChanging] = useState(false)
  const [problems, setProblems] = useState<Violation[]>([])
  // What is wrong is told once somebody has tried, not while they type.
  const [tried, setTried] = useState(false)
  const attempt = useRef({ of: '', key: '' })
  const { overrides, emptied } = choiceOf(job.parameters, parameters)
  const { [dryRun]: _, ...others } = parameters
  const error = run.isIdle ? (refused ?? null) : run.error
  const deletes = destroys(template, parameters)

  const refusedFields = run.error instanceof ApiError ? run.error.violations : []
  const violations = tried ? [...problems, ...refusedFields] : []
  const change = (values: Json, wrong: Violation[]) => {
    // The switch of the dry run stands outside of the form.
    setParameters((now) => ({ ...values, ...(dryRun in now && { [dryRun]: now[dryRun] }) }))
    setProblems(wrong)
  }

  async function start(event: FormEvent) {
    event.preventDefault()
    setTried(true)
    if (problems.length > 0 || emptied.length > 0) return
    const given = Object.keys(overrides).length > 0 ? overrides : undefined
    // The same request again, after an answer that did not arrive, starts no second run.
    const of = hashKey([given])
    if (attempt.current.of !== of) attempt.current = { of, key: newKey() }
    const started = await run.mutateAsync({ id: job.id, parameters: given, key: attempt.current.key }).catch(() => null)
    if (!started) return
    notifications.show({ message: `“${job.name}” was started.`, color: 'green', autoClose: 2500 })
    await navigate(`/runs/${started.execution_id}`)
    onClose()
  }

  return (
    <form onSubmit={(event) => void start(event)} aria-label="Run now">
      <Stack>
        {template && !template.available && (
          <Alert color="yellow" icon={<IconAlertTriangle aria-hidden />} styles={{ message: { color: 'var(--mantine-color-text)' } }}>
            No connected executor has the template {template.name} at the moment: the run waits until one does.
          </Alert>
        )}
        {template && knowsDryRun(template) && (
          <Switch
            checked={parameters[dryRun] === true}
            onChange={(event) => setParameters({ ...parameters, [dryRun]: event.currentTarget.checked })}
            disabled={fixed}
            label="Dry run"
            aria-label="Dry run"
            description={
              fixed
                ? 'A run that really deletes needs the role super admin; a dry run shows what it would do.'
                : template.destructive
                  ? 'Finds and counts what a real run would delete, and deletes nothing.'
                  : 'Says what a real run would do, and does nothing.'
            }
          />
        )}
        {deletes && (
          <Alert color="red" icon={<IconAlertTriangle aria-hidden />} title="This run really deletes" styles={{ message: { color: 'var(--mantine-color-text)' }, title: { color: 'var(--mantine-color-error)' } }}>
            What it deletes cannot be brought back from here. Make a dry run first if you are not sure.
          </Alert>
        )}
        <Stack gap={6}>
          <Title order={3} size="h5">Parameters of this run</Title>
          {changing && template ? (
            <Suspense fallback={<Waiting label="Loading the form" />}>
              <OverrideForm job={job} template={template} violations={violations} onChange={change} />
            </Suspense>
          ) : (
            <Fields of={inWords(others, template)} label="Parameters of this run" />
          )}
          {!fixed && !changing && template && Object.keys(job.parameters).length > 0 && (
            <Button variant="subtle" size="compact-sm" onClick={() => setChanging(true)} style={{ alignSelf: 'flex-start' }}>
              Change them for this run
            </Button>
          )}
          {fixed && (
            <Text size="sm" c="dimmed">
              This template can destroy data: changing its parameters for a run needs the role super admin.
            </Text>
          )}
        </Stack>
        {tried && emptied.length > 0 && (
          <Text size="sm" c="var(--mantine-color-error)" role="alert">
            A run cannot leave out what its job has: {emptied.join(', ')}. Give a value, or edit the job.
          </Text>
        )}
        {error !== null && <Refused key={run.submittedAt} error={error} />}
        <Group justify="space-between">
          <Text size="xs" c="dimmed">
            {perHour > 0 ? `You may start ${perHour} runs an hour by hand.` : ''}
          </Text>
          <Group>
            <Button variant="default" onClick={onClose}>Cancel</Button>
            <Button type="submit" color={deletes ? 'red' : undefined} loading={run.isPending} leftSection={<IconPlayerPlay size={16} aria-hidden />} data-autofocus>
              Start the run
            </Button>
          </Group>
        </Group>
      </Stack>
    </form>
  )
}

/** Why a run was not started, and what can be done about it. */
export function Refused({ error }: { error: unknown }) {
  // The wait counts from when the refusal came, not from each drawing of it.
  const [at] = useState(() => new Date())
  const now = useNow()
  const refusal = refusalOf(error, at)
  if (!refusal) return <ErrorNotice error={error} title="The run was not started" />
  return (
    <Alert color="red" icon={<IconAlertTriangle aria-hidden />} title={refusal.title} role="alert" styles={{ message: { color: 'var(--mantine-color-text)' }, title: { color: 'var(--mantine-color-error)' } }}>
      {refusal.text}
      {refusal.execution && (
        <>
          {' '}
          <Anchor component={Link} to={`/runs/${refusal.execution}`} size="sm" underline="always">
            Show that run
          </Anchor>
        </>
      )}
      {refusal.at && ` There is room again ${relative(refusal.at, now)} (${absolute(refusal.at)}).`}
    </Alert>
  )
}
