import { MantineProvider } from '@mantine/core'
import { QueryClient, QueryClientProvider } from '@tanstack/react-query'
import { fireEvent, render, screen, waitFor, within } from '@testing-library/react'
import { createMemoryRouter, RouterProvider } from 'react-router'
import { afterEach, describe, expect, it, vi } from 'vitest'
import type { Role } from '../../api/types'
import { SessionProvider } from '../../shell/session'
import { Component, usernameProblem } from './index'

type Call = { method: string; path: string; body: unknown }

/** The screen before a registry that answers as told, and what it was asked. */
function show(role: Role, answer: (call: Call) => { status: number; body: unknown }) {
  const calls: Call[] = []
  vi.stubGlobal('fetch', async (input: Request) => {
    const text = await input.text()
    const call = { method: input.method, path: new URL(input.url).pathname, body: text ? JSON.parse(text) : undefined }
    calls.push(call)
    const { status, body } = answer(call)
    return new Response(JSON.stringify(body), { status, headers: { 'Content-Type': 'application/json' } })
  })
  const router = createMemoryRouter([{ path: '*', Component }], { initialEntries: ['/users'] })
  render(
    <MantineProvider env="test">
      <QueryClientProvider client={new QueryClient({ defaultOptions: { queries: { retry: false } } })}>
        <SessionProvider session={{ username: 'ann', role, expires_at: null, manual_runs_per_hour: 10, max_jobs: 100, version: '1' }}>
          <RouterProvider router={router} />
        </SessionProvider>
      </QueryClientProvider>
    </MantineProvider>,
  )
  return calls
}

const account = (username: string, role: Role) => ({ username, role, created_at: '2026-11-23T08:00:00Z', has_password: true })
const users = { users: [account('ann', 'super_admin'), account('bob', 'admin')] }

// Finding by role in jsdom is slow on a busy machine.
vi.setConfig({ testTimeout: 20_000 })
afterEach(() => vi.unstubAllGlobals())

describe('the users', () => {
  it('are changed by others than themselves, and the own row says why', async () => {
    show('super_admin', () => ({ status: 200, body: users }))
    expect(await screen.findByRole('button', { name: 'Change bob' })).toBeTruthy()
    expect(screen.queryByRole('button', { name: 'Change ann' })).toBeNull()
    expect(screen.getByText(/This is you/).textContent).toContain('for another super admin')
  })

  it('are not asked for by those who may not see them', () => {
    const calls = show('admin', () => ({ status: 403, body: {} }))
    expect(screen.getByText('Users are looked after by super admins')).toBeTruthy()
    expect(calls).toEqual([])
  })

  it('are added only with a name and a password that will do, and a refusal stands beside its field', async () => {
    const calls = show('super_admin', (call) =>
      call.method === 'POST'
        ? { status: 409, body: { message: 'taken', details: [{ fieldViolations: [{ field: 'username', description: 'is taken by another user' }] }] } }
        : { status: 200, body: users },
    )
    await screen.findByRole('button', { name: 'Change bob' })
    fireEvent.click(screen.getByRole('button', { name: 'Add user' }))
    const dialog = within(await screen.findByRole('dialog'))
    fireEvent.change(dialog.getByLabelText(/Username/), { target: { value: '-carl' } })
    fireEvent.click(dialog.getByRole('button', { name: 'Add user' }))
    expect(await dialog.findByText(/beginning with a letter or digit/)).toBeTruthy()
    expect(dialog.getByText(/Too short: 12 more characters/)).toBeTruthy()
    expect(calls.filter((c) => c.method === 'POST')).toEqual([])

    fireEvent.change(dialog.getByLabelText(/Username/), { target: { value: 'bob' } })
    fireEvent.click(dialog.getByRole('button', { name: 'Generate one' }))
    fireEvent.click(dialog.getByRole('button', { name: 'Add user' }))
    expect(await dialog.findByText('It is taken by another user')).toBeTruthy()
    const [sent] = calls.filter((c) => c.method === 'POST')
    expect(sent).toMatchObject({ path: '/api/admin/users', body: { username: 'bob', role: 'admin' } })
    // What was typed is still there.
    expect((dialog.getByLabelText(/Username/) as HTMLInputElement).value).toBe('bob')
  })

  it('are removed only when their name was typed', async () => {
    const calls = show('super_admin', (call) => ({ status: 200, body: call.method === 'DELETE' ? { message: 'User removed' } : users }))
    fireEvent.click(await screen.findByRole('button', { name: 'Change bob' }))
    fireEvent.click(await screen.findByRole('menuitem', { name: 'Remove' }))
    const dialog = within(await screen.findByRole('dialog'))
    const button = dialog.getByRole('button', { name: 'Remove bob' }) as HTMLButtonElement
    fireEvent.change(dialog.getByLabelText('Type bob to confirm'), { target: { value: 'bo' } })
    expect(button.disabled).toBe(true)
    fireEvent.change(dialog.getByLabelText('Type bob to confirm'), { target: { value: 'bob' } })
    expect(button.disabled).toBe(false)
    fireEvent.click(button)
    await waitFor(() => expect(calls).toContainEqual({ method: 'DELETE', path: '/api/admin/users/bob', body: undefined }))
    await waitFor(() => expect(screen.queryByRole('dialog')).toBeNull())
  })
})

describe('a username', () => {
  it.each([
    ['ann', true],
    ['9.a_b@c-d', true],
    ['', false],
    ['.ann', false],
    ['ann lee', false],
    ['änn', false],
    ['a'.repeat(100), true],
    ['a'.repeat(101), false],
  ])('%j is fine: %s', (name, fine) => {
    expect(usernameProblem(name) === undefined).toBe(fine)
  })
})
