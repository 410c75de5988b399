import { expect, test } from './fixtures'

test('an admin sees everything, changes nothing, and is told why', async ({ page, as, api, unique }) => {
  const id = await api.job({ name: unique('Watched'), template_type: 'test_scheduler', schedule: { type: 'manual' } })
  await as('admin')
  await page.goto('/jobs')
  await expect(page.getByRole('table', { name: 'Jobs' })).toBeVisible()
  await expect(page.getByRole('link', { name: 'New job' })).toHaveCount(0)
  await expect(page.getByRole('navigation', { name: 'Main' }).getByRole('link', { name: 'Users' })).toHaveCount(0)
  await expect(page.getByRole('switch', { name: /^Enabled/ })).toHaveCount(0)

  await page.goto(`/jobs/${id}`)
  await expect(page.getByText('needs the role super admin', { exact: false }).first()).toBeVisible()
  await expect(page.getByRole('link', { name: 'Edit' })).toHaveCount(0)
  // What destroys nothing an admin may run.
  await page.getByRole('button', { name: 'Run now' }).click()
  await page.getByRole('dialog').getByRole('button', { name: 'Start the run' }).click()
  await expect(page).toHaveURL(/\/runs\/exec_/)

  for (const [path, words] of [
    ['/jobs/new', 'super admin'],
    ['/users', 'super admin'],
    ['/audit', 'super admin'],
  ] as const) {
    await page.goto(path)
    await expect(page.getByRole('main').getByText(words, { exact: false }).first()).toBeVisible()
    await expect(page.getByRole('main').getByRole('table')).toHaveCount(0)
  }
})

test('a user sees no jobs, but has an account', async ({ page, as }) => {
  await as('user')
  await page.goto('/')
  await expect(page.getByText('Your role sees no jobs')).toBeVisible()
  await page.getByRole('main').getByRole('link', { name: 'Account and tokens' }).click()
  await expect(page.getByRole('heading', { level: 1, name: 'Account' })).toBeVisible()
  await expect(page.getByRole('form', { name: 'Change password' })).toBeVisible()
})
