// The one page on which a job is made and changed.
import { Alert, Anchor, Box, Button, Group, Paper, Stack, Text, Textarea, TextInput, Title } from '@mantine/core'
import { useDebouncedValue } from '@mantine/hooks'
import { modals } from '@mantine/modals'
import { notifications } from '@mantine/notifications'
import { IconAlertTriangle, IconPlayerPlay } from '@tabler/icons-react'
import { useQuery, useQueryClient } from '@tanstack/react-query'
import { type FormEvent, useCallback, useEffect, useMemo, useRef, useState } from 'react'
import { Link, useBlocker, useNavigate } from 'react-router'
import { ApiError, type Violation } from '../../api/client'
import { jobQuery, previewQuery, useCreateJob, useTryJob, useUpdateJob } from '../../api/queries'
import type { Job, JobInput, Json, Template } from '../../api/types'
import { ErrorNotice, Page } from '../../parts/page'
import { RiskBadge } from '../../parts/status'
import { TemplateIcon } from '../../parts/template-icon'
import { absolute, myZone, relative } from '../../parts/time'
import { scheduleInWords } from '../../parts/words'
import { inWords } from './condition'
import { ConfirmDeletion, Conflict, Leaving } from './dialogs'
import { changes, type ConditionDraft, deletes, deletesAnew, type Draft, fingerprint, jobOf, type Options, optionsInWords } from './draft'
import classes from './editor.module.css'
import { Folded } from './folded'
import { OptionsForm, optionFields } from './options-form'
import { ParameterForm, steps } from './parameter-form'
import { Preview } from './preview'
import { type ScheduleDraft, scheduleOf, simpleInWords } from './schedule'
import { ScheduleForm } from './schedule-form'
import { arrangement, asProperty } from './schema'
import { canDryRun, recordsFound, type Trial, TrialDrawer } from './trial'

type Props = {
  template: Template
  initial: Draft
  /** The job that is edited; null for a new one. */
  job: Job | null
  /** Said above the form, such as what a clone leaves out. */
  notice?: string
  /** Has the job read and the form begun again. */
  reload: () => void
}

// A key of a request, unique without the help of secure contexts: a console may be
// served by plain HTTP inside a network.
function newKey(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** Says when a saved job runs first. */
export function firstRun(job: Pick<Job, 'next_run_at' | 'enabled'>, now: number): string {
  if (!job.enabled) return 'It is switched off: it runs only by hand until you switch it on.'
  if (!job.next_run_at) return 'It runs only when somebody starts it.'
  return `Its next run is ${absolute(job.next_run_at)} (${relative(job.next_run_at, now)}).`
}

/** Whether a violation is shown beside a field of this page. */
export function hasPlace(violation: Violation, parameters: string[]): boolean {
  const [first, second] = steps(violation.field.replace(/#.*/, ''))
  if (first === 'parameters') return second !== undefined && parameters.includes(second)
  return ['name', 'description', 'schedule', ...optionFields].includes(first ?? '')
}

// Violations that a change makes out of date: the registry's word on a value that is
// no longer there.
function outdated(violation: Violation, before: Draft, after: Draft): boolean {
  const [first, second] = steps(violation.field.replace(/#.*/, ''))
  if (first === 'name' || first === 'description') return before[first] !== after[first]
  if (first === 'schedule') return before.schedule !== after.schedule
  if (first === 'parameters') {
    if (second === undefined) return before.parameters !== after.parameters || before.conditions !== after.conditions
    return before.parameters[second] !== after.parameters[second] || before.conditions[second] !== after.conditions[second]
  }
  return before.options !== after.options
}

export function EditorForm({ template, initial, job: edited, notice, reload }: Props) {
  const navigate = useNavigate()
  const queries = useQueryClient()
  // Together, because what the registry refused goes with the values that it saw.
  const [{ draft, refused }, setTyped] = useState<{ draft: Draft; refused: Violation[] }>({ draft: initial, refused: [] })
  // Complaints show after the first attempt only, then follow what is typed.
  const [attempts, setAttempts] = useState(0)
  const [failure, setFailure] = useState<{ title: string; error: unknown } | null>(null)
  const [trial, setTrial] = useState<Trial | null>(null)
  const [watching, setWatching] = useState(false)
  const [counted, setCounted] = useState<{ fingerprint: string; records: number | null } | null>(null)
  const [asking, setAsking] = useState<'deletion' | 'conflict' | null>(null)
  const form = useRef<HTMLFormElement>(null)
  const done = useRef(false)
  const sent = useRef<{ body: string; key: string } | null>(null)

  const create = useCreateJob()
  const update = useUpdateJob()
  const tryJob = useTryJob()

  const schema = asProperty(template.parameters_schema)
  const before = useMemo(() => (edited ? jobOf(initial, template, myZone).job : null), [edited, initial, template])
  const { job, problems } = useMemo(() => jobOf(draft, template, myZone), [draft, template])
  const dirty = useMemo(() => JSON.stringify(draft) !== JSON.stringify(initial), [draft, initial])

  // The parts of the form are drawn again only when what they show has changed, so
  // what changes them stays the same.
  const change = useCallback((part: Partial<Draft> | ((draft: Draft) => Partial<Draft>)) => {
    setTyped((was) => {
      const next = { ...was.draft, ...(typeof part === 'function' ? part(was.draft) : part) }
      const refused = was.refused.filter((v) => !outdated(v, was.draft, next))
      return { draft: next, refused: refused.length === was.refused.length ? was.refused : refused }
    })
    setFailure(null)
  }, [])
  const setRefused = (refused: Violation[]) => setTyped((was) => ({ ...was, refused }))
  const setParameters = useCallback((parameters: Json) => change({ parameters }), [change])
  const setCondition = useCallback((name: string, value: ConditionDraft) => change((was) => ({ conditions: { ...was.conditions, [name]: value } })), [change])
  const setSchedule = useCallback((schedule: ScheduleDraft) => change({ schedule }), [change])
  const setOptions = useCallback((options: Options) => change({ options }), [change])

  // --- the next runs
  const typed = useMemo(() => scheduleOf(draft.schedule, myZone), [draft.schedule])
  const [settled] = useDebouncedValue(typed, 300)
  const manual = draft.schedule.tab === 'manual'
  const preview = useQuery({
    ...previewQuery(settled.schedule, { count: 10, neighbours: true, ...(edited ? { job_id: edited.id } : {}) }),
    enabled: settled.problems.length === 0 && settled.schedule.type !== 'manual',
  })
  const misread = useMemo(() => (preview.error instanceof ApiError && preview.error.status === 400 && settled === typed ? preview.error.violations : []), [preview.error, settled, typed])

  const violations = useMemo(() => {
    const all = [...(attempts > 0 ? problems : []), ...refused, ...misread]
    return all.filter((v, i) => all.findIndex((w) => w.field === v.field && w.description === v.description) === i)
  }, [attempts, problems, refused, misread])
  const { first, more } = arrangement(schema, draft.parameters)
  const homeless = violations.filter((v) => !hasPlace(v, [...first, ...more]))
  const wrong = (field: string) => violations.find((v) => v.field === field)?.description

  function toFirstProblem() {
    // Later: what is folded opens first.
    window.setTimeout(() => {
      const field = form.current?.querySelector<HTMLElement>('[aria-invalid="true"], [data-problem]')
      field?.scrollIntoView({ block: 'center' })
      field?.focus({ preventScroll: true })
    }, 80)
  }

  /** Whether the form can be sent; shows what is missing otherwise. */
  function complete(): boolean {
    setAttempts((n) => n + 1)
    setFailure(null)
    if (problems.length === 0) return true
    toFirstProblem()
    return false
  }

  function explain(title: string, error: unknown) {
    if (error instanceof ApiError && error.reason === 'NAME_TAKEN') {
      setRefused([{ field: 'name', description: 'Another job has this name: give this one a different name' }])
      return toFirstProblem()
    }
    if (error instanceof ApiError && error.violations.length > 0) {
      setRefused(error.violations)
      return toFirstProblem()
    }
    setFailure({ title, error })
  }

  // --- trying
  async function startTrial() {
    setAsking(null)
    try {
      const started = await tryJob.mutateAsync(job)
      setTrial({ id: started.execution_id, dryRun: started.dry_run, fingerprint: fingerprint(job) })
      setWatching(true)
    } catch (error) {
      explain('The trial did not start', error)
    }
  }

  function tryOnce() {
    if (!complete()) return setAsking(null)
    if (canDryRun(template)) return void startTrial()
    modals.openConfirmModal({
      title: 'Try it for real?',
      children: (
        <Text size="sm">
          {template.name} has no dry run: trying it does what the form says, now and once. It counts as a run by hand.
        </Text>
      ),
      labels: { confirm: 'Try it for real', cancel: 'Back to the form' },
      onConfirm: () => void startTrial(),
    })
  }

  // --- saving
  async function save(version = edited?.version ?? 0) {
    try {
      const saved = edited ? await update.mutateAsync({ id: edited.id, version, change: changes(before ?? {}, job) }) : await create.mutateAsync({ job, key: keyOf(job) })
      done.current = true
      notifications.show({ title: edited ? `“${saved.name}” is saved` : `“${saved.name}” is made`, message: firstRun(saved, Date.now()), color: 'green', autoClose: 10_000, position: 'bottom-right' })
      await navigate(`/jobs/${saved.id}`)
    } catch (error) {
      setAsking(null)
      if (error instanceof ApiError && error.status === 412) return setAsking('conflict')
      explain(edited ? 'The job is not changed' : 'The job is not saved', error)
    }
  }

  // The same request keeps its key, so that one whose answer was lost makes no second job.
  function keyOf(input: JobInput): string {
    const body = JSON.stringify(input)
    if (sent.current?.body !== body) sent.current = { body, key: newKey() }
    return sent.current.key
  }

  function submit(event: FormEvent) {
    event.preventDefault()
    if (!complete()) return
    if (deletesAnew(before, job, template)) return setAsking('deletion')
    void save()
  }

  async function overwrite() {
    try {
      const now = await queries.fetchQuery({ ...jobQuery(edited!.id), staleTime: 0 })
      await save(now.version)
    } catch (error) {
      setAsking(null)
      explain('The job is not changed', error)
    }
  }

  // --- leaving
  const blocker = useBlocker(({ currentLocation: a, nextLocation: b }) => dirty && !done.current && a.pathname + a.search !== b.pathname + b.search)
  useEffect(() => {
    if (!dirty) return
    const ask = (event: BeforeUnloadEvent) => {
      if (!done.current) event.preventDefault()
    }
    window.addEventListener('beforeunload', ask)
    return () => window.removeEventListener('beforeunload', ask)
  }, [dirty])

  // --- words
  const really = deletes(job, template)
  const { conditions, parameters } = draft
  const conditionSentence = useCallback(
    (name: string) => sentenceOf(conditions[name], typeof parameters.collection === 'string' ? parameters.collection : '', template.destructive, really),
    [conditions, parameters, template, really],
  )
  const dryRunNote = useMemo(() => (template.destructive ? <DryRunNote really={really} /> : null), [template, really])

  const when = draft.schedule.tab === 'simple' ? `${simpleInWords(draft.schedule.simple)} (${draft.schedule.zone})` : typed.problems.length > 0 ? '' : scheduleInWords(typed.schedule)
  const busy = create.isPending || update.isPending
  const title = edited ? `Edit ${edited.name}` : 'New job'

  return (
    <Page title={title}>
      {notice && (
        <Alert variant="default" icon={<IconAlertTriangle aria-hidden />}>
          {notice}
        </Alert>
      )}
      <form ref={form} onSubmit={submit} noValidate aria-label={title}>
        <div className={classes.columns}>
          <Stack gap="lg">
            <Paper withBorder p="md" component="section" aria-labelledby="what">
              <Stack gap="md">
                <Group gap="sm" wrap="nowrap" align="center">
                  <TemplateIcon type={template.id} sign={template.icon} />
                  <Box style={{ flex: 1, minWidth: 0 }}>
                    <Group gap="xs">
                      <Title order={2} size="h4" id="what">
                        {template.name}
                      </Title>
                      <RiskBadge risk={template.risk_level} />
                    </Group>
                    <Text size="sm" c="dimmed" lineClamp={2}>
                      {template.description}
                    </Text>
                  </Box>
                  {!edited && (
                    <Anchor component={Link} to="/jobs/new" size="sm" style={{ whiteSpace: 'nowrap' }}>
                      Other template
                    </Anchor>
                  )}
                </Group>
                {!template.available && (
                  <Alert variant="default" icon={<IconAlertTriangle aria-hidden />}>
                    No connected worker has this template: the job can be saved, and its runs wait until one does.
                  </Alert>
                )}
                <TextInput label="Name" required value={draft.name} onChange={(e) => change({ name: e.currentTarget.value })} error={wrong('name')} maxLength={200} />
                <ParameterForm
                  schema={schema}
                  values={draft.parameters}
                  onChange={setParameters}
                  violations={violations}
                  conditions={draft.conditions}
                  setCondition={setCondition}
                  conditionSentence={conditionSentence}
                  dryRunNote={dryRunNote}
                />
                <Folded title="Description" summary={draft.description || 'None: a line for others on what the job is for'} urgent={!!wrong('description')}>
                  <Textarea aria-label="Description" autosize minRows={2} maxRows={10} maxLength={4000} value={draft.description} onChange={(e) => change({ description: e.currentTarget.value })} error={wrong('description')} />
                </Folded>
              </Stack>
            </Paper>

            <Paper withBorder p="md" component="section" aria-labelledby="when">
              <Title order={2} size="h4" id="when" mb="xs">
                When it runs
              </Title>
              <ScheduleForm value={draft.schedule} onChange={setSchedule} violations={violations} />
            </Paper>

            <Paper withBorder p="md">
              <Folded title="Retries, time-out, overlap and notifications" summary={optionsInWords(draft.options)} urgent={violations.some((v) => optionFields.includes(steps(v.field)[0] ?? ''))}>
                <OptionsForm value={draft.options} onChange={setOptions} violations={violations} />
              </Folded>
            </Paper>
          </Stack>

          <Paper withBorder p="md" component="section" aria-labelledby="next" className={classes.aside} tabIndex={0}>
            <Title order={2} size="h4" id="next">
              Next runs
            </Title>
            {when && (
              <Text size="sm" mb="sm" aria-live="polite">
                {when}
              </Text>
            )}
            <Preview
              manual={manual}
              incomplete={typed.problems.length > 0}
              occurrences={preview.data?.occurrences}
              error={preview.error}
              retry={preview.refetch}
              zone={draft.schedule.tab === 'once' ? draft.schedule.onceZone : draft.schedule.tab === 'interval' ? myZone : draft.schedule.zone}
            />
          </Paper>
        </div>

        {(failure || homeless.length > 0) && (
          <Stack mt="md" gap="xs">
            {failure && <ErrorNotice error={failure.error} title={failure.title} />}
            {homeless.length > 0 && <ErrorNotice error={new Error(homeless.map((v) => `${v.field}: ${v.description}`).join('; '))} title="Not saved" />}
          </Stack>
        )}

        <div className={classes.bar} style={{ marginTop: 'var(--mantine-spacing-lg)' }}>
          <Group gap="sm">
            <Button type="submit" loading={busy}>
              Save
            </Button>
            <Button variant="default" leftSection={<IconPlayerPlay size={16} aria-hidden />} onClick={tryOnce} loading={tryJob.isPending}>
              Try it once
            </Button>
            {trial && !watching && (
              <Button variant="subtle" onClick={() => setWatching(true)}>
                Show the trial
              </Button>
            )}
            <Button variant="subtle" color="gray" component={Link} to={edited ? `/jobs/${edited.id}` : '/jobs'}>
              Cancel
            </Button>
            {violations.length > 0 && (
              <Text size="sm" role="status" c="var(--mantine-color-error)">
                {violations.length === 1 ? 'One field needs' : `${violations.length} fields need`} another value.
              </Text>
            )}
          </Group>
        </div>
      </form>

      <TrialDrawer
        name={draft.name}
        trial={trial}
        opened={watching}
        close={() => setWatching(false)}
        again={tryOnce}
        onEnd={(run) => {
          if (trial?.dryRun && run.status === 'success') setCounted({ fingerprint: trial.fingerprint, records: recordsFound(run) })
        }}
      />
      <ConfirmDeletion
        name={draft.name.trim()}
        opened={asking === 'deletion'}
        records={counted && counted.fingerprint === fingerprint(job) ? counted.records : undefined}
        busy={busy}
        close={() => setAsking(null)}
        tryIt={tryOnce}
        save={() => void save()}
      />
      {edited && (
        <Conflict id={edited.id} name={edited.name} opened={asking === 'conflict'} busy={busy} close={() => setAsking(null)} load={reload} overwrite={() => void overwrite()} />
      )}
      <Leaving opened={blocker.state === 'blocked'} stay={() => blocker.reset?.()} leave={() => blocker.proceed?.()} />
    </Page>
  )
}

/** What a condition does, as a sentence. */
export function sentenceOf(condition: ConditionDraft | undefined, collection: string, destructive: boolean, really: boolean): string {
  const verb = destructive ? 'Deletes' : 'Takes'
  const of = collection ? ` of ${collection}` : ''
  const empty = destructive ? 'Add a comparison: without one every document would match.' : `${verb} all documents${of}.`
  if (!condition) return empty
  const what = condition.mode === 'json' ? condition.text.trim() && `the documents${of} that the condition describes` : condition.group.items.length > 0 && `documents${of} whose ${inWords(condition.group)}`
  if (!what) return empty
  return `${verb} ${what}.${destructive && !really ? ' As long as the dry run is on, they are only counted.' : ''}`
}

function DryRunNote({ really }: { really: boolean }) {
  return (
    <Text size="sm" c={really ? 'var(--mantine-color-error)' : 'dimmed'} fw={really ? 600 : undefined}>
      {really ? 'Runs of this job really delete, and cannot be undone. Saving asks for the number that a dry run finds.' : 'Runs of this job only count what they would delete. Switch this off when the numbers are right.'}
    </Text>
  )
}
