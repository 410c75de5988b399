// The first job of somebody who has never seen this, at the pace of a person.
import type { Locator, Page } from '@playwright/test'
import { expect, shot, test } from './fixtures'

const wordsAMinute = 40
const perKey = 60_000 / (wordsAMinute * 5)
const perClick = 1500 // to see where, and to get there

class Newcomer {
  clicks = 0
  fields = 0
  constructor(private readonly page: Page) {}

  async click(what: Locator) {
    await expect(what).toBeVisible()
    await this.page.waitForTimeout(perClick)
    await what.click()
    this.clicks++
  }

  /** Types into what has the focus, or is reached by tabulator. */
  async type(into: Locator, text: string) {
    for (let tabs = 0; !(await into.evaluate((e) => e === document.activeElement)); tabs++) {
      expect(tabs, 'the field is out of reach of the keyboard').toBeLessThan(12)
      await this.page.keyboard.press('Tab')
    }
    await this.page.keyboard.press('Control+A')
    await this.page.keyboard.type(text, { delay: perKey })
    this.fields++
  }
}

test('a newcomer makes a clean-up that runs daily, tries it and sees its first result', async ({ page, system, api }) => {
  test.setTimeout(240_000)
  const someone = new Newcomer(page)
  await page.goto('/')
  const began = Date.now()
  await someone.type(page.getByLabel('Username'), system.users.super_admin.username)
  await someone.type(page.getByRole('textbox', { name: 'Password' }), system.users.super_admin.password)
  await someone.click(page.getByRole('button', { name: 'Log in' }))
  await someone.click(page.getByRole('link', { name: 'New job' }).first())
  await someone.click(page.getByRole('link', { name: /^Database Cleanup/ }).or(page.getByRole('button', { name: /^Database Cleanup/ })).first())

  await someone.click(page.getByRole('combobox', { name: 'Collection' }))
  await someone.click(page.getByRole('option', { name: 'sessions' }))
  await someone.type(page.getByRole('textbox', { name: 'Field', exact: true }), 'lastActive')
  await someone.type(page.getByRole('textbox', { name: 'Number', exact: true }), '6')
  // Daily at 02:00 is what the form begins with.
  await expect(page.getByText('02:00').first()).toBeVisible()

  await someone.click(page.getByRole('button', { name: 'Try it once' }))
  const drawer = page.getByRole('dialog')
  await expect(drawer.getByText('Success').first()).toBeVisible({ timeout: 30_000 })
  await expect(drawer.getByText('Records processed')).toBeVisible()
  await shot(page, 'newcomer-tried')
  await someone.click(drawer.getByRole('button', { name: 'Close' }).first())
  await someone.click(page.getByRole('button', { name: /^(Save|Create)/ }).first())
  await expect(page).toHaveURL(/\/jobs\/job_/)
  await expect(page.getByText(/^Its next run is .* 02:00/)).toBeVisible()
  const job = page.url().split('/').pop()!.split('?')[0]!
  await someone.click(page.getByRole('button', { name: 'Run now' }))
  await someone.click(page.getByRole('dialog').getByRole('button', { name: 'Start the run' }))
  await expect(page).toHaveURL(/\/runs\/exec_/)
  await expect(page.getByText('Records processed')).toBeVisible({ timeout: 30_000 })
  const seconds = (Date.now() - began) / 1000
  console.log(
    `a newcomer's first job: ${someone.clicks} clicks (aim: at most 12), ${someone.fields} typed fields (aim: at most 4), ${seconds.toFixed(0)} s at ${wordsAMinute} words a minute and ${perClick / 1000} s a click (aim: below 120)`,
  )
  expect(someone.clicks).toBeLessThanOrEqual(12)
  expect(someone.fields).toBeLessThanOrEqual(4)

  const stored = (await api.call<{ job: Record<string, unknown> }>('GET', `/api/admin/scheduler-jobs/${job}`)).job
  expect(stored).toMatchObject({
    template_type: 'database_cleanup',
    parameters: { collection: 'sessions', condition: { lastActive: { $lt: '6 months ago' } }, dryRun: true },
    schedule: { type: 'cron', timezone: 'Europe/Berlin' },
  })
})
