import { configure, fireEvent, screen, waitFor, within } from '@testing-library/react'
import { describe, expect, test, vi } from 'vitest'
import type { Execution, Job } from '../../api/types'
import { type Answers, refusal, show } from '../jobs/harness'
import { cleanup, job } from '../jobs/sample'
import { execution } from '../run/sample'
import { Component } from './index'

configure({ asyncUtilTimeout: 10_000 })
vi.setConfig({ testTimeout: 40_000 })

const page =
  (one: Job | null, runs: Execution[] = [], more: Answers = () => undefined): Answers =>
  (asked) => {
    const special = more(asked)
    if (special) return special
    const { pathname } = asked.url
    if (pathname.endsWith('/executions')) return Response.json({ executions: runs, total: runs.length })
    if (asked.method === 'GET' && one && pathname === `/api/admin/scheduler-jobs/${one.id}`) return Response.json({ job: one })
    if (pathname.endsWith('/audit')) return Response.json({ entries: [], total: 0 })
    return undefined
  }

describe('the page of a job', () => {
  test('tells what it does, when and how', async () => {
    show('/jobs/job_2', '/jobs/:id', Component, page(cleanup()))
    expect(await screen.findByRole('heading', { level: 1, name: 'Old users' })).toBeTruthy()
    expect(await screen.findByText('lastActive is older than 6 months')).toBeTruthy()
    expect(screen.getByText('It really deletes.')).toBeTruthy()
    expect(screen.getByText('At 02:00 (UTC)')).toBeTruthy()
    expect(screen.getByText('A failed run is tried again up to 3 times, 5 min apart.')).toBeTruthy()
  })

  test('filters its runs by the address', async () => {
    const { asked, router } = show('/jobs/job_1?status=failed&status=nonsense&page=2', '/jobs/:id', Component, page(job(), [execution({ status: 'failed', error: 'the disk is full' })]))
    expect(await screen.findByText('the disk is full')).toBeTruthy()
    const runs = asked.find((a) => a.url.pathname.endsWith('/executions'))!
    expect(runs.url.searchParams.toString()).toBe('status=failed&page=2&limit=25')
    expect(router.state.location.search).toContain('page=2')
  })

  test('keeps its tab in the address', async () => {
    const { router } = show('/jobs/job_1?tab=json', '/jobs/:id', Component, page(job()))
    expect((await screen.findByRole('region', { name: 'The definition as JSON' })).textContent).toContain('"name": "Heartbeat"')
    fireEvent.click(screen.getByRole('tab', { name: 'Runs' }))
    await waitFor(() => expect(router.state.location.search).toBe(''))
    expect(await screen.findByText('No runs yet', { selector: 'p' })).toBeTruthy()
  })

  test('lets admins run, and says why they cannot change', async () => {
    show('/jobs/job_1?tab=changes', '/jobs/:id', Component, page(job()), { role: 'admin' })
    expect(await screen.findByRole('button', { name: 'Run now' })).toBeTruthy()
    expect(screen.queryByRole('link', { name: 'Edit' })).toBeNull()
    expect(screen.queryByRole('switch')).toBeNull()
    expect(screen.getByText('Changing, pausing or deleting a job needs the role super admin.')).toBeTruthy()
    expect(screen.getByText(/which needs the role super admin/)).toBeTruthy()
  })

  test('is deleted only once its name was typed', async () => {
    const { asked, router } = show('/jobs/job_1', '/jobs/:id', Component, page(job(), [], ({ method }) => (method === 'DELETE' ? Response.json({ message: 'Job deleted' }) : undefined)))
    fireEvent.click(await screen.findByRole('button', { name: 'More actions' }))
    fireEvent.click(await screen.findByRole('menuitem', { name: 'Delete' }))
    const button = (await screen.findByRole('button', { name: 'Delete the job' })) as HTMLButtonElement
    expect(button.disabled).toBe(true)
    fireEvent.change(screen.getByRole('textbox', { name: 'Type Heartbeat to confirm' }), { target: { value: 'Heartbeat' } })
    fireEvent.click(button)
    await waitFor(() => expect(router.state.location.pathname).toBe('/jobs'))
    expect(asked.filter((a) => a.method === 'DELETE').map((a) => a.url.pathname)).toEqual(['/api/admin/scheduler-jobs/job_1'])
  })

  test('of a deleted job still shows its runs', async () => {
    show('/jobs/job_gone', '/jobs/:id', Component, page(null, [execution({ job_id: 'job_gone', job_name: 'Nightly' })]))
    expect(await screen.findByText('This job was deleted')).toBeTruthy()
    expect(screen.getByRole('heading', { level: 1 }).textContent).toBe('Nightly')
    expect(await screen.findByRole('table', { name: 'Runs' })).toBeTruthy()
  })

  test('of an id that never was says so', async () => {
    show('/jobs/job_none', '/jobs/:id', Component, page(null))
    expect(await screen.findByText('There is no such job')).toBeTruthy()
  })
})

describe('the changes', () => {
  test('tell who changed what, and leave out what follows from it', async () => {
    const entry = { id: 'job_1.2', at: '2026-01-02T03:04:05Z', user: 'bob', address: '10.0.0.1', action: 'job.update', object: 'job_1', before: { ...job(), next_run_at: null }, after: { ...job(), version: 8, parameters: { message: 'Hello' } } }
    show('/jobs/job_1?tab=changes', '/jobs/:id', Component, page(job(), [], ({ url }) => (url.pathname.endsWith('/audit') ? Response.json({ entries: [entry], total: 1 }) : undefined)))
    const table = within(await screen.findByRole('table', { name: 'What bob changed' }))
    expect(table.getAllByRole('row').map((row) => row.textContent)).toEqual(['FieldBeforeAfter', 'Parameters › messageStill hereHello'])
  })
})

describe('a run by hand', () => {
  const running = (answer: () => Response): Answers => ({ url }) => (url.pathname.endsWith('/run') ? answer() : undefined)
  const runs = (asked: { url: URL; body: unknown }[]) => asked.filter((a) => a.url.pathname.endsWith('/run'))

  test('goes to the run that it started', async () => {
    const { asked, router } = show('/jobs/job_2', '/jobs/:id', Component, page(cleanup(), [], running(() => Response.json({ execution_id: 'exec_9' }, { status: 202 }))))
    fireEvent.click(await screen.findByRole('button', { name: 'Run now' }))
    fireEvent.click(await screen.findByRole('switch', { name: 'Dry run' }))
    expect(screen.queryByText('This run really deletes')).toBeNull()
    fireEvent.click(screen.getByRole('button', { name: 'Start the run' }))
    await waitFor(() => expect(router.state.location.pathname).toBe('/runs/exec_9'))
    expect(runs(asked).map((a) => a.body)).toEqual([{ parameters: { dryRun: true } }])
  })

  test('of an admin is a dry run of what can destroy, and nothing else', async () => {
    const { asked } = show('/jobs/job_2', '/jobs/:id', Component, page(cleanup(), [], running(() => Response.json({ execution_id: 'exec_9' }, { status: 202 }))), { role: 'admin' })
    fireEvent.click(await screen.findByRole('button', { name: 'Run now' }))
    const dry = (await screen.findByRole('switch', { name: 'Dry run' })) as HTMLInputElement
    expect([dry.checked, dry.disabled]).toEqual([true, true])
    expect(screen.getByText(/A run that really deletes needs the role super admin/)).toBeTruthy()
    expect(screen.queryByRole('button', { name: 'Change them for this run' })).toBeNull()
    fireEvent.click(screen.getByRole('button', { name: 'Start the run' }))
    await waitFor(() => expect(runs(asked).map((a) => a.body)).toEqual([{ parameters: { dryRun: true } }]))
  })

  test('that gets no answer is asked for again under the same key', async () => {
    let tries = 0
    const { asked, router } = show('/jobs/job_1', '/jobs/:id', Component, page(job(), [], running(() => {
      if (tries++ === 0) throw new TypeError('network')
      return Response.json({ execution_id: 'exec_9' }, { status: 202 })
    })))
    fireEvent.click(await screen.findByRole('button', { name: 'Run now' }))
    fireEvent.click(await screen.findByRole('button', { name: 'Start the run' }))
    expect(await screen.findByText('The run was not started')).toBeTruthy()
    fireEvent.click(screen.getByRole('button', { name: 'Start the run' }))
    await waitFor(() => expect(router.state.location.pathname).toBe('/runs/exec_9'))
    const keys = asked.filter((a) => a.url.pathname.endsWith('/run')).map((a) => a.headers.get('Idempotency-Key'))
    expect(keys).toHaveLength(2)
    expect(keys[0]).toBe(keys[1])
  })

  test('over the limit says when there is room again', async () => {
    show('/jobs/job_1', '/jobs/:id', Component, page(job(), [], running(() => refusal(429, 'LIMIT_REACHED', 'too many', { metadata: { limit: '10', of: 'manual runs an hour' }, retryAfter: 600 }))))
    fireEvent.click(await screen.findByRole('button', { name: 'Run now' }))
    fireEvent.click(await screen.findByRole('button', { name: 'Start the run' }))
    const alert = await screen.findByRole('alert')
    expect(alert.textContent).toMatch(/The limit is 10 manual runs an hour\. There is room again in (10|9) minutes/)
  })
})
