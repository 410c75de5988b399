// The frame of every screen: its title, what can be done on it, and what is shown
// while there is nothing, or when something went wrong.
import { Alert, Button, Center, Group, Loader, Stack, Text, Title } from '@mantine/core'
import { IconAlertCircle, IconMoodEmpty } from '@tabler/icons-react'
import { type ReactNode, useEffect } from 'react'
import { ApiError } from '../api/client'
import { duration } from './time'

/** A screen. title is its only heading of the first level and the window's title. */
export function Page({ title, heading, actions, children }: { title: string; heading?: ReactNode; actions?: ReactNode; children: ReactNode }) {
  useEffect(() => {
    document.title = `${title} · Almanac`
  }, [title])
  return (
    <Stack gap="lg">
      <Group justify="space-between" align="center" gap="sm">
        <Title order={1} size="h2" style={{ overflowWrap: 'anywhere' }}>
          {heading ?? title}
        </Title>
        {actions && <Group gap="xs">{actions}</Group>}
      </Group>
      {children}
    </Stack>
  )
}

const remedies: Record<number, string> = {
  403: 'Ask a super admin for the role that this needs.',
  404: 'It may have been removed, or the address is wrong.',
  409: 'Somebody or something else was faster: look at how it stands now.',
  412: 'Load it again, and repeat your change on the version you see.',
  503: 'The registry cannot reach its store at the moment; it will go on by itself. Try again in a few seconds.',
}

/** What went wrong, and what to do about it. */
export function ErrorNotice({ error, retry, title }: { error: unknown; retry?: () => void; title?: string }) {
  const known = error instanceof ApiError ? error : null
  const remedy = known ? (known.retryAfter > 0 ? `Try again in ${duration(known.retryAfter)}.` : remedies[known.status]) : undefined
  return (
    <Alert color="red" variant="light" icon={<IconAlertCircle aria-hidden />} title={title ?? 'This did not work'} role="alert" styles={{ message: { color: 'var(--mantine-color-text)' }, title: { color: 'var(--mantine-color-error)' } }}>
      <Stack gap="xs" align="flex-start">
        <Text size="sm" style={{ overflowWrap: 'anywhere' }}>
          {error instanceof Error ? error.message : String(error)}
        </Text>
        {known && known.violations.length > 1 && (
          <ul style={{ margin: 0, paddingInlineStart: '1.2em' }}>
            {known.violations.map((v, i) => (
              <li key={i}>
                <Text size="sm">
                  <b>{v.field || 'request'}</b>: {v.description}
                </Text>
              </li>
            ))}
          </ul>
        )}
        {remedy && <Text size="sm">{remedy}</Text>}
        {retry && (
          <Button size="xs" variant="default" onClick={retry}>
            Try again
          </Button>
        )}
      </Stack>
    </Alert>
  )
}

/** Nothing to show yet: why, and how that changes. */
export function EmptyState({ title, children, action }: { title: string; children?: ReactNode; action?: ReactNode }) {
  return (
    <Center py="xl">
      <Stack align="center" gap="sm" maw={480}>
        <IconMoodEmpty size={40} stroke={1.4} color="var(--mantine-color-dimmed)" aria-hidden />
        <Text fw={600}>{title}</Text>
        {children && (
          <Text c="dimmed" ta="center" size="sm" component="div">
            {children}
          </Text>
        )}
        {action}
      </Stack>
    </Center>
  )
}

export const Waiting = ({ label = 'Loading' }: { label?: string }) => (
  <Center py="xl" role="status" aria-label={label}>
    <Loader type="dots" />
  </Center>
)

/** What a query is at: waiting, failed, or there. */
export function Loaded<T>({ query, children }: { query: { data: T | undefined; error: unknown; refetch: () => unknown }; children: (data: T) => ReactNode }) {
  if (query.data !== undefined) {
    return (
      <>
        {query.error ? <ErrorNotice error={query.error} retry={() => void query.refetch()} title="What you see may be out of date" /> : null}
        {children(query.data)}
      </>
    )
  }
  if (query.error) return <ErrorNotice error={query.error} retry={() => void query.refetch()} />
  return <Waiting />
}
