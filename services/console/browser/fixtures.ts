// What the tests share: somebody who is logged in, the API beside the browser, and
// an eye on what no page may do.
import { AxeBuilder } from '@axe-core/playwright'
import { test as base, expect, type Page } from '@playwright/test'
import { type Local, local } from './system'

export { expect }

type Json = Record<string, unknown>

/** The REST API, with a person's token. */
export class Api {
  constructor(
    private readonly http: string,
    private readonly token: string,
  ) {}

  async call<T = Json>(method: string, path: string, body?: unknown): Promise<T> {
    const response = await fetch(this.http + path, {
      method,
      headers: { Authorization: `Bearer ${this.token}`, 'Content-Type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
    })
    const text = await response.text()
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`)
    return JSON.parse(text) as T
  }

  async job(job: Json): Promise<string> {
    return (await this.call<{ job: { id: string } }>('POST', '/api/admin/scheduler-jobs', job)).job.id
  }

  async run(job: string, parameters?: Json): Promise<string> {
    return (await this.call<{ execution_id: string }>('POST', `/api/admin/scheduler-jobs/${job}/run`, { parameters })).execution_id
  }

  async execution(id: string): Promise<Json & { status: string }> {
    return (await this.call<{ execution: Json & { status: string } }>('GET', `/api/admin/job-executions/${id}`)).execution
  }

  /** Waits until a run has a state. */
  async until(id: string, ...statuses: string[]) {
    await expect.poll(async () => (await this.execution(id)).status, { timeout: 30_000 }).toMatch(new RegExp(`^(${statuses.join('|')})$`))
  }
}

type Fixtures = {
  system: Local
  api: Api
  /** A page of the super admin's; see as. */
  page: Page
  /** Logs the page's context in. */
  as: (role: keyof Local['users']) => Promise<void>
  /** A name that no other test uses. */
  unique: (name: string) => string
  /** Fails the test when a page breaks the policy: errors, foreign requests. */
  watched: void
}

let made = 0

export const test = base.extend<Fixtures>({
  system: async ({}, use) => use(local()),
  baseURL: async ({ system }, use) => use(system.http),
  api: async ({ system }, use) => use(new Api(system.http, system.users.super_admin.token)),
  as: async ({ context, system }, use) =>
    use(async (role) => {
      const { username, password } = system.users[role]
      const answer = await context.request.post(`${system.http}/api/auth/session`, { data: { username, password } })
      expect(answer.status()).toBe(200)
    }),
  unique: async ({}, use) => use((name) => `${name} ${process.pid}.${++made}`),
  watched: [
    async ({ page, system }, use) => {
      const wrong: string[] = []
      page.on('pageerror', (error) => wrong.push(`error: ${error.message}`))
      page.on('console', (message) => {
        // That a request was refused is said on the page, and is what some tests are about.
        if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) wrong.push(`console: ${message.text()}`)
      })
      page.on('request', (request) => {
        const url = new URL(request.url())
        if (url.protocol.startsWith('http') && url.origin !== system.http) wrong.push(`request to ${url.origin}`)
      })
      await use()
      expect(wrong).toEqual([])
    },
    { auto: true },
  ],
})

/** Takes a picture for people to look at. */
export const shot = (page: Page, name: string) => page.screenshot({ path: `browser/shots/${name}.png`, fullPage: true, animations: 'disabled' })

/** Expects no serious or critical finding of axe. */
export async function accessible(page: Page) {
  const { violations } = await new AxeBuilder({ page }).analyze()
  const grave = violations
    .filter((v) => v.impact === 'serious' || v.impact === 'critical')
    .map((v) => `${v.id}: ${v.help}\n${v.nodes.map((n) => `  ${n.target.join(' ')} — ${n.failureSummary?.split('\n').slice(1).join(' ')}`).join('\n')}`)
  expect(grave, grave.join('\n')).toEqual([])
}

/** Waits until nothing on the page loads any more. */
export async function settled(page: Page) {
  await expect(page.getByRole('heading', { level: 1 })).toBeVisible()
  await expect(page.getByRole('status', { name: 'Loading' })).toHaveCount(0)
}

/** Sets what the system prefers; a page that was not told otherwise follows it. */
export async function colours(page: Page, scheme: 'light' | 'dark') {
  await page.emulateMedia({ colorScheme: scheme, reducedMotion: 'reduce' })
  if (page.url().startsWith('http')) await expect(page.locator('html')).toHaveAttribute('data-mantine-color-scheme', scheme)
}
