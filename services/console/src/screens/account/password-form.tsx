import { Button, Group, PasswordInput, Stack, Text } from '@mantine/core'
import { notifications } from '@mantine/notifications'
import { type FormEvent, useState } from 'react'
import { violationOf } from '../../api/client'
import { useChangePassword } from '../../api/queries'
import { NewPassword, passwordProblem } from '../../parts/new-password'
import { ErrorNotice } from '../../parts/page'
import { useSession } from '../../shell/session'

/** What is wrong with the three passwords, by field. */
export function problemsOf(current: string, next: string, again: string): { current?: string; next?: string; again?: string } {
  return {
    current: current ? undefined : 'Type your current password',
    next: passwordProblem(next) ?? (next === current ? 'Take another one than the current' : undefined),
    again: again === next ? undefined : 'This differs from the new password above',
  }
}

/** Changes the own password. */
export function PasswordForm() {
  const { username } = useSession()
  const change = useChangePassword()
  const [current, setCurrent] = useState('')
  const [next, setNext] = useState('')
  const [again, setAgain] = useState('')
  const [tried, setTried] = useState(false)
  const problems = tried ? problemsOf(current, next, again) : {}
  const said = { current: violationOf(change.error, 'current_password'), next: violationOf(change.error, 'new_password') }

  async function submit(event: FormEvent) {
    event.preventDefault()
    setTried(true)
    if (Object.values(problemsOf(current, next, again)).some(Boolean)) return
    await change.mutateAsync({ current_password: current, new_password: next }).then(
      () => {
        notifications.show({ message: 'Your password was changed. You are logged out everywhere else.' })
        setCurrent('')
        setNext('')
        setAgain('')
        setTried(false)
      },
      () => {}, // shown from change.error
    )
  }

  return (
    <form onSubmit={(event) => void submit(event)} noValidate aria-label="Change password">
      <Stack>
        {/* For password managers, which otherwise do not know whose it is. */}
        <input type="text" name="username" autoComplete="username" value={username} readOnly hidden />
        <PasswordInput
          label="Current password"
          name="current-password"
          autoComplete="current-password"
          required
          value={current}
          onChange={(e) => setCurrent(e.currentTarget.value)}
          error={problems.current ?? said.current}
          visibilityToggleButtonProps={{ 'aria-label': 'Show or hide the current password' }}
        />
        <NewPassword label="New password" name="new-password" value={next} onChange={setNext} error={problems.next ?? said.next} />
        <PasswordInput
          label="New password again"
          name="new-password-again"
          autoComplete="new-password"
          required
          value={again}
          onChange={(e) => setAgain(e.currentTarget.value)}
          error={problems.again}
          visibilityToggleButtonProps={{ 'aria-label': 'Show or hide the repeated password' }}
        />
        <Text size="sm" c="dimmed">
          This logs you out everywhere but here. Personal tokens go on working.
        </Text>
        {change.error && !said.current && !said.next && <ErrorNotice error={change.error} title="Your password was not changed" />}
        <Group>
          <Button type="submit" loading={change.isPending}>
            Change password
          </Button>
        </Group>
      </Stack>
    </form>
  )
}
