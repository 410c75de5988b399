import { expect, test } from './fixtures'

test('logs in and out', async ({ page, system, context }) => {
  await page.goto('/jobs?q=cleanup')
  await expect(page).toHaveURL(/\/login\?next=/)
  await expect(page.getByLabel('Username')).toBeFocused()
  await page.getByLabel('Username').fill(system.users.admin.username)
  await page.getByRole('textbox', { name: 'Password' }).fill('not the password')
  await page.getByRole('button', { name: 'Log in' }).click()
  await expect(page.getByText('The username or the password is wrong.')).toBeVisible()

  await page.getByRole('textbox', { name: 'Password' }).fill(system.users.admin.password)
  await page.getByRole('button', { name: 'Log in' }).click()
  await expect(page).toHaveURL(/\/jobs\?q=cleanup/)

  // Scripts cannot read what proves who this is.
  const cookie = (await context.cookies()).find((c) => c.name === 'almanac_session')
  expect(cookie).toMatchObject({ httpOnly: true, sameSite: 'Strict', path: '/' })
  expect(await page.evaluate(() => document.cookie)).toBe('')

  await page.getByRole('button', { name: /^Account of/ }).click()
  await page.getByRole('menuitem', { name: 'Log out' }).click()
  await expect(page).toHaveURL(/\/login$/)
  // What was the session is worth nothing any more.
  const answer = await fetch(`${system.http}/api/auth/session`, { headers: { Cookie: `almanac_session=${cookie!.value}` } })
  expect(answer.status).toBe(401)
})

test('goes only to pages of its own after the login', async ({ page, system }) => {
  await page.goto('/login?next=' + encodeURIComponent('//example.com/x'))
  await page.getByLabel('Username').fill(system.users.admin.username)
  await page.getByRole('textbox', { name: 'Password' }).fill(system.users.admin.password)
  await page.getByRole('button', { name: 'Log in' }).click()
  await expect(page).toHaveURL(`${system.http}/`)
})

test('a page of another site cannot change anything with the session', async ({ system }) => {
  const { username, password } = system.users.super_admin
  const login = await fetch(`${system.http}/api/auth/session`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ username, password }),
  })
  const cookie = login.headers.get('set-cookie')!.split(';')[0]!
  const strangers: Record<string, string>[] = [{ Origin: 'https://example.com' }, { 'Sec-Fetch-Site': 'cross-site' }]
  for (const stranger of strangers) {
    const answer = await fetch(`${system.http}/api/auth/tokens`, {
      method: 'POST',
      headers: { Cookie: cookie, 'Content-Type': 'application/json', ...stranger },
      body: '{"name":"stolen"}',
    })
    expect(answer.status).toBe(403)
  }
})
