import { Anchor, Group, Paper, Skeleton, Stack, Text, Title } from '@mantine/core'
import type { ReactNode } from 'react'
import { Link } from 'react-router'
import { ErrorNotice } from '../../parts/page'
import classes from './home.module.css'

type Query<T> = { data: T | undefined; error: unknown; refetch: () => unknown }

/** A part of the home screen that waits and fails for itself, with room kept for
 * what will stand there. */
export function Panel<T>({ title, aside, more, query, room, children }: { title: string; aside?: ReactNode; more?: { to: string; name: string }; query: Query<T>; room: number; children: (data: T) => ReactNode }) {
  return (
    <Paper component="section" aria-label={title} withBorder p="md">
      <Group justify="space-between" mb="sm" gap="xs">
        <Group gap="xs">
          <Title order={2} size="h5">
            {title}
          </Title>
          {aside}
        </Group>
        {more && (
          <Anchor component={Link} to={more.to} size="sm">
            {more.name}
          </Anchor>
        )}
      </Group>
      <div style={{ minHeight: room }}>
        {query.data !== undefined ? (
          <>
            {/* In short: when all parts fail at once, the screen says why above them. */}
            {query.error ? (
              <Text size="xs" c="dimmed" mb="xs" role="status">
                This may be out of date: the registry did not answer.
              </Text>
            ) : null}
            {children(query.data)}
          </>
        ) : query.error ? (
          <ErrorNotice error={query.error} retry={() => void query.refetch()} />
        ) : (
          <Stack gap="sm" role="status" aria-label={`Loading: ${title}`}>
            <Skeleton height={16} width="70%" />
            <Skeleton height={16} width="45%" />
            {room > 120 && <Skeleton height={16} width="60%" />}
          </Stack>
        )}
      </div>
    </Paper>
  )
}

/** Rows of a list, divided by lines. */
export const Rows = ({ label, children }: { label: string; children: ReactNode }) => (
  <ul className={classes.list} aria-label={label}>
    {children}
  </ul>
)
export const Row = ({ children }: { children: ReactNode }) => <li className={classes.row}>{children}</li>
