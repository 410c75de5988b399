import { MantineProvider } from '@mantine/core'
import { QueryClient, QueryClientProvider } from '@tanstack/react-query'
import { act, cleanup, configure, fireEvent, render, screen, waitFor } from '@testing-library/react'
import { MemoryRouter } from 'react-router'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { Execution, LogLine, WatchEvent } from '../../api/types'
import { LiveRun } from './live-run'
import { execution } from './sample'
import { backoff, hopeless, stillTelling } from './use-run'
import { ApiError } from '../../api/client'

// A loaded machine draws slowly.
configure({ asyncUtilTimeout: 10_000 })
vi.setConfig({ testTimeout: 30_000 })

const encoder = new TextEncoder()
const line = (message: string, level = 'INFO'): LogLine => ({ message, level, timestamp: '2026-03-01T10:00:00Z' })

/** A stream of events that the test feeds by hand, and what was asked for. */
class Registry {
  asked: string[] = []
  streams: ReadableStreamDefaultController<Uint8Array>[] = []
  run: Execution = execution()
  refusal: Response | null = null

  fetch = (input: Request | string): Promise<Response> => {
    const url = typeof input === 'string' ? input : input.url
    this.asked.push(url)
    if (this.refusal) return Promise.resolve(this.refusal)
    if (!url.includes('/events')) return Promise.resolve(Response.json({ execution: this.run, logs: [] }))
    return Promise.resolve(new Response(new ReadableStream({ start: (stream) => void this.streams.push(stream) })))
  }
  async send(event: Partial<WatchEvent>) {
    const whole: WatchEvent = { execution: null, logs: [], first_line: 0, over: false, ...event }
    if (event.execution) this.run = event.execution
    await act(async () => {
      this.streams.at(-1)!.enqueue(encoder.encode(`${JSON.stringify({ result: whole })}\n`))
      await new Promise((done) => requestAnimationFrame(done))
      await new Promise((done) => requestAnimationFrame(done))
    })
  }
  async breakOff() {
    await act(async () => {
      this.streams.at(-1)!.close()
      await Promise.resolve()
    })
  }
}

let registry: Registry
beforeEach(() => {
  registry = new Registry()
  vi.stubGlobal('fetch', registry.fetch)
  // jsdom lays nothing out: the log and its lines get sizes, so that some are in sight.
  vi.spyOn(Element.prototype, 'clientHeight', 'get').mockReturnValue(320)
  vi.spyOn(HTMLElement.prototype, 'offsetHeight', 'get').mockReturnValue(20)
  vi.spyOn(Element.prototype, 'clientWidth', 'get').mockReturnValue(600)
})
afterEach(() => {
  cleanup()
  vi.unstubAllGlobals()
  vi.restoreAllMocks()
})

function show(onEnd?: (run: Execution) => void) {
  return render(
    <MantineProvider>
      <QueryClientProvider client={new QueryClient()}>
        <MemoryRouter>
          <LiveRun id="exec_1" onEnd={onEnd} />
        </MemoryRouter>
      </QueryClientProvider>
    </MantineProvider>,
  )
}

const running = execution({ status: 'running', completed_at: null, duration_seconds: null, progress: { done: 25, total: 100, message: 'Reading' } })

describe('a live run', () => {
  it('shows state, progress and log as they come, and tells once when it is over', async () => {
    const onEnd = vi.fn()
    show(onEnd)
    await waitFor(() => expect(registry.streams.length).toBe(1))
    await registry.send({ execution: running, logs: [line('<b>one</b>')] })
    expect(screen.getByText('Running')).toBeTruthy()
    expect(screen.getByText(/25 of 100 \(25 %\) · Reading/)).toBeTruthy()
    expect(screen.getByText('<b>one</b>')).toBeTruthy()
    expect(screen.getByRole('progressbar').getAttribute('aria-valuenow')).toBe('25')
    expect(onEnd).not.toHaveBeenCalled()

    await registry.send({ execution: execution({ duration_seconds: 3 }), logs: [line('two')], first_line: 1 })
    expect(screen.getByText('Succeeded after 3 s.')).toBeTruthy()
    expect(onEnd).not.toHaveBeenCalled()
    await registry.send({ over: true })
    await waitFor(() => expect(onEnd).toHaveBeenCalledTimes(1))
    expect(onEnd.mock.calls[0]![0]).toMatchObject({ id: 'exec_1', status: 'success' })
    expect(screen.getByText('2 lines')).toBeTruthy()
  })

  it('takes a broken stream up again after the lines that it has', async () => {
    show()
    await waitFor(() => expect(registry.streams.length).toBe(1))
    await registry.send({ execution: running, logs: [line('one'), line('two')] })
    await registry.breakOff()
    await waitFor(() => expect(screen.getByText(/Not live at the moment: The live view broke off/)).toBeTruthy())
    fireEvent.click(screen.getByRole('button', { name: 'Try now' }))
    await waitFor(() => expect(registry.streams.length).toBe(2))
    expect(registry.asked.filter((url) => url.includes('/events')).map((url) => url.replace(/.*\?/, ''))).toEqual(['from_line=0', 'from_line=2'])
    await registry.send({ logs: [line('three')], first_line: 2 })
    expect(screen.queryByText(/Not live/)).toBeNull()
    expect(screen.getByText(/^3 lines/)).toBeTruthy()
  })

  it('filters by level and finds text', async () => {
    show()
    await waitFor(() => expect(registry.streams.length).toBe(1))
    await registry.send({ execution: running, logs: [line('connected'), line('connection lost', 'ERROR'), line('done')] })
    fireEvent.change(screen.getByRole('textbox', { name: 'Search the log' }), { target: { value: 'CONNECT' } })
    await waitFor(() => expect(screen.getByText('1 of 2 lines')).toBeTruthy())
    expect([...document.querySelectorAll('mark')].map((m) => m.textContent)).toEqual(['connect', 'connect'])
    fireEvent.click(screen.getByRole('button', { name: 'Next hit' }))
    expect(screen.getByText('2 of 2 lines')).toBeTruthy()
    fireEvent.click(screen.getByRole('button', { name: 'Next hit' }))
    expect(screen.getByText('1 of 2 lines')).toBeTruthy()
    fireEvent.click(screen.getByRole('checkbox', { name: 'Errors 1' }))
    await waitFor(() => expect(screen.queryByText('done')).toBeNull())
    expect(screen.getByText(/^1 of 3 lines/)).toBeTruthy()
  })

  it('says when there is no such run, and asks no more', async () => {
    registry.refusal = Response.json({ message: 'there is no execution exec_1' }, { status: 404 })
    show()
    await waitFor(() => expect(screen.getByText('there is no execution exec_1')).toBeTruthy())
    expect(registry.asked.length).toBe(1)
  })
})

describe('asking again', () => {
  it('waits longer each time, but never long', () => {
    expect([0, 1, 2, 3, 10].map(backoff)).toEqual([1000, 2000, 4000, 8000, 30_000])
  })
  it.each([
    [new ApiError(404, 'gone'), true],
    [new ApiError(403, 'not you'), true],
    [new ApiError(401, 'log in'), false],
    [new ApiError(429, 'too many'), false],
    [new ApiError(0, 'no answer'), false],
    [new Error('odd'), false],
  ])('%o is hopeless: %s', (error, want) => expect(hopeless(error)).toBe(want))
})

describe('stillTelling', () => {
  const end = new Date('2026-03-01T10:00:00Z').getTime()
  const told = (status: 'pending' | 'success') => execution({ completed_at: '2026-03-01T10:00:00Z', notifications: [{ execution_id: 'e', event: 'failed', template_type: 'email_notification', status, error: null }] })
  it.each<[string, Execution | undefined, number, boolean]>([
    ['nothing known', undefined, end, false],
    ['not over', execution({ completed_at: null }), end, false],
    ['just over', execution({ completed_at: '2026-03-01T10:00:00Z' }), end + 5000, true],
    ['over', told('success'), end + 20_000, false],
    ['a mail on its way', told('pending'), end + 20_000, true],
    ['a mail that never goes', told('pending'), end + 700_000, false],
  ])('%s', (_, run, now, want) => expect(stillTelling(run, now)).toBe(want))
})
