import { readFileSync } from 'node:fs'
import { expect, test } from './fixtures'

test('shows a run while it goes on, and lets it be cancelled', async ({ page, as, api, unique }) => {
  const id = await api.job({ name: unique('Slow'), template_type: 'test_scheduler', parameters: { message: 'Still here', duration_seconds: 60 }, schedule: { type: 'manual' } })
  const run = await api.run(id)
  await as('super_admin')
  await page.goto(`/runs/${run}`)
  await expect(page.getByText('Running').first()).toBeVisible()
  await expect(page.getByRole('log')).toContainText('Still here')
  await expect(page.getByRole('progressbar').first()).toBeVisible()
  await page.getByRole('button', { name: 'Cancel', exact: true }).click()
  await page.getByRole('dialog').getByLabel('Reason').fill('Not needed today')
  await page.getByRole('dialog').getByRole('button', { name: 'Cancel the run' }).click()
  // Nobody reloads: the page follows.
  await expect(page.getByText('Cancelled').first()).toBeVisible({ timeout: 20_000 })
  expect(await api.execution(run)).toMatchObject({ status: 'cancelled' })
})

test('tells why a run failed, its attempts and its parameters, and runs it again', async ({ page, as, api, unique }) => {
  const id = await api.job({
    name: unique('Stubborn'),
    template_type: 'test_scheduler',
    parameters: { fail: true },
    schedule: { type: 'manual' },
    retry_policy: { max_retries: 1, retry_delay_seconds: 0 },
  })
  const run = await api.run(id)
  await api.until(run, 'failed')
  await as('super_admin')
  await page.goto(`/runs/${run}`)
  await expect(page.getByText('its parameter fail is true', { exact: false }).first()).toBeVisible()
  await expect(page.getByRole('table', { name: /attempts/i }).getByRole('row')).toHaveCount(3)
  await page.getByRole('button', { name: 'Run again' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Start the run' }).click()
  await expect(page).not.toHaveURL(new RegExp(run))
  await expect(page).toHaveURL(/\/runs\/exec_/)
  await expect(page.getByText('Failed').first()).toBeVisible()
})

test('follows, filters, searches and hands out a log of 100,000 lines without freezing', async ({ page, as, api, unique }) => {
  test.setTimeout(120_000)
  const lines = 100_000
  const id = await api.job({ name: unique('Talkative'), template_type: 'test_scheduler', parameters: { log_lines: lines }, schedule: { type: 'manual' } })
  const run = await api.run(id)
  await api.until(run, 'success')
  await as('super_admin')
  // The browser itself says what kept it from answering.
  await page.addInitScript(() => {
    const long: number[] = []
    Object.assign(window, { longTasks: long })
    new PerformanceObserver((list) => long.push(...list.getEntries().map((e) => e.duration))).observe({ type: 'longtask', buffered: true })
  })
  await page.goto(`/runs/${run}`)
  const log = page.getByRole('log')
  await expect(page.getByText('100,001 lines')).toBeVisible({ timeout: 60_000 })
  const tasks = () => page.evaluate(() => Math.max(0, ...(window as unknown as { longTasks: number[] }).longTasks.splice(0)))
  const reading = await tasks()
  const search = page.getByLabel('Search the log')
  await search.pressSequentially('Line 77777 of', { delay: 30 })
  await expect(log.getByText('Line 77777 of 100000')).toBeVisible()
  await expect(page.getByText(/^(1 of )?1 line$/)).toBeVisible()
  await search.fill('')
  const errors = page.getByText('Errors 10,000')
  await errors.click()
  await expect(page.getByText('10,000 of 100,001 lines')).toBeVisible()
  await log.evaluate(async (box) => {
    for (let at = 0; at <= 20; at++) {
      box.scrollTop = (box.scrollHeight / 20) * at
      await new Promise((drawn) => requestAnimationFrame(drawn))
    }
  })
  await errors.click()
  const download = page.waitForEvent('download')
  await page.getByRole('button', { name: 'Download the log' }).click()
  const text = readFileSync(await (await download).path(), 'utf8')
  expect(text.trimEnd().split('\n')).toHaveLength(lines + 1)
  console.log(
    `a log of ${lines} lines: longest task ${Math.round(await tasks())} ms while it is searched, filtered and scrolled (aim: below 200), ${Math.round(reading)} ms while its page starts and it is read`,
  )
})

test('names, parameters and logs are text, whatever is in them', async ({ page, as, api, unique }) => {
  const name = `<img src=x onerror="alert(1)"> ${unique('markup')}`
  const line = '<script>alert(2)</script><b>bold</b>'
  const id = await api.job({ name, description: line, template_type: 'test_scheduler', parameters: { message: line }, labels: { k: '<i>v</i>' }, schedule: { type: 'manual' } })
  const run = await api.run(id)
  await api.until(run, 'success')
  page.on('dialog', () => expect('a script of somebody else ran').toBe(''))
  await as('super_admin')
  await page.goto(`/runs/${run}`)
  await expect(page.getByRole('log')).toContainText(line)
  await page.getByLabel('Search the log').fill('<b>bold')
  await expect(page.getByRole('log').locator('mark')).toHaveText('<b>bold')
  await page.goto(`/jobs/${id}`)
  await expect(page.getByRole('heading', { level: 1 })).toHaveText(name)
  await expect(page.getByText(line).first()).toBeVisible()
  await page.goto('/jobs?q=markup')
  await expect(page.getByRole('link', { name }).first()).toBeVisible()
  expect(await page.locator('main img[src="x"], main script, main b:text-is("bold"), main i:text-is("v")').count()).toBe(0)
})
