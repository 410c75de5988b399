import { MantineProvider } from '@mantine/core'
import { QueryClient, QueryClientProvider } from '@tanstack/react-query'
import { cleanup, configure, fireEvent, render, screen, waitFor, within } from '@testing-library/react'
import { createMemoryRouter, RouterProvider } from 'react-router'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import type { Execution, Overview, Role, Session } from '../../api/types'
import { SessionProvider } from '../../shell/session'
import { execution } from '../run/sample'
import { Component as Home } from './index'

// A loaded machine draws slowly.
configure({ asyncUtilTimeout: 10_000 })
vi.setConfig({ testTimeout: 30_000 })

const overview: Overview = { at: '', jobs: 3, enabled_jobs: 2, running: 1, waiting: 0, backlog: 0, backlog_since: null, workers: 1, slots: 4, slots_used: 1, workers_draining: 0 }
const ago = (seconds: number) => new Date(Date.now() - seconds * 1000).toISOString()

let answers: Record<string, unknown>
let asked: { method: string; path: string; body: unknown }[]
beforeEach(() => {
  asked = []
  answers = {
    '/api/admin/overview': overview,
    '/api/admin/statistics': {
      from: '', until: '', step_seconds: 3600, mean_seconds: 1, longest_seconds: 2, success_rate: 0.75,
      totals: { success: 3, failed: 1, timed_out: 0, cancelled: 0, skipped: 0, unknown: 0 },
      steps: [{ from: ago(0), counts: { success: 3, failed: 1, timed_out: 0, cancelled: 0, skipped: 0, unknown: 0 }, mean_seconds: 1, longest_seconds: 2 }],
    },
    '/api/admin/job-executions?live': { executions: [], total: 0 },
    '/api/admin/job-executions?failed': { executions: [], total: 0 },
    '/api/admin/scheduler-jobs': { jobs: [], total: 0, page: 1, pages: 0 },
    '/api/admin/workers': { workers: [] },
    '/api/admin/job-templates': { templates: [] },
  }
  vi.stubGlobal('fetch', async (request: Request) => {
    const url = new URL(request.url)
    const text = await request.text()
    asked.push({ method: request.method, path: url.pathname, body: text ? JSON.parse(text) : null })
    const answer = answers[`${request.method} ${url.pathname}`] ?? answers[url.pathname + (url.searchParams.has('state') ? `?${url.searchParams.get('state')}` : '')]
    return answer === undefined ? Response.json({ message: 'it broke' }, { status: 400 }) : Response.json(answer)
  })
})
afterEach(() => {
  cleanup()
  vi.unstubAllGlobals()
})

function show(role: Role = 'super_admin') {
  const session: Session = { username: 'ann', role, expires_at: null, manual_runs_per_hour: 10, max_jobs: 100, version: 'v1' }
  const router = createMemoryRouter([{ path: '/', Component: Home }, { path: '/jobs/:id', element: <p>the job</p> }, { path: '/runs/:id', element: <p>the run</p> }])
  render(
    <MantineProvider>
      <QueryClientProvider client={new QueryClient({ defaultOptions: { queries: { retry: false } } })}>
        <SessionProvider session={session}>
          <RouterProvider router={router} />
        </SessionProvider>
      </QueryClientProvider>
    </MantineProvider>,
  )
  return router
}
const part = (name: string) => within(screen.getByRole('region', { name }))
const running = (change: Partial<Execution> = {}) =>
  execution({ id: 'exec_r', job_name: 'nightly', status: 'running', started_at: ago(10), completed_at: null, duration_seconds: null, progress: { done: 1, total: 4, message: '' }, ...change })

it('shows the day, what runs, what failed and who works', async () => {
  answers['/api/admin/job-executions?live'] = { executions: [running(), execution({ id: 'exec_w', job_name: 'stuck', status: 'pending', scheduled_for: ago(200), started_at: null, completed_at: null })], total: 2 }
  answers['/api/admin/job-executions?failed'] = { executions: [execution({ id: 'exec_f', job_name: 'broken', status: 'failed', error: 'connection refused' }), execution({ id: 'exec_e', job_name: 'broken', status: 'failed' })], total: 2 }
  answers['/api/admin/workers'] = { workers: [{ id: 'w', host: 'worker-1', status: 'ready', load: 0.25, running: 1, slots: 4 }] }
  show()
  await waitFor(() => expect(part('Today').getByText('75 %')).toBeTruthy())
  expect(part('Today').getByRole('img').getAttribute('aria-label')).toMatch(/3 succeeded, 1 failed/)
  await waitFor(() => expect(part('Going on now').getByRole('link', { name: 'nightly' }).getAttribute('href')).toBe('/runs/exec_r'))
  expect(part('Going on now').getByText(/1 of 4 \(25 %\)/)).toBeTruthy()
  expect(part('Going on now').getByText(/late by 3 min/)).toBeTruthy()
  expect(part('Going on now').getByRole('button', { name: 'Cancel nightly' })).toBeTruthy()
  await waitFor(() => expect(part('Failed or late').getByText('connection refused')).toBeTruthy())
  expect(part('Failed or late').getByText('2 times')).toBeTruthy()
  expect(part('Failed or late').getAllByRole('listitem').length).toBe(1)
  await waitFor(() => expect(part('Workers').getByText('1 of 4 slots')).toBeTruthy())
})

it('loses only the part whose answer fails', async () => {
  delete answers['/api/admin/statistics']
  show()
  await waitFor(() => expect(part('Today').getByText('it broke')).toBeTruthy())
  expect(part('Today').getByRole('button', { name: 'Try again' })).toBeTruthy()
  await waitFor(() => expect(part('Failed or late').getByText(/Nothing failed/)).toBeTruthy())
})

it('does not offer an admin what only a super admin may cancel', async () => {
  answers['/api/admin/job-executions?live'] = { executions: [running(), running({ id: 'exec_o', job_name: 'mine', triggered_by_user: 'ann' })], total: 2 }
  show('admin')
  await waitFor(() => expect(screen.getByRole('button', { name: 'Cancel mine' })).toBeTruthy())
  expect(screen.queryByRole('button', { name: 'Cancel nightly' })).toBeNull()
})

it('cancels a run after a question, with the reason given', async () => {
  answers['/api/admin/job-executions?live'] = { executions: [running()], total: 1 }
  answers['/api/admin/job-executions/exec_r/cancel'] = { message: 'Execution is being cancelled' }
  show()
  fireEvent.click(await screen.findByRole('button', { name: 'Cancel nightly' }))
  fireEvent.change(await screen.findByLabelText('Reason'), { target: { value: ' too slow ' } })
  expect(asked.some((a) => a.method === 'POST')).toBe(false)
  fireEvent.click(screen.getByRole('button', { name: 'Cancel the run' }))
  await waitFor(() => expect(asked.find((a) => a.method === 'POST')).toEqual({ method: 'POST', path: '/api/admin/job-executions/exec_r/cancel', body: { reason: 'too slow' } }))
})

it('keeps what was typed when cancelling fails, and says why', async () => {
  answers['/api/admin/job-executions?live'] = { executions: [running()], total: 1 }
  show()
  fireEvent.click(await screen.findByRole('button', { name: 'Cancel nightly' }))
  fireEvent.change(await screen.findByLabelText('Reason'), { target: { value: 'too slow' } })
  fireEvent.click(screen.getByRole('button', { name: 'Cancel the run' }))
  expect(await screen.findByText('it broke')).toBeTruthy()
  expect((screen.getByLabelText('Reason') as HTMLInputElement).value).toBe('too slow')
})

it('runs what failed again with the parameters it had', async () => {
  answers['/api/admin/job-executions?failed'] = { executions: [execution({ id: 'exec_f', job_name: 'broken', status: 'failed', parameters: { n: 1, same: true } })], total: 1 }
  answers['/api/admin/scheduler-jobs/job_1'] = { job: { id: 'job_1', name: 'broken', template_type: 'database_cleanup', parameters: { n: 2, same: true } } }
  answers['/api/admin/scheduler-jobs/job_1/run'] = { execution_id: 'exec_new', message: 'Job started' }
  const router = show()
  fireEvent.click(await screen.findByRole('button', { name: 'Run broken again' }))
  const dialog = within(await screen.findByRole('dialog', { name: 'Run broken again?' }))
  expect(dialog.getByRole('row', { name: 'N 1 2' })).toBeTruthy()
  fireEvent.click(dialog.getByRole('button', { name: 'Start the run' }))
  await waitFor(() => expect(router.state.location.pathname).toBe('/runs/exec_new'))
  expect(asked.find((a) => a.method === 'POST')?.body).toEqual({ parameters: { n: 1 } })
})

it('says what to do when no worker is connected', async () => {
  answers['/api/admin/overview'] = { ...overview, workers: 0, slots: 0, backlog: 2, backlog_since: ago(120) }
  show()
  expect(await screen.findByText(/No worker is connected: nothing runs/)).toBeTruthy()
  expect(screen.getByText(/executor --registries/)).toBeTruthy()
  expect(await screen.findByText('2 runs are late')).toBeTruthy()
})

it('leads a super admin to the first job, and makes the example', async () => {
  answers['/api/admin/overview'] = { ...overview, jobs: 0, enabled_jobs: 0 }
  answers['POST /api/admin/scheduler-jobs'] = { job: { id: 'job_9', name: 'first_example' } }
  const router = show()
  const welcome = within(await screen.findByRole('region', { name: 'Welcome' }))
  expect(welcome.getByRole('link', { name: 'Make the first job' }).getAttribute('href')).toBe('/jobs/new')
  fireEvent.click(welcome.getByRole('button', { name: 'Make an example' }))
  await waitFor(() => expect(router.state.location.pathname).toBe('/jobs/job_9'))
  expect(asked.find((a) => a.method === 'POST')?.body).toMatchObject({ name: 'first_example', template_type: 'test_scheduler', schedule: { interval_seconds: 60 } })
})

it('tells an admin who can make the first job', async () => {
  answers['/api/admin/overview'] = { ...overview, jobs: 0, enabled_jobs: 0 }
  show('admin')
  expect(await screen.findByText(/takes the role super admin/)).toBeTruthy()
  expect(screen.queryByRole('button', { name: 'Make an example' })).toBeNull()
})
