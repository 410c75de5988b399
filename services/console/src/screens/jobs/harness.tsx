// A screen as it stands in the console, with a registry that tests answer for.
import { MantineProvider } from '@mantine/core'
import { Notifications, notifications } from '@mantine/notifications'
import { QueryClient, QueryClientProvider } from '@tanstack/react-query'
import { render } from '@testing-library/react'
import { createMemoryRouter, RouterProvider } from 'react-router'
import { vi } from 'vitest'
import type { Role } from '../../api/types'
import { SessionProvider } from '../../shell/session'
import { templates } from './sample'

export type Asked = { method: string; url: URL; headers: Headers; body: unknown }
/** What the registry answers; undefined leaves it to the usual answers. */
export type Answers = (asked: Asked) => Response | Promise<Response> | undefined

/** A refusal as the registry words it. */
export const refusal = (status: number, reason: string, message: string, extra: { metadata?: Record<string, string>; retryAfter?: number } = {}) =>
  Response.json(
    { message, details: [{ '@type': 'type.googleapis.com/google.rpc.ErrorInfo', reason, metadata: extra.metadata }] },
    { status, headers: extra.retryAfter ? { 'Retry-After': String(extra.retryAfter) } : {} },
  )

/** Shows a screen at an address, and keeps what was asked of the registry. */
export function show(path: string, route: string, Component: () => React.ReactNode, answers: Answers, { role = 'super_admin', perHour = 10 }: { role?: Role; perHour?: number } = {}) {
  const asked: Asked[] = []
  vi.stubGlobal('fetch', async (request: Request) => {
    const text = await request.text()
    const one = { method: request.method, url: new URL(request.url), headers: request.headers, body: text ? JSON.parse(text) : undefined }
    asked.push(one)
    const answer = await answers(one)
    if (answer) return answer
    if (one.url.pathname === '/api/admin/job-templates') return Response.json({ templates })
    return refusal(404, 'NOT_FOUND', `no ${one.url.pathname}`)
  })
  notifications.clean()
  const router = createMemoryRouter(
    [
      { path: route, Component },
      { path: '*', element: <p>elsewhere</p> },
    ],
    { initialEntries: [path] },
  )
  const session = { username: 'ann', role, expires_at: null, manual_runs_per_hour: perHour, max_jobs: 0, version: 'test' }
  const queries = new QueryClient({ defaultOptions: { queries: { retry: false } } })
  render(
    <MantineProvider env="test">
      <QueryClientProvider client={queries}>
        <SessionProvider session={session}>
          <Notifications />
          <RouterProvider router={router} />
        </SessionProvider>
      </QueryClientProvider>
    </MantineProvider>,
  )
  return { asked, router, queries }
}
