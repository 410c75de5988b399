import { MantineProvider } from '@mantine/core'
import { ModalsProvider } from '@mantine/modals'
import { QueryClient, QueryClientProvider } from '@tanstack/react-query'
import { configure, fireEvent, render, screen, waitFor, within } from '@testing-library/react'
import { createMemoryRouter, RouterProvider } from 'react-router'
import { afterEach, describe, expect, it, vi } from 'vitest'
import type { Json, Role, Session } from '../../api/types'
import { SessionProvider } from '../../shell/session'
import { theme } from '../../shell/theme'
import { Component } from '.'

// A busy machine takes seconds to draw a whole form.
vi.setConfig({ testTimeout: 60_000 })
// Working out what is hidden takes most of the time of these tests, and nothing that
// they look for is.
configure({ asyncUtilTimeout: 15_000, defaultHidden: true })

// Text areas that grow look at the fonts, which jsdom does not have.
Object.defineProperty(document, 'fonts', { value: new EventTarget(), configurable: true })

const template = {
  id: 'database_cleanup',
  name: 'Database Cleanup',
  description: 'Remove old records',
  category: 'maintenance',
  icon: '',
  risk_level: 'medium',
  idempotent: true,
  destructive: true,
  available: true,
  parameters_schema: {
    type: 'object',
    additionalProperties: false,
    required: ['collection', 'condition'],
    'x-form': ['collection', 'condition', 'dryRun'],
    properties: {
      collection: { type: 'string', description: 'Collection name', enum: ['sessions', 'users'] },
      condition: { type: 'object', format: 'condition', minProperties: 1 },
      dryRun: { type: 'boolean', default: true, description: 'Preview changes without deleting' },
      max_deletions: { type: 'integer', minimum: 1, maximum: 1000, default: 100 },
    },
  },
}

const mail = {
  ...template,
  id: 'mail',
  name: 'Mail',
  description: 'Send it',
  category: 'notification',
  destructive: false,
  available: false,
  parameters_schema: {
    type: 'object',
    required: ['recipients'],
    properties: {
      recipients: { type: 'array', items: { type: 'string', pattern: '@' }, minItems: 1 },
      headers: { type: 'object', additionalProperties: { type: 'string' } },
      data: { type: 'object' },
      older_than: { type: 'string', format: 'age', default: '30 days' },
      at: { type: 'string', format: 'date-time' },
      inner: { type: 'object', properties: { depth: { type: 'number' } } },
    },
  },
}

const stored = {
  id: 'job_1',
  name: 'Old sessions',
  description: '',
  template_type: 'database_cleanup',
  parameters: { collection: 'sessions', condition: { lastActive: { $lt: '6 months ago' } }, dryRun: true, max_deletions: 100 },
  schedule: { type: 'cron', expression: '0 3 * * *', timezone: 'UTC' },
  enabled: true,
  timeout_seconds: 3600,
  retry_policy: { max_retries: 3, retry_delay_seconds: 300 },
  notifications: { on_success: [], on_failure: [] },
  labels: {},
  organisation: 'default',
  priority: 0,
  executor_selector: {},
  missed_policy: 'run_once',
  overlap_policy: 'forbid',
  version: 4,
  next_run_at: '2030-01-01T02:00:00Z',
}

const run = {
  id: 'exec_1',
  job_id: 'trials',
  job_name: 'x',
  template_type: 'database_cleanup',
  status: 'success',
  scheduled_for: '2026-01-01T00:00:00Z',
  started_at: '2026-01-01T00:00:00Z',
  completed_at: '2026-01-01T00:00:01Z',
  duration_seconds: 1,
  result: { message: 'Would delete 1917 records', records_processed: 1917 },
  error: null,
  attempts: [],
  notifications: [],
  triggered_by: 'manual',
  progress: null,
}

type Sent = { method: string; path: string; body: Json; headers: Headers }
type Answer = (sent: Sent) => Response | Json

const refusal = (status: number, message: string, ...details: Json[]) => new Response(JSON.stringify({ code: 3, message, details }), { status })

/** Answers requests by "METHOD /path", and keeps what was sent. */
function registry(answers: Record<string, Answer> = {}): Sent[] {
  const all: Record<string, Answer> = {
    'GET /api/admin/job-templates': () => ({ templates: [template, mail] }),
    'GET /api/admin/scheduler-jobs': () => ({ jobs: [{ name: 'Database cleanup' }], total: 1, page: 1, pages: 1 }),
    'GET /api/admin/scheduler-jobs/job_1': () => ({ job: stored }),
    'POST /api/admin/schedules/preview': () => ({ schedule: {}, occurrences: [] }),
    'POST /api/admin/scheduler-jobs': ({ body }) => ({ job: { ...stored, id: 'job_2', name: body.name } }),
    'PUT /api/admin/scheduler-jobs/job_1': () => ({ job: stored }),
    'POST /api/admin/scheduler-jobs/try': () => ({ execution_id: 'exec_1', dry_run: true }),
    'GET /api/admin/job-executions/exec_1/events': () => new Response(`${JSON.stringify({ result: { execution: run, logs: [], first_line: 0, over: true } })}\n`),
    'GET /api/admin/audit': () => ({ entries: [{ user: 'ann', at: '2026-01-01T00:00:00Z' }], total: 1 }),
    ...answers,
  }
  const log: Sent[] = []
  vi.stubGlobal('fetch', async (input: Request | string, init?: RequestInit) => {
    const request = typeof input === 'string' ? new Request(new URL(input, 'http://localhost'), init) : input
    const { pathname } = new URL(request.url)
    const text = await request.text()
    const sent = { method: request.method, path: pathname, body: (text ? JSON.parse(text) : {}) as Json, headers: request.headers }
    log.push(sent)
    const made = all[`${request.method} ${pathname}`]?.(sent) ?? refusal(404, `no ${pathname}`)
    return made instanceof Response ? made : new Response(JSON.stringify(made))
  })
  return log
}
afterEach(() => vi.unstubAllGlobals())

function open(path: string, role: Role = 'super_admin') {
  const session = { username: 'ann', role, version: '', expires_at: null } as unknown as Session
  const router = createMemoryRouter(
    [
      { path: '/jobs/new', Component },
      { path: '/jobs/:id/edit', Component },
      { path: '/jobs/:id', element: <p>the job page</p> },
      { path: '/jobs', element: <p>the list</p> },
    ],
    { initialEntries: [path] },
  )
  render(
    <MantineProvider env="test" theme={theme}>
      <QueryClientProvider client={new QueryClient({ defaultOptions: { queries: { retry: false } } })}>
        <SessionProvider session={session}>
          <ModalsProvider>
            <RouterProvider router={router} />
          </ModalsProvider>
        </SessionProvider>
      </QueryClientProvider>
    </MantineProvider>,
  )
  return router
}

const type = (label: string, value: string) => fireEvent.change(screen.getByRole('textbox', { name: label }), { target: { value } })
const press = (name: string | RegExp) => fireEvent.click(screen.getByRole('button', { name }))
const posted = (log: Sent[], path = '/api/admin/scheduler-jobs') => log.filter((s) => s.method === 'POST' && s.path === path)

/** Types a value of a list and ends it, as a person who is in the field does. */
function enter(box: HTMLElement, value: string) {
  box.focus()
  fireEvent.change(box, { target: { value } })
  fireEvent.keyDown(box, { key: 'Enter' })
}

async function choose(label: string, option: string) {
  fireEvent.click(screen.getByRole('combobox', { name: label }))
  fireEvent.click(await screen.findByRole('option', { name: option }))
}

/** Fills in what a newcomer has to. */
async function fill() {
  await screen.findByRole('button', { name: 'Save' })
  await choose('Collection', 'sessions')
  type('Field', 'lastActive')
  type('Number', '6')
}

describe('the gallery', () => {
  it('finds templates and leads to their form', async () => {
    registry()
    const router = open('/jobs/new?search=old')
    const card = await screen.findByRole('link', { name: /Database Cleanup/ })
    expect(screen.queryByRole('link', { name: /Mail/ })).toBeNull()
    fireEvent.click(card)
    await screen.findByRole('button', { name: 'Save' })
    expect(router.state.location.search).toBe('?template=database_cleanup')
  })

  it('says which templates nobody can run, and what to do when none matches', async () => {
    registry()
    open('/jobs/new?search=send')
    expect((await screen.findByRole('link', { name: /Mail/ })).textContent).toContain('Not available')
    fireEvent.change(screen.getByRole('searchbox', { name: 'Search' }), { target: { value: 'zzz' } })
    fireEvent.click(await screen.findByRole('button', { name: 'Show all 2' }))
    expect(await screen.findByRole('link', { name: /Database Cleanup/ })).toBeTruthy()
  })

  it('is not for admins', () => {
    registry()
    open('/jobs/new', 'admin')
    expect(screen.getByText('Only super admins make and change jobs')).toBeTruthy()
  })
})

describe('a new job', () => {
  it('shows what is missing beside its field, goes there, and sends nothing', async () => {
    const log = registry()
    open('/jobs/new?template=database_cleanup')
    await screen.findByRole('button', { name: 'Save' })
    expect(screen.queryByText('Choose one')).toBeNull()
    press('Save')
    expect(screen.getByText('Choose one')).toBeTruthy()
    expect(screen.getByText('Name a field')).toBeTruthy()
    expect(screen.getByText('3 fields need another value.')).toBeTruthy()
    await waitFor(() => expect(document.activeElement).toBe(screen.getByRole('combobox', { name: 'Collection' })))
    type('Field', 'x')
    expect(screen.queryByText('Name a field')).toBeNull()
    expect(posted(log)).toEqual([])
  })

  it('shows what the registry refuses beside the very field, opens what is folded, and keeps all', async () => {
    const violations = [
      { field: 'parameters.max_deletions', description: 'must be less today' },
      { field: 'notifications.on_failure[0]', description: 'is nobody' },
      { field: 'elsewhere', description: 'is odd' },
    ]
    registry({ 'POST /api/admin/scheduler-jobs': () => refusal(400, 'three faults', { '@type': 'x', fieldViolations: violations }) })
    open('/jobs/new?template=database_cleanup')
    await fill()
    expect(screen.getByRole('button', { name: /More settings/ }).getAttribute('aria-expanded')).toBe('false')
    press('Save')
    expect(await screen.findByText('must be less today')).toBeTruthy()
    expect(screen.getByRole('button', { name: /More settings/ }).getAttribute('aria-expanded')).toBe('true')
    expect(screen.getByRole('button', { name: /Retries, time-out/ }).getAttribute('aria-expanded')).toBe('true')
    expect(screen.getByText('is nobody')).toBeTruthy()
    expect(screen.getByText('elsewhere: is odd')).toBeTruthy()
    expect((screen.getByRole('textbox', { name: 'Field' }) as HTMLInputElement).value).toBe('lastActive')
    await waitFor(() => expect(document.activeElement).toBe(screen.getByRole('textbox', { name: 'Max deletions' })))
    fireEvent.change(screen.getByRole('textbox', { name: 'Max deletions' }), { target: { value: '5' } })
    expect(screen.queryByText('must be less today')).toBeNull()
  })

  it('says at the name that it is taken, and sends the same key only for the same job', async () => {
    const log = registry({ 'POST /api/admin/scheduler-jobs': () => refusal(409, 'taken', { '@type': 'x', reason: 'NAME_TAKEN' }) })
    open('/jobs/new?template=database_cleanup')
    await fill()
    press('Save')
    expect(await screen.findByText('Another job has this name: give this one a different name')).toBeTruthy()
    press('Save')
    await waitFor(() => expect(posted(log)).toHaveLength(2))
    type('Name', 'Other')
    press('Save')
    await waitFor(() => expect(posted(log)).toHaveLength(3))
    const keys = posted(log).map((s) => s.headers.get('Idempotency-Key'))
    expect(keys[0]).toBe(keys[1])
    expect(keys[2]).not.toBe(keys[1])
  })

  it('says why nothing was saved when the registry is away', async () => {
    registry({ 'POST /api/admin/scheduler-jobs': () => refusal(503, 'the store is away') })
    open('/jobs/new?template=database_cleanup')
    await fill()
    press('Save')
    expect(await screen.findByText('the store is away')).toBeTruthy()
    expect(screen.getByText('The job is not saved')).toBeTruthy()
  })

  it('shows a schedule that the registry cannot read at its field', async () => {
    registry({ 'POST /api/admin/schedules/preview': () => refusal(400, 'bad', { '@type': 'x', fieldViolations: [{ field: 'schedule.expression', description: 'has 3 fields' }] }) })
    open('/jobs/new?template=database_cleanup')
    fireEvent.click(await screen.findByRole('tab', { name: 'Cron' }))
    type('Expression', '1 2 3')
    expect(await screen.findByText('has 3 fields')).toBeTruthy()
  })

  it('keeps a condition on the way to JSON and back', async () => {
    registry()
    open('/jobs/new?template=database_cleanup')
    await fill()
    press('Edit as JSON')
    const box = screen.getByRole('textbox', { name: 'Condition as JSON' }) as HTMLTextAreaElement
    expect(JSON.parse(box.value)).toEqual({ lastActive: { $lt: '6 months ago' } })
    fireEvent.change(box, { target: { value: '{"tags": {"$size": 2}}' } })
    expect((screen.getByRole('button', { name: 'Edit as rows' }) as HTMLButtonElement).disabled).toBe(true)
    expect(screen.getByText(/Rows cannot show all of this condition/)).toBeTruthy()
    fireEvent.change(box, { target: { value: '{"status": "old"}' } })
    press('Edit as rows')
    expect((screen.getByRole('textbox', { name: 'Value' }) as HTMLInputElement).value).toBe('old')
  })

  it('leaves at once when nothing was typed', async () => {
    registry()
    const router = open('/jobs/new?template=database_cleanup')
    fireEvent.click(await screen.findByRole('link', { name: 'Cancel' }))
    await waitFor(() => expect(router.state.location.pathname).toBe('/jobs'))
  })

  it('says when no worker has announced its template', async () => {
    registry()
    open('/jobs/new?template=gone')
    expect(await screen.findByText('This template is not known')).toBeTruthy()
  })
})

describe('a job that really deletes', () => {
  it('does not take the number of other values', async () => {
    registry()
    open('/jobs/new?template=database_cleanup')
    await fill()
    press('Try it once')
    expect(await screen.findByText('Would delete 1917 records')).toBeTruthy()
    press('Back to the form')
    type('Number', '1')
    fireEvent.click(screen.getByRole('switch', { name: /^Dry run/ }))
    press('Save')
    expect(await screen.findByRole('button', { name: 'Make a dry run' })).toBeTruthy()
  })
})

describe('a change', () => {
  it('sends only what differs, and the version', async () => {
    const log = registry()
    const router = open('/jobs/job_1/edit')
    expect(((await screen.findByRole('textbox', { name: 'Name' })) as HTMLInputElement).value).toBe('Old sessions')
    type('Name', 'Older sessions')
    press('Save')
    await waitFor(() => expect(router.state.location.pathname).toBe('/jobs/job_1'))
    expect(log.filter((s) => s.method === 'PUT').map((s) => s.body)).toEqual([{ name: 'Older sessions', version: 4 }])
  })

  it('loads the job as it is now, when that is chosen', async () => {
    let now = stored
    registry({
      'GET /api/admin/scheduler-jobs/job_1': () => ({ job: now }),
      'PUT /api/admin/scheduler-jobs/job_1': () => refusal(412, 'changed', { '@type': 'x', reason: 'VERSION_MISMATCH' }),
    })
    open('/jobs/job_1/edit')
    await screen.findByRole('textbox', { name: 'Name' })
    type('Name', 'Mine')
    now = { ...stored, name: 'Theirs', version: 5 }
    press('Save')
    fireEvent.click(await screen.findByRole('button', { name: 'Load the job as it is' }))
    await waitFor(() => expect((screen.getByRole('textbox', { name: 'Name' }) as HTMLInputElement).value).toBe('Theirs'))
  })

  it('clones under a name of its own', async () => {
    const log = registry({ 'GET /api/admin/scheduler-jobs': () => ({ jobs: [{ name: 'Old sessions copy' }], total: 1, page: 1, pages: 1 }) })
    open('/jobs/new?from=job_1')
    expect(((await screen.findByRole('textbox', { name: 'Name' })) as HTMLInputElement).value).toBe('Old sessions copy 2')
    press('Save')
    await waitFor(() => expect(posted(log)[0]?.body).toMatchObject({ name: 'Old sessions copy 2', schedule: stored.schedule, parameters: stored.parameters }))
  })
})

describe('parameters of any template', () => {
  it('have a field of their kind, and are sent as typed', async () => {
    const log = registry()
    open('/jobs/new?template=mail')
    await screen.findByRole('button', { name: 'Save' })
    expect(screen.getByText(/No connected worker has this template/)).toBeTruthy()
    const recipients = screen.getByLabelText(/^Recipients/, { selector: 'input' })
    enter(recipients, 'nobody')
    press('Save')
    expect(screen.getByText('This does not have the right form')).toBeTruthy()
    fireEvent.keyDown(recipients, { key: 'Backspace' })
    enter(recipients, 'a@b')
    enter(recipients, 'c@d')
    fireEvent.click(within(screen.getByRole('group', { name: 'Headers' })).getByRole('button', { name: 'Add' }))
    type('Headers, name 1', 'X-A')
    type('Headers, value 1', 'b')
    type('Data', '{"deep": {"a": [1]}}')
    type('Depth', '1.5')
    fireEvent.change(screen.getByLabelText('At', { selector: 'input[type=datetime-local]' }), { target: { value: '2030-01-01T10:00' } })
    fireEvent.click(screen.getByRole('button', { name: /More settings/ }))
    type('Older than', '1')
    press('Save')
    await waitFor(() => expect(posted(log)).toHaveLength(1))
    expect(posted(log)[0]!.body.parameters).toEqual({
      recipients: ['a@b', 'c@d'],
      headers: { 'X-A': 'b' },
      data: { deep: { a: [1] } },
      inner: { depth: 1.5 },
      at: new Date('2030-01-01T10:00').toISOString(),
      older_than: '1 day',
    })
  })

  it('are tried for real only after a question, where there is no dry run', async () => {
    const log = registry({ 'POST /api/admin/scheduler-jobs/try': () => ({ execution_id: 'exec_1', dry_run: false }) })
    open('/jobs/new?template=mail')
    const recipients = await screen.findByLabelText(/^Recipients/, { selector: 'input' })
    enter(recipients, 'a@b')
    press('Try it once')
    fireEvent.click(await screen.findByRole('button', { name: 'Try it for real' }))
    expect(await screen.findByText('This is a real run')).toBeTruthy()
    expect(posted(log, '/api/admin/scheduler-jobs/try')).toHaveLength(1)
  })
})
