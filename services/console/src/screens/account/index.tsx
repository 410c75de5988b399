import { Group, List, Paper, SimpleGrid, Stack, Text, Title } from '@mantine/core'
import { IconBan, IconCheck } from '@tabler/icons-react'
import { Page } from '../../parts/page'
import { RelativeTime } from '../../parts/time'
import { roleNames, useSession } from '../../shell/session'
import { PasswordForm } from './password-form'
import { limitsInWords, rights } from './rights'
import { Tokens } from './tokens'

/** Who is logged in, and their password, tokens and logins. */
export function Component() {
  return (
    <Page title="Account">
      <SimpleGrid cols={{ base: 1, md: 2 }} spacing="lg">
        <Who />
        <Paper withBorder p="md" component="section" aria-labelledby="password">
          <Title order={2} size="h4" mb="sm" id="password">
            Password
          </Title>
          <PasswordForm />
        </Paper>
      </SimpleGrid>
      <Tokens />
    </Page>
  )
}

function Who() {
  const session = useSession()
  const { may, not } = rights[session.role]
  const limits = limitsInWords(session)
  return (
    <Paper withBorder p="md" component="section" aria-labelledby="who">
      <Title order={2} size="h4" mb="sm" id="who" style={{ overflowWrap: 'anywhere' }}>
        {session.username}
      </Title>
      <Stack gap="sm">
        <Text size="sm">
          Your role is <b>{roleNames[session.role]}</b>. You may:
        </Text>
        <List size="sm" spacing={4} icon={<IconCheck size={16} aria-hidden />} styles={{ itemWrapper: { alignItems: 'flex-start' }, itemIcon: { marginTop: 2 } }}>
          {may.map((right) => (
            <List.Item key={right}>{right}</List.Item>
          ))}
        </List>
        <Text size="sm">You may not:</Text>
        <List size="sm" spacing={4} icon={<IconBan size={16} aria-hidden />} styles={{ itemWrapper: { alignItems: 'flex-start' }, itemIcon: { marginTop: 2 } }}>
          {not.map((right) => (
            <List.Item key={right}>{right}</List.Item>
          ))}
        </List>
        {limits.length > 0 && (
          <Text size="sm" c="dimmed">
            Limits here: {limits.join('; ')}.
          </Text>
        )}
        <Group gap={4}>
          <Text size="sm" c="dimmed" component="div">
            This login ends <RelativeTime at={session.expires_at} none="never" size="sm" />.
          </Text>
        </Group>
      </Stack>
    </Paper>
  )
}
