import { Anchor, Center, Group, Image, Paper, Stack, Text, Title } from '@mantine/core'
import { useQueryClient } from '@tanstack/react-query'
import { useEffect } from 'react'
import { useNavigate, useSearchParams } from 'react-router'
import { sessionQuery } from '../../api/queries'
import { LoginForm } from '../../shell/login-form'

/** Where to go after the login: only to pages of this console. */
export function destination(next: string | null): string {
  if (!next?.startsWith('/')) return '/'
  // Read as a browser reads it, which takes \ for / and leaves out tabs.
  const { origin } = window.location
  const url = URL.canParse(next, origin) ? new URL(next, origin) : null
  const path = url?.origin === origin ? url.pathname + url.search + url.hash : '/'
  return path.startsWith('//') ? '/' : path
}

export function Component() {
  const navigate = useNavigate()
  const queries = useQueryClient()
  const [search] = useSearchParams()
  useEffect(() => {
    document.title = 'Log in · Almanac'
  }, [])
  return (
    <Center mih="100vh" p="md" component="main">
      <Paper withBorder shadow="sm" p="xl" w="100%" maw={400}>
        <Stack>
          <Group gap="sm">
            <Image src="/icon.svg" alt="" w={36} h={36} />
            <Title order={1} size="h2">
              Almanac
            </Title>
          </Group>
          <Text c="dimmed" size="sm">
            Jobs that run when they should. Log in to see and define them.
          </Text>
          <LoginForm
            done={async () => {
              queries.clear()
              await queries.fetchQuery(sessionQuery())
              await navigate(destination(search.get('next')), { replace: true })
            }}
          />
          <Text size="xs" c="dimmed">
            No account yet? A super admin makes one on the console's page Users; the first one is made with <code>registry user add</code>. Programs use
            the <Anchor href="/docs" size="xs" underline="always">API</Anchor>.
          </Text>
        </Stack>
      </Paper>
    </Center>
  )
}
