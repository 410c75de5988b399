// Every screen, as people with other eyes, other devices and other tastes see it.
import { accessible, Api, colours, expect, settled, shot, test } from './fixtures'
import { local } from './system'

/** What the screens show: a job with runs of several ends. */
type Shown = { job: string; success: string; failed: string }

async function prepare(api: Api, name: string): Promise<Shown> {
  const job = await api.job({
    name,
    description: 'Shows what a job looks like that did not always end well',
    template_type: 'test_scheduler',
    schedule: { cron: '30 2 * * *', timezone: 'Europe/Berlin' },
    retry_policy: { max_retries: 0 },
    overlap_policy: 'allow',
    labels: { team: 'platform' },
  })
  const runs: string[] = []
  for (const parameters of [{ message: 'First' }, { fail: true }, { duration_seconds: 0.4, log_lines: 25 }]) {
    const run = await api.run(job, parameters)
    await api.until(run, 'success', 'failed')
    runs.push(run)
  }
  return { job, success: runs[2]!, failed: runs[1]! }
}

let shown: Shown
test.beforeAll(async () => {
  const { http, users } = local()
  shown = await prepare(new Api(http, users.super_admin.token), `Nightly check ${process.pid}`)
})

const screens: [name: string, path: () => string][] = [
  ['home', () => '/'],
  ['jobs', () => '/jobs'],
  ['jobs-none', () => '/jobs?q=there+is+no+such+job'],
  ['gallery', () => '/jobs/new'],
  ['editor', () => '/jobs/new?template=database_cleanup'],
  ['editor-mail', () => '/jobs/new?template=email_notification'],
  ['edit', () => `/jobs/${shown.job}/edit`],
  ['job', () => `/jobs/${shown.job}`],
  ['run', () => `/runs/${shown.success}`],
  ['run-failed', () => `/runs/${shown.failed}`],
  ['templates', () => '/templates'],
  ['template', () => '/templates?type=database_cleanup'],
  ['workers', () => '/workers'],
  ['audit', () => '/audit'],
  ['users', () => '/users'],
  ['account', () => '/account'],
  ['missing', () => '/no/such/page'],
]

for (const [name, path] of screens) {
  test(`${name}: both colours are accessible, and it fits a phone`, async ({ page, as }) => {
    await as('super_admin')
    await colours(page, 'light')
    await page.goto(path())
    await settled(page)
    await accessible(page)
    await shot(page, `${name}-light`)

    await colours(page, 'dark')
    await accessible(page)
    await shot(page, `${name}-dark`)

    await colours(page, 'light')
    await page.setViewportSize({ width: 390, height: 844 })
    await shot(page, `${name}-phone`)
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390)
  })
}

test('login is accessible, and fits a phone', async ({ page }) => {
  await page.goto('/login')
  await settled(page)
  for (const scheme of ['light', 'dark'] as const) {
    await colours(page, scheme)
    await accessible(page)
    await shot(page, `login-${scheme}`)
  }
  await page.setViewportSize({ width: 390, height: 844 })
  await shot(page, 'login-phone')
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390)
})
