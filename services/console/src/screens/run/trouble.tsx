import { Button, Group, Text } from '@mantine/core'
import { useNow } from '../../parts/time'
import type { Trouble } from './use-run'

/** That the live view broke off, when it goes on, and how to hurry it. */
export function Broken({ trouble, again }: { trouble: Trouble | null; again: () => void }) {
  const now = useNow()
  if (!trouble) return null
  const message = trouble.error instanceof Error ? trouble.error.message : String(trouble.error)
  const seconds = trouble.retryAt === null ? null : Math.max(0, Math.ceil((trouble.retryAt - now) / 1000))
  return (
    <Group gap="sm" role="status">
      <Text size="sm" style={{ overflowWrap: 'anywhere' }}>
        Not live at the moment: {message} {seconds === null ? '' : seconds > 0 ? `Trying again in ${seconds} s.` : 'Trying again.'}
      </Text>
      <Button size="xs" variant="default" onClick={again}>
        Try now
      </Button>
    </Group>
  )
}
