import { expect, test } from './fixtures'

test('runs a job with other parameters for once, and shows its history', async ({ page, as, api, unique }) => {
  const name = unique('Exercised')
  const id = await api.job({ name, template_type: 'test_scheduler', schedule: { interval_seconds: 86400 }, retry_policy: { max_retries: 0 } })
  await as('super_admin')
  await page.goto(`/jobs/${id}`)
  await expect(page.getByRole('heading', { level: 1, name })).toBeVisible()
  await expect(page.getByText('Every 1 d', { exact: false }).first()).toBeVisible()
  await page.getByRole('button', { name: 'Run now' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Start the run' }).click()
  await expect(page).toHaveURL(/\/runs\/exec_/)
  const run = page.url().split('/').pop()!
  await api.until(run, 'success')
  await expect(page.getByText('Success').first()).toBeVisible()

  const failed = await api.run(id, { fail: true })
  await api.until(failed, 'failed')
  await page.goto(`/jobs/${id}`)
  const runs = page.getByRole('tabpanel', { name: 'Runs' })
  await expect(runs.getByText('Success').first()).toBeVisible()
  await expect(runs.getByText('Failed').first()).toBeVisible()

  await page.getByRole('tab', { name: 'Statistics' }).click()
  await expect(page).toHaveURL(/tab=statistics/)
  await expect(page.getByRole('tabpanel', { name: 'Statistics' }).getByText('50 %').first()).toBeVisible({ timeout: 20_000 })

  await page.getByRole('tab', { name: 'Upcoming' }).click()
  await expect(page.getByRole('tabpanel', { name: 'Upcoming' }).getByRole('time').or(page.getByRole('tabpanel', { name: 'Upcoming' }).locator('time')).first()).toBeVisible()

  await api.call('PUT', `/api/admin/scheduler-jobs/${id}`, { description: 'Changed in between' })
  await page.getByRole('tab', { name: 'Changes' }).click()
  await expect(page.getByRole('tabpanel', { name: 'Changes' }).getByText('Changed in between').first()).toBeVisible()
})

test('a run that must not overlap says which one it waits for', async ({ page, as, api, unique }) => {
  const id = await api.job({ name: unique('Alone'), template_type: 'test_scheduler', parameters: { duration_seconds: 30 }, schedule: { type: 'manual' } })
  const first = await api.run(id)
  await api.until(first, 'running')
  await as('super_admin')
  await page.goto(`/jobs/${id}`)
  await page.getByRole('button', { name: 'Run now' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Start the run' }).click()
  await page.getByRole('dialog').getByRole('link', { name: 'Show that run' }).click()
  await expect(page).toHaveURL(new RegExp(`/runs/${first}$`))
  await api.call('POST', `/api/admin/job-executions/${first}/cancel`, {})
  await api.until(first, 'cancelled')
})
