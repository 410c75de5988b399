import { act, configure, fireEvent, screen, waitFor, within } from '@testing-library/react'
import { describe, expect, test, vi } from 'vitest'
import type { Job } from '../../api/types'
import { type Answers, refusal, show } from './harness'
import { Component } from './index'
import { cleanup, job } from './sample'

// A loaded machine draws slowly.
configure({ asyncUtilTimeout: 10_000 })
vi.setConfig({ testTimeout: 40_000 })

const listed = (jobs: Job[], total = jobs.length) => Response.json({ jobs, total, page: 1, pages: Math.ceil(total / 20) })
const isList = (path: string) => path === '/api/admin/scheduler-jobs'

const list =
  (jobs: Job[], more: Answers = () => undefined): Answers =>
  (asked) =>
    more(asked) ?? (asked.method === 'GET' && isList(asked.url.pathname) ? listed(jobs) : undefined)

const lists = (asked: { url: URL }[]) => asked.filter((a) => isList(a.url.pathname)).map((a) => a.url.searchParams)

describe('the list of jobs', () => {
  test('asks for what its address says', async () => {
    const { asked } = show('/jobs?q=user&template=backup&template=restore&enabled=false&state=failing&label=team%3Dops&sort=name&limit=50&page=2', '/jobs', Component, list([job()]))
    await screen.findByRole('link', { name: 'Heartbeat' })
    const [first] = lists(asked)
    expect(first!.toString()).toBe('search=user&template_type=backup&template_type=restore&enabled=false&state=failing&label=team%3Dops&sort=name&page=2&limit=50&runs=14')
  })

  test('searches once the typing pauses, from the first page on', async () => {
    const { asked, router } = show('/jobs?page=3', '/jobs', Component, list([job()], ({ url }) => (isList(url.pathname) ? Response.json({ jobs: [job()], total: 60, page: 3, pages: 3 }) : undefined)))
    const box = await screen.findByRole('searchbox', { name: 'Search jobs' })
    await screen.findByRole('link', { name: 'Heartbeat' })
    for (const text of ['u', 'us', 'use', 'user ']) fireEvent.change(box, { target: { value: text } })
    await waitFor(() => expect(router.state.location.search).toBe('?q=user'))
    expect((box as HTMLInputElement).value).toBe('user ') // what is typed stays as it is
    await waitFor(() => expect(lists(asked).at(-1)!.get('search')).toBe('user'))
    expect(lists(asked).map((q) => q.get('search'))).toEqual([null, 'user'])
  })

  test('takes over the search of an address that was gone back to', async () => {
    const { router } = show('/jobs?q=first', '/jobs', Component, list([job()]))
    const box = (await screen.findByRole('searchbox', { name: 'Search jobs' })) as HTMLInputElement
    expect(box.value).toBe('first')
    await act(() => router.navigate('/jobs?q=second'))
    expect(box.value).toBe('second')
  })

  test('sorts by the head of a column', async () => {
    const { asked } = show('/jobs', '/jobs', Component, list([job()]))
    const head = () => screen.getByRole('columnheader', { name: 'Name' })
    await screen.findByRole('link', { name: 'Heartbeat' })
    expect(head().getAttribute('aria-sort')).toBeNull()
    fireEvent.click(within(head()).getByRole('button'))
    await waitFor(() => expect(head().getAttribute('aria-sort')).toBe('ascending'))
    fireEvent.click(within(head()).getByRole('button'))
    await waitFor(() => expect(head().getAttribute('aria-sort')).toBe('descending'))
    await waitFor(() => expect(lists(asked).map((q) => q.get('sort'))).toEqual(['-created_at', 'name', '-name']))
  })

  test('offers a working example when there is no job', async () => {
    show('/jobs', '/jobs', Component, list([]))
    const link = await screen.findByRole('link', { name: 'Start with a test job' })
    expect(link.getAttribute('href')).toBe('/jobs/new?template=test_scheduler')
  })

  test('clears filters that nothing matches', async () => {
    const { router } = show('/jobs?q=nothing&state=ok&sort=name', '/jobs', Component, list([]))
    await screen.findByText('No job matches')
    fireEvent.click(screen.getAllByRole('button', { name: 'Clear filters' })[0]!)
    await waitFor(() => expect(router.state.location.search).toBe('?sort=name'))
  })

  test('goes back to the last page when its own is gone', async () => {
    const { router } = show('/jobs?page=9', '/jobs', Component, ({ url }) =>
      isList(url.pathname) ? Response.json({ jobs: url.searchParams.get('page') === '2' ? [job()] : [], total: 21, page: 9, pages: 2 }) : undefined,
    )
    await screen.findByRole('link', { name: 'Heartbeat' })
    expect(router.state.location.search).toBe('?page=2')
  })
})

describe('the switch of a row', () => {
  test('moves at once, and back when the registry refuses', async () => {
    let answer: (response: Response) => void = () => {}
    const { asked } = show(
      '/jobs',
      '/jobs',
      Component,
      list([job()], ({ method }) => (method === 'PUT' ? new Promise<Response>((done) => (answer = done)) : undefined)),
    )
    const toggle = (await screen.findByRole('switch', { name: 'Enabled: Heartbeat' })) as HTMLInputElement
    fireEvent.click(toggle)
    await waitFor(() => expect(toggle.checked).toBe(false))
    await waitFor(() => expect(asked.find((a) => a.method === 'PUT')?.body).toEqual({ enabled: false, version: 7 }))
    expect(await screen.findByText('paused')).toBeTruthy()
    answer(refusal(412, 'VERSION_MISMATCH', 'the job was changed by somebody else'))
    await waitFor(() => expect(toggle.checked).toBe(true))
    expect(await screen.findByText(/Somebody else changed it meanwhile/)).toBeTruthy()
  })

  test('is a word for those who may not', async () => {
    show('/jobs', '/jobs', Component, list([job(), cleanup({ enabled: false })]), { role: 'admin' })
    await screen.findByRole('link', { name: 'Heartbeat' })
    expect(screen.queryByRole('switch')).toBeNull()
    const rows = within(screen.getByRole('table')).getAllByRole('row').map((row) => within(row).queryAllByRole('cell')[1]?.textContent)
    expect(rows).toEqual([undefined, 'On', 'Paused'])
  })
})

const started = () => Response.json({ execution_id: 'exec_9', message: 'Job started' }, { status: 202 })

describe('a run from the menu of a row', () => {
  const run = async (name: string) => {
    fireEvent.click(await screen.findByRole('button', { name: `Actions for ${name}` }))
    fireEvent.click(await screen.findByRole('menuitem', { name: 'Run now' }))
  }

  test('that destroys nothing starts at once', async () => {
    const { asked, router } = show('/jobs', '/jobs', Component, list([job()], ({ url }) => (url.pathname.endsWith('/run') ? started() : undefined)))
    await screen.findByText('Test Scheduler', { selector: 'td span' })
    await run('Heartbeat')
    fireEvent.click(await screen.findByRole('button', { name: 'Show the run' }))
    await waitFor(() => expect(router.state.location.pathname).toBe('/runs/exec_9'))
    expect(asked.find((a) => a.url.pathname === '/api/admin/scheduler-jobs/job_1/run')!.headers.get('Idempotency-Key')).toMatch(/^[0-9a-f]{32}$/)
  })

  test('that deletes asks first', async () => {
    const { asked } = show('/jobs', '/jobs', Component, list([cleanup()], ({ url }) => (url.pathname.endsWith('/run') ? started() : undefined)))
    await screen.findByText('Database Cleanup', { selector: 'td span' })
    await run('Old users')
    expect(await screen.findByText('This run really deletes')).toBeTruthy()
    expect(asked.some((a) => a.url.pathname.endsWith('/run'))).toBe(false)
    fireEvent.click(screen.getByRole('button', { name: 'Start the run' }))
    await waitFor(() => expect(asked.some((a) => a.url.pathname === '/api/admin/scheduler-jobs/job_2/run')).toBe(true))
  })

  test('that is refused tells the run that is in the way', async () => {
    const busy = () => refusal(409, 'EXECUTION_IN_PROGRESS', 'not over', { metadata: { execution_id: 'exec_5' } })
    show('/jobs', '/jobs', Component, list([job()], ({ url }) => (url.pathname.endsWith('/run') ? busy() : undefined)))
    await screen.findByText('Test Scheduler', { selector: 'td span' })
    await run('Heartbeat')
    expect((await screen.findByRole('link', { name: 'Show that run' })).getAttribute('href')).toBe('/runs/exec_5')
  })
})

describe('several jobs at once', () => {
  const choose = async (...names: string[]) => {
    for (const name of names) fireEvent.click(await screen.findByRole('checkbox', { name: `Select ${name}` }))
  }

  test('are paused one after the other, and a refusal is told beside its job', async () => {
    const { asked } = show(
      '/jobs',
      '/jobs',
      Component,
      list([job(), cleanup()], ({ method, url }) =>
        method !== 'PUT' ? undefined : url.pathname.endsWith('job_1') ? refusal(503, 'UNAVAILABLE', 'the store is away') : Response.json({ job: cleanup({ enabled: false, version: 8 }) }),
      ),
    )
    await choose('Heartbeat', 'Old users')
    fireEvent.click(within(screen.getByRole('toolbar')).getByRole('button', { name: 'Pause' }))
    fireEvent.click(await screen.findByRole('button', { name: 'Pause 2 jobs' }))
    expect(await screen.findByText('1 job paused, 1 not.')).toBeTruthy()
    const row = (name: string) => within(screen.getByRole('dialog')).getByRole('row', { name: new RegExp(name) })
    expect(row('Heartbeat').textContent).toContain('the store is away')
    expect(row('Old users').textContent).toContain('paused')
    // What did not work stays selected, and can be tried again alone.
    fireEvent.click(screen.getByRole('button', { name: 'Try the rest again' }))
    await waitFor(() => expect(asked.filter((a) => a.method === 'PUT').map((a) => a.url.pathname.split('/').at(-1))).toEqual(['job_1', 'job_2', 'job_1']))
    await waitFor(() => expect(screen.getByText('1 selected')).toBeTruthy())
  })

  test('make dry runs of those that delete, unless told otherwise', async () => {
    const { asked } = show('/jobs', '/jobs', Component, list([job(), cleanup()], ({ url }) => (url.pathname.endsWith('/run') ? started() : undefined)))
    await screen.findByText('Database Cleanup', { selector: 'td span' })
    await choose('Heartbeat', 'Old users')
    fireEvent.click(within(screen.getByRole('toolbar')).getByRole('button', { name: 'Run now' }))
    expect(await screen.findByText('1 of them really deletes')).toBeTruthy()
    fireEvent.click(screen.getByRole('button', { name: 'Start 2 jobs' }))
    expect(await screen.findByText('2 jobs started.')).toBeTruthy()
    const bodies = asked.filter((a) => a.url.pathname.endsWith('/run')).map((a) => a.body)
    expect(bodies).toEqual([{}, { parameters: { dryRun: true } }])
  })

  test('cannot be switched by those who may only run', async () => {
    show('/jobs', '/jobs', Component, list([job(), cleanup()]), { role: 'admin' })
    await screen.findByText('Database Cleanup', { selector: 'td span' })
    await choose('Old users')
    const bar = within(screen.getByRole('toolbar'))
    expect(bar.queryByRole('button', { name: 'Pause' })).toBeNull()
    fireEvent.click(bar.getByRole('button', { name: 'Run now' }))
    const dry = (await screen.findByRole('switch', { name: 'Only dry runs of these' })) as HTMLInputElement
    expect([dry.checked, dry.disabled]).toEqual([true, true])
  })
})
