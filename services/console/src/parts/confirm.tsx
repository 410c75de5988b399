// Asks before something that is hard to take back.
import { Button, Group, Modal, Stack, TextInput } from '@mantine/core'
import { type FormEvent, type ReactNode, useState } from 'react'
import { ErrorNotice } from './page'

type Props = {
  title: string
  /** What will happen, naming the object. */
  children: ReactNode
  /** The word on the button, such as "Remove ann". */
  confirm: string
  danger?: boolean
  /** Has to be typed before the button works. */
  type?: string
  /** Does it; what it throws is shown, and the question stays open. */
  act: () => Promise<unknown>
  onClose: () => void
}

/** A question with its answer. Shown while mounted. */
export function Confirm({ title, children, confirm, danger, type, act, onClose }: Props) {
  const [busy, setBusy] = useState(false)
  const [error, setError] = useState<unknown>(null)
  const [typed, setTyped] = useState('')
  const ready = type === undefined || typed.trim() === type

  async function submit(event: FormEvent) {
    event.preventDefault()
    if (!ready || busy) return
    setBusy(true)
    setError(null)
    try {
      await act()
      onClose()
    } catch (cause) {
      setError(cause)
      setBusy(false)
    }
  }

  return (
    <Modal opened onClose={onClose} title={title} closeOnClickOutside={!busy}>
      <form onSubmit={(event) => void submit(event)}>
        <Stack>
          {children}
          {type !== undefined && (
            <TextInput label={`Type ${type} to confirm`} value={typed} onChange={(e) => setTyped(e.currentTarget.value)} autoComplete="off" spellCheck={false} data-autofocus />
          )}
          {error !== null && <ErrorNotice error={error} />}
          <Group justify="flex-end">
            <Button variant="default" onClick={onClose}>
              Go back
            </Button>
            <Button type="submit" color={danger ? 'red' : undefined} loading={busy} disabled={!ready}>
              {confirm}
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  )
}
