import { expect, test } from './fixtures'

test('shows at a glance what runs, what failed and what comes', async ({ page, as, api, unique }) => {
  const [slow, broken, next] = [unique('Marathon'), unique('Broken'), unique('Soon')]
  const running = await api.run(await api.job({ name: slow, template_type: 'test_scheduler', parameters: { duration_seconds: 45 }, schedule: { type: 'manual' } }))
  const failed = await api.run(
    await api.job({ name: broken, template_type: 'test_scheduler', parameters: { fail: true }, schedule: { type: 'manual' }, retry_policy: { max_retries: 0 } }),
  )
  await api.job({ name: next, template_type: 'test_scheduler', schedule: { interval_seconds: 30 } })
  await api.until(failed, 'failed')
  await as('super_admin')
  await page.goto('/')
  await expect(page.getByRole('region', { name: 'Going on now' }).getByText(slow)).toBeVisible()
  await expect(page.getByRole('region', { name: 'Failed or late' }).getByText(broken)).toBeVisible()
  const upcoming = page.getByRole('region', { name: 'What comes next' })
  await expect(upcoming.getByText(next).first()).toBeVisible()
  await expect(upcoming.getByText(/^00:\d\d$/).first()).toBeVisible()
  await expect(page.getByRole('region', { name: 'Workers' }).getByText('executor-1')).toBeVisible()
  await expect(page.getByRole('region', { name: 'Today' })).toContainText('%')

  await page.getByRole('button', { name: `Cancel ${slow}` }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Cancel the run' }).click()
  await expect(page.getByRole('region', { name: 'Going on now' }).getByText(slow)).toHaveCount(0, { timeout: 20_000 })
  await api.until(running, 'cancelled')
})

test('holds still while it is paused', async ({ page, as }) => {
  await page.clock.install()
  await as('admin')
  await page.goto('/')
  await expect(page.getByRole('region', { name: 'Workers' }).getByText('executor-1')).toBeVisible()
  await page.getByRole('switch', { name: 'Live' }).press('Space')
  await page.waitForLoadState('networkidle') // an answer that is on its way may still come
  let asked = 0
  page.on('request', () => asked++)
  await page.clock.runFor(30_000)
  expect(asked).toBe(0)
  await page.getByRole('switch', { name: 'Live' }).press('Space')
  await page.clock.runFor(30_000)
  await expect.poll(() => asked).toBeGreaterThan(0)
})
