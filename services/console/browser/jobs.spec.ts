import { expect, test } from './fixtures'

const daily = { cron: '0 2 * * *', timezone: 'Europe/Berlin' }

test('finds, sorts and filters jobs; all of it is in the address', async ({ page, as, api, unique }) => {
  const apple = await api.job({ name: unique('Apple'), template_type: 'test_scheduler', schedule: daily, labels: { fruit: 'apple' } })
  const pear = await api.job({ name: unique('Pear'), template_type: 'test_scheduler', schedule: daily, labels: { fruit: 'pear' }, enabled: false })
  const [appleName, pearName] = await Promise.all(
    [apple, pear].map(async (id) => (await api.call<{ job: { name: string } }>('GET', `/api/admin/scheduler-jobs/${id}`)).job.name),
  )
  await as('super_admin')
  await page.goto('/jobs')
  const list = page.getByRole('table', { name: 'Jobs' })
  await page.getByRole('searchbox', { name: 'Search jobs' }).fill(appleName!.toUpperCase())
  await expect(list.getByRole('link', { name: appleName! })).toBeVisible()
  await expect(list.getByRole('row')).toHaveCount(2)
  await expect(page).toHaveURL(/q=/)
  await expect(list.getByText('At 02:00 (Europe/Berlin)')).toBeVisible()

  await page.goto(`/jobs?label=${encodeURIComponent('fruit=pear')}&enabled=false`)
  await expect(list.getByRole('link', { name: pearName! })).toBeVisible()
  await expect(list.getByRole('link', { name: appleName! })).toHaveCount(0)

  await page.goto('/jobs?q=no+job+is+called+this')
  await expect(page.getByText(/^No jobs? match/)).toBeVisible()
})

test('switches a job in its row', async ({ page, as, api, unique }) => {
  const name = unique('Switched')
  const id = await api.job({ name, template_type: 'test_scheduler', schedule: daily })
  await as('super_admin')
  await page.goto(`/jobs?q=${encodeURIComponent(name)}`)
  const toggle = page.getByRole('switch', { name: `Enabled: ${name}` })
  await expect(toggle).toBeChecked()
  await toggle.press('Space')
  await expect(page.getByText('is paused.')).toBeVisible()
  await expect(toggle).not.toBeChecked()
  const enabled = async () => (await api.call<{ job: { enabled: boolean } }>('GET', `/api/admin/scheduler-jobs/${id}`)).job.enabled
  expect(await enabled()).toBe(false)
  await toggle.press('Space')
  await expect.poll(enabled).toBe(true)
})

test('shows the last runs as bars that lead to them', async ({ page, as, api, unique }) => {
  const name = unique('Barred')
  const id = await api.job({ name, template_type: 'test_scheduler', schedule: daily, retry_policy: { max_retries: 0 } })
  const good = await api.run(id)
  await api.until(good, 'success')
  const bad = await api.run(id, { fail: true })
  await api.until(bad, 'failed')
  await as('admin')
  await page.goto(`/jobs?q=${encodeURIComponent(name)}`)
  await expect(page.getByRole('row', { name })).toHaveCount(1)
  const strip = page.getByRole('row', { name }).getByRole('list', { name: 'Last runs, oldest first' })
  await expect(strip.getByRole('listitem')).toHaveCount(2)
  await expect(page.getByRole('table').getByText('Failing')).toBeVisible()
  await strip.getByRole('link', { name: /^Failed/ }).click()
  await expect(page).toHaveURL(new RegExp(`/runs/${bad}$`))
})

test('deletes a job after a question that names it', async ({ page, as, api, unique }) => {
  const name = unique('Unwanted')
  const id = await api.job({ name, template_type: 'test_scheduler', schedule: daily })
  const run = await api.run(id)
  await api.until(run, 'success')
  await as('super_admin')
  await page.goto(`/jobs?q=${encodeURIComponent(name)}`)
  await page.getByRole('button', { name: `Actions for ${name}` }).click()
  await page.getByRole('menuitem', { name: 'Delete' }).click()
  const dialog = page.getByRole('dialog')
  await expect(dialog).toContainText(name)
  const sure = dialog.getByRole('textbox')
  if (await sure.isVisible()) await sure.fill(name)
  await dialog.getByRole('button', { name: /^Delete/ }).click()
  await expect(page.getByRole('link', { name })).toHaveCount(0)
  await expect(api.call('GET', `/api/admin/scheduler-jobs/${id}`)).rejects.toThrow(/404/)
  // What it did stays readable.
  await page.goto(`/jobs/${id}`)
  await expect(page.getByText('This job was deleted')).toBeVisible()
  await expect(page.getByRole('table').getByText('Success')).toBeVisible()
})
