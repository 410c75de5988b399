import { ActionIcon, Alert, Anchor, Button, Card, Code, CopyButton, Group, Modal, SegmentedControl, Stack, Table, Text, TextInput, Title, Tooltip, VisuallyHidden } from '@mantine/core'
import { useMediaQuery } from '@mantine/hooks'
import { notifications } from '@mantine/notifications'
import { IconAlertTriangle, IconCheck, IconCopy, IconPlus } from '@tabler/icons-react'
import { useQuery } from '@tanstack/react-query'
import { type FormEvent, type ReactNode, useState } from 'react'
import { ApiError, violationOf } from '../../api/client'
import { tokensQuery, useCreateToken, useRevokeToken } from '../../api/queries'
import type { Token } from '../../api/types'
import { Confirm } from '../../parts/confirm'
import { ErrorNotice, Loaded } from '../../parts/page'
import { RelativeTime } from '../../parts/time'
import { useLive } from '../../shell/live'
import { useSession } from '../../shell/session'
import { curlExample, lifetimes, sorted } from './rights'

/** Personal tokens, and where else one is logged in. */
export function Tokens() {
  const { every } = useLive()
  const tokens = useQuery({ ...tokensQuery(), refetchInterval: every(10_000) })
  const [creating, setCreating] = useState(false)
  const [revoking, setRevoking] = useState<Token | null>(null)
  const [ending, setEnding] = useState<Token[] | null>(null)
  const [allLogins, setAllLogins] = useState(false)
  return (
    <>
      <section aria-labelledby="tokens">
        <Group justify="space-between" mb={4}>
          <Title order={2} size="h4" id="tokens">
            Personal tokens
          </Title>
          <Button size="xs" leftSection={<IconPlus size={14} aria-hidden />} onClick={() => setCreating(true)}>
            New token
          </Button>
        </Group>
        <Text size="sm" c="dimmed" mb="sm" maw={720}>
          For scripts and programs that use the <Anchor href="/docs" size="sm" underline="always">API</Anchor> in your name. A token may do what you may; when your role changes, so does what it may do.
        </Text>
        <Loaded query={tokens}>
          {(all) => {
            const { personal } = sorted(all)
            if (personal.length === 0) {
              return <Text size="sm">You have none. Make one for each program that needs it: then each can be revoked by itself.</Text>
            }
            return <Rows tokens={personal} label="Personal tokens" act={(t) => <RevokeButton token={t} word="Revoke" ask={setRevoking} />} />
          }}
        </Loaded>
      </section>
      <section aria-labelledby="sessions">
        <Title order={2} size="h4" mb={4} id="sessions">
          Where you are logged in
        </Title>
        <Text size="sm" c="dimmed" mb="sm" maw={720}>
          End what you do not know, and change your password then.
        </Text>
        <Loaded query={tokens}>
          {(all) => {
            const { logins } = sorted(all)
            if (logins.length === 0) return <Text size="sm">Nowhere: this page was opened with a personal token.</Text>
            const others = logins.filter((t) => !t.current)
            return (
              <Stack>
                <Rows
                  tokens={allLogins ? logins : logins.slice(0, shownLogins)}
                  label="Where you are logged in"
                  act={(t) => (t.current ? <Text span size="sm" c="dimmed">this browser</Text> : <RevokeButton token={t} word="End" ask={setRevoking} />)}
                />
                <Group gap="sm">
                  {!allLogins && logins.length > shownLogins && (
                    <Button size="xs" variant="default" onClick={() => setAllLogins(true)}>
                      Show all {logins.length}
                    </Button>
                  )}
                  {others.length > 1 && (
                    <Button size="xs" variant="default" onClick={() => setEnding(others)}>
                      End all {others.length} others
                    </Button>
                  )}
                </Group>
              </Stack>
            )
          }}
        </Loaded>
      </section>
      {creating && <NewToken onClose={() => setCreating(false)} />}
      {ending && <EndOthers tokens={ending} onClose={() => setEnding(null)} />}
      {revoking && <Revoke token={revoking} onClose={() => setRevoking(null)} />}
    </>
  )
}

const nameOf = (token: Token) => (token.kind === 'session' ? 'Browser' : token.kind === 'login' ? 'Program with your password' : token.name || token.id)

const useNarrow = () => useMediaQuery('(max-width: 48em)', false, { getInitialValueInEffect: false })

/** So many logins are shown until all are asked for. */
const shownLogins = 8

const RevokeButton = ({ token, word, ask }: { token: Token; word: string; ask: (token: Token) => void }) => (
  <Button size="xs" variant="default" onClick={() => ask(token)} aria-label={`${word} ${nameOf(token)} ${token.kind === 'personal' ? '' : token.id}`.trim()} style={{ flexShrink: 0 }}>
    {word}
  </Button>
)

function Expiry({ token }: { token: Token }) {
  if (token.expires_at) return <RelativeTime at={token.expires_at} size="sm" />
  return <Text span size="sm">never</Text>
}

function Rows({ tokens, label, act }: { tokens: Token[]; label: string; act: (token: Token) => ReactNode }) {
  const narrow = useNarrow()
  if (narrow) {
    return (
      <Stack gap="sm">
        {tokens.map((t) => (
          <Card key={t.id} withBorder padding="sm">
            <Group justify="space-between" wrap="nowrap">
              <Stack gap={2} miw={0}>
                <Text fw={600} size="sm" style={{ overflowWrap: 'anywhere' }}>
                  {nameOf(t)}
                </Text>
                <Text size="sm" c="dimmed" component="div">
                  made <RelativeTime at={t.created_at} size="sm" />, expires <Expiry token={t} />
                </Text>
              </Stack>
              {act(t)}
            </Group>
          </Card>
        ))}
      </Stack>
    )
  }
  return (
    <Table verticalSpacing="xs" withTableBorder aria-label={label} layout="fixed">
      <Table.Thead>
        <Table.Tr>
          <Table.Th>Name</Table.Th>
          <Table.Th w={150}>Id</Table.Th>
          <Table.Th w={150}>Made</Table.Th>
          <Table.Th w={150}>Expires</Table.Th>
          <Table.Th w={140}>
            <VisuallyHidden>Actions</VisuallyHidden>
          </Table.Th>
        </Table.Tr>
      </Table.Thead>
      <Table.Tbody>
        {tokens.map((t) => (
          <Table.Tr key={t.id}>
            <Table.Th scope="row" fw={600} style={{ overflowWrap: 'anywhere' }}>
              {nameOf(t)}
            </Table.Th>
            <Table.Td>
              <Code>{t.id}</Code>
            </Table.Td>
            <Table.Td>
              <RelativeTime at={t.created_at} size="sm" />
            </Table.Td>
            <Table.Td>
              <Expiry token={t} />
            </Table.Td>
            <Table.Td ta="right">{act(t)}</Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  )
}

function NewToken({ onClose }: { onClose: () => void }) {
  const narrow = useNarrow()
  const create = useCreateToken()
  const [name, setName] = useState('')
  const [days, setDays] = useState('90')
  const [tried, setTried] = useState(false)

  async function submit(event: FormEvent) {
    event.preventDefault()
    setTried(true)
    if (!name.trim()) return
    await create.mutateAsync({ name: name.trim(), expires_in_days: Number(days) }).catch(() => {}) // shown from create.error
  }

  if (create.data) return <Secret name={create.data.token.name} secret={create.data.secret} onClose={onClose} />
  return (
    <Modal opened onClose={onClose} title="New token" closeOnClickOutside={false}>
      <form onSubmit={(event) => void submit(event)} noValidate>
        <Stack>
          <TextInput
            label="Name"
            description="What it is for, such as nightly report"
            required
            data-autofocus
            maxLength={100}
            value={name}
            onChange={(e) => setName(e.currentTarget.value)}
            error={(tried && !name.trim() && 'Say what it is for: you will want to know when you revoke it') || violationOf(create.error, 'name')}
          />
          <Stack gap={4}>
            <Text size="sm" fw={500} id="expires">
              Expires after
            </Text>
            <SegmentedControl aria-labelledby="expires" value={days} onChange={setDays} data={lifetimes.map((l) => ({ value: String(l.days), label: l.name }))} orientation={narrow ? 'vertical' : 'horizontal'} fullWidth />
            {days === '0' && (
              <Text size="sm" c="dimmed">
                A token without an end works until somebody revokes it: choose this only where it cannot be renewed.
              </Text>
            )}
          </Stack>
          {create.error && !violationOf(create.error, 'name') && <ErrorNotice error={create.error} title="The token was not made" />}
          <Group justify="flex-end">
            <Button variant="default" onClick={onClose}>
              Go back
            </Button>
            <Button type="submit" loading={create.isPending}>
              Create token
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  )
}

function CopyText({ text, label }: { text: string; label: string }) {
  return (
    <Group wrap="nowrap" align="flex-start" gap="xs">
      <Code block style={{ flex: 1, overflowWrap: 'anywhere', whiteSpace: 'pre-wrap' }}>
        {text}
      </Code>
      <CopyButton value={text}>
        {({ copied, copy }) => (
          <Tooltip label={copied ? 'Copied' : `Copy ${label}`}>
            <ActionIcon variant="default" size="lg" onClick={copy} aria-label={`Copy ${label}`}>
              {copied ? <IconCheck size={16} /> : <IconCopy size={16} />}
            </ActionIcon>
          </Tooltip>
        )}
      </CopyButton>
    </Group>
  )
}

function Secret({ name, secret, onClose }: { name: string; secret: string; onClose: () => void }) {
  const { role } = useSession()
  return (
    <Modal opened onClose={onClose} title={`Token ${name}`} closeOnClickOutside={false} closeOnEscape={false} size="lg">
      <Stack>
        <Alert color="orange" icon={<IconAlertTriangle aria-hidden />} title="Copy it now" styles={{ title: { color: 'var(--mantine-color-text)' } }}>
          It is shown this once and can be read nowhere later. Keep it like a password.
        </Alert>
        <section aria-label="The token">
          <CopyText text={secret} label="the token" />
        </section>
        <section aria-label="Example">
          <Text size="sm" mb={4}>
            Try it in a terminal:
          </Text>
          <CopyText text={curlExample(window.location.origin, secret, role)} label="the command" />
        </section>
        <Group justify="flex-end">
          <Button onClick={onClose}>I have copied it</Button>
        </Group>
      </Stack>
    </Modal>
  )
}

function EndOthers({ tokens, onClose }: { tokens: Token[]; onClose: () => void }) {
  const revoke = useRevokeToken()
  return (
    <Confirm
      title={`End ${tokens.length} other logins?`}
      confirm="End all others"
      danger
      act={async () => {
        for (const token of tokens) {
          await revoke.mutateAsync(token.id).catch((cause: unknown) => {
            // One that has ended by itself meanwhile is as good as ended.
            if (!(cause instanceof ApiError && cause.status === 404)) throw cause
          })
        }
        notifications.show({ message: 'You are logged in here only.' })
      }}
      onClose={onClose}
    >
      <Text size="sm">Whoever uses them is logged out within seconds. This browser stays logged in, and personal tokens go on working.</Text>
    </Confirm>
  )
}

function Revoke({ token, onClose }: { token: Token; onClose: () => void }) {
  const revoke = useRevokeToken()
  const personal = token.kind === 'personal'
  const name = nameOf(token)
  return (
    <Confirm
      title={personal ? `Revoke ${name}?` : `End ${name}?`}
      confirm={personal ? `Revoke ${name}` : 'End login'}
      danger
      act={async () => {
        await revoke.mutateAsync(token.id)
        notifications.show({ message: personal ? `The token ${name} was revoked.` : 'The login was ended.' })
      }}
      onClose={onClose}
    >
      <Text size="sm">
        {personal
          ? 'Whatever uses this token is refused from now on. That cannot be taken back; a new token has another secret.'
          : 'Whoever uses it is logged out within seconds, and has to log in again.'}
      </Text>
      <Text size="sm" c="dimmed" component="div">
        Made <RelativeTime at={token.created_at} size="sm" />, id <Code>{token.id}</Code>
      </Text>
    </Confirm>
  )
}
