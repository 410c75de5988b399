// The form that logs in: on its own page, and over a page whose session ran out.
import { Button, PasswordInput, Stack, TextInput } from '@mantine/core'
import { type FormEvent, useState } from 'react'
import { ApiError } from '../api/client'
import { startSession } from '../api/queries'
import { ErrorNotice } from '../parts/page'

/** username, when given, cannot be changed. */
export function LoginForm({ username: fixed, done }: { username?: string; done: () => Promise<void> | void }) {
  const [username, setUsername] = useState(fixed ?? '')
  const [password, setPassword] = useState('')
  const [error, setError] = useState<unknown>(null)
  const [busy, setBusy] = useState(false)

  async function submit(event: FormEvent) {
    event.preventDefault()
    setBusy(true)
    setError(null)
    try {
      await startSession({ username: username.trim(), password })
      await done()
    } catch (cause) {
      setError(cause)
    } finally {
      setBusy(false)
    }
  }

  const wrong = error instanceof ApiError && error.status === 401
  return (
    <form onSubmit={(event) => void submit(event)} aria-label="Log in">
      <Stack>
        {error !== null && !wrong && <ErrorNotice error={error} title="You are not logged in yet" />}
        <TextInput
          label="Username"
          name="username"
          autoComplete="username"
          required
          autoFocus={!fixed}
          readOnly={!!fixed}
          value={username}
          onChange={(e) => setUsername(e.currentTarget.value)}
        />
        <PasswordInput
          label="Password"
          name="password"
          autoComplete="current-password"
          required
          autoFocus={!!fixed}
          value={password}
          error={wrong ? 'The username or the password is wrong. Check both; a super admin can set a new password.' : undefined}
          onChange={(e) => setPassword(e.currentTarget.value)}
          visibilityToggleButtonProps={{ 'aria-label': 'Show or hide the password' }}
        />
        <Button type="submit" loading={busy}>
          Log in
        </Button>
      </Stack>
    </form>
  )
}
