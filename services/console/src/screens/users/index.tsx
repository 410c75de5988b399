import { Alert, Anchor, Button, Card, Group, Menu, ActionIcon, Modal, Pagination, Radio, Stack, Table, Text, TextInput, VisuallyHidden } from '@mantine/core'
import { useMediaQuery } from '@mantine/hooks'
import { notifications } from '@mantine/notifications'
import { IconDots, IconKey, IconPlus, IconSearch, IconTrash, IconUserShield } from '@tabler/icons-react'
import { useQuery } from '@tanstack/react-query'
import { type FormEvent, useState } from 'react'
import { Link } from 'react-router'
import { ApiError, violationOf } from '../../api/client'
import { useAddUser, useRemoveUser, usersQuery, useUpdateUser } from '../../api/queries'
import type { Role, UserAccount } from '../../api/types'
import { useAddress } from '../../parts/address'
import { Confirm } from '../../parts/confirm'
import { Copyable } from '../../parts/json'
import { NewPassword, passwordProblem } from '../../parts/new-password'
import { EmptyState, ErrorNotice, Loaded, Page } from '../../parts/page'
import { RelativeTime } from '../../parts/time'
import { useLive } from '../../shell/live'
import { roleNames, useMay, useSession } from '../../shell/session'

const perPage = 25

/** What each role may do, in a sentence. */
export const roleMeanings: Record<Role, string> = {
  super_admin: 'May do everything: make, change, delete and run all jobs, drain workers, read the audit log, look after users.',
  admin: 'Sees all jobs and runs, starts what destroys nothing, and cancels what they started. Changes no job.',
  user: 'Sees no jobs. Has only an account, for instance until somebody gives a role.',
}
const roles: Role[] = ['super_admin', 'admin', 'user']

/** The users, of whom super admins look after the others. */
export function Component() {
  const may = useMay('super_admin')
  if (!may) {
    return (
      <Page title="Users">
        <EmptyState title="Users are looked after by super admins">
          Your own password and tokens are on your <Anchor component={Link} to="/account" inherit underline="always">account page</Anchor>.
        </EmptyState>
      </Page>
    )
  }
  return <Users />
}

type Doing = { what: 'role' | 'password' | 'remove'; user: UserAccount } | { what: 'add' }

function Users() {
  const { every } = useLive()
  const users = useQuery({ ...usersQuery(), refetchInterval: every(10_000) })
  const [doing, setDoing] = useState<Doing | null>(null)
  const { params, change } = useAddress()
  const search = params.get('search') ?? ''
  const close = () => setDoing(null)

  return (
    <Page
      title="Users"
      actions={
        <Button leftSection={<IconPlus size={16} aria-hidden />} onClick={() => setDoing({ what: 'add' })}>
          Add user
        </Button>
      }
    >
      <Loaded query={users}>
        {(all) => {
          const found = all.filter((u) => u.username.toLowerCase().includes(search.trim().toLowerCase()))
          const pages = Math.max(1, Math.ceil(found.length / perPage))
          const page = Math.min(Math.max(1, Math.trunc(Number(params.get('page'))) || 1), pages)
          return (
            <Stack>
              {all.length > 8 && (
                <TextInput
                  label="Search"
                  placeholder="Username"
                  leftSection={<IconSearch size={16} aria-hidden />}
                  maw={420}
                  type="search"
                  value={search}
                  onChange={(e) => change('search', e.currentTarget.value)}
                />
              )}
              {all.length === 1 && (
                <Alert variant="default" title="You are the only one here" styles={{ message: { color: 'var(--mantine-color-text)' } }}>
                  Add the people who make or watch jobs, each with an own account: then the audit log tells who did what. A second super admin helps when you are away.
                </Alert>
              )}
              {found.length === 0 ? (
                <EmptyState title="No user matches" action={<Button variant="default" onClick={() => change('search', '')}>Show all {all.length}</Button>}>
                  Nobody has “{search}” in their name.
                </EmptyState>
              ) : (
                <List users={found.slice((page - 1) * perPage, page * perPage)} ask={setDoing} />
              )}
              {pages > 1 && (
                <Group justify="space-between">
                  <Text size="sm" c="dimmed">
                    {found.length} users
                  </Text>
                  <Pagination total={pages} value={page} onChange={(p) => change('page', p === 1 ? '' : String(p))} getControlProps={(c) => ({ 'aria-label': `${c} page` })} getItemProps={(p) => ({ 'aria-label': `Page ${p}` })} />
                </Group>
              )}
            </Stack>
          )
        }}
      </Loaded>
      {doing?.what === 'add' && <AddUser onClose={close} />}
      {doing?.what === 'role' && <ChangeRole user={doing.user} onClose={close} />}
      {doing?.what === 'password' && <SetPassword user={doing.user} onClose={close} />}
      {doing?.what === 'remove' && <RemoveUser user={doing.user} onClose={close} />}
    </Page>
  )
}

function List({ users, ask }: { users: UserAccount[]; ask: (doing: Doing) => void }) {
  const narrow = useMediaQuery('(max-width: 48em)', false, { getInitialValueInEffect: false })
  const { username: me } = useSession()
  const logsIn = (user: UserAccount) => (user.has_password ? 'Password' : 'Token only')

  if (narrow) {
    return (
      <Stack gap="sm">
        {users.map((u) => (
          <Card key={u.username} withBorder padding="sm">
            <Group justify="space-between" wrap="nowrap" align="flex-start">
              <Stack gap={2} miw={0}>
                <Text fw={600} style={{ overflowWrap: 'anywhere' }}>
                  {u.username}
                </Text>
                <Text size="sm">{roleNames[u.role]}</Text>
                <Text size="sm" c="dimmed" component="div">
                  {logsIn(u)}, added <RelativeTime at={u.created_at} size="sm" />
                </Text>
                {u.username === me && <Own />}
              </Stack>
              {u.username !== me && <Actions user={u} ask={ask} />}
            </Group>
          </Card>
        ))}
      </Stack>
    )
  }
  return (
    <Table verticalSpacing="sm" withTableBorder aria-label="Users">
      <Table.Thead>
        <Table.Tr>
          <Table.Th w="50%">Username</Table.Th>
          <Table.Th>Role</Table.Th>
          <Table.Th>Logs in with</Table.Th>
          <Table.Th>Added</Table.Th>
          <Table.Th>
            <VisuallyHidden>Actions</VisuallyHidden>
          </Table.Th>
        </Table.Tr>
      </Table.Thead>
      <Table.Tbody>
        {users.map((u) => (
          <Table.Tr key={u.username}>
            <Table.Th scope="row" fw={600} style={{ overflowWrap: 'anywhere' }}>
              {u.username}
              {u.username === me && <Own />}
            </Table.Th>
            <Table.Td style={{ whiteSpace: 'nowrap' }}>{roleNames[u.role]}</Table.Td>
            <Table.Td style={{ whiteSpace: 'nowrap' }}>{logsIn(u)}</Table.Td>
            <Table.Td style={{ whiteSpace: 'nowrap' }}>
              <RelativeTime at={u.created_at} size="sm" />
            </Table.Td>
            <Table.Td ta="right">{u.username !== me && <Actions user={u} ask={ask} />}</Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  )
}

const Own = () => (
  <Text size="sm" fw={400} c="dimmed" component="div">
    This is you. Change your password on your{' '}
    <Anchor component={Link} to="/account" size="sm" underline="always">
      account page
    </Anchor>
    ; your role and removal are for another super admin.
  </Text>
)

const Actions = ({ user, ask }: { user: UserAccount; ask: (doing: Doing) => void }) => (
  <Menu position="bottom-end" withArrow>
    <Menu.Target>
      <ActionIcon variant="default" size="lg" aria-label={`Change ${user.username}`}>
        <IconDots size={18} />
      </ActionIcon>
    </Menu.Target>
    <Menu.Dropdown>
      <Menu.Item leftSection={<IconUserShield size={16} />} onClick={() => ask({ what: 'role', user })}>
        Change role
      </Menu.Item>
      <Menu.Item leftSection={<IconKey size={16} />} onClick={() => ask({ what: 'password', user })}>
        Set new password
      </Menu.Item>
      <Menu.Item leftSection={<IconTrash size={16} />} color="var(--mantine-color-error)" onClick={() => ask({ what: 'remove', user })}>
        Remove
      </Menu.Item>
    </Menu.Dropdown>
  </Menu>
)

const RoleChoice = ({ value, onChange, error }: { value: Role; onChange: (role: Role) => void; error?: string }) => (
  <Radio.Group label="Role" value={value} onChange={(v) => onChange(v as Role)} error={error} required>
    <Stack gap="xs" mt={6}>
      {roles.map((role) => (
        <Radio key={role} value={role} label={roleNames[role]} description={roleMeanings[role]} />
      ))}
    </Stack>
  </Radio.Group>
)

// What the registry says of a field is shown beside it; of the rest, below.
const beside = (error: unknown, ...fields: string[]) => fields.some((field) => violationOf(error, field) !== undefined)

/** What is wrong with a username, or undefined. */
export function usernameProblem(username: string): string | undefined {
  if (/^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$/.test(username)) return undefined
  return 'Take up to 100 letters, digits and . _ @ -, beginning with a letter or digit'
}

function AddUser({ onClose }: { onClose: () => void }) {
  const add = useAddUser()
  const [username, setUsername] = useState('')
  const [role, setRole] = useState<Role>('admin')
  const [password, setPassword] = useState('')
  const [tried, setTried] = useState(false)
  const [done, setDone] = useState(false)

  async function submit(event: FormEvent) {
    event.preventDefault()
    setTried(true)
    if (usernameProblem(username.trim()) || passwordProblem(password)) return
    await add.mutateAsync({ username: username.trim(), role, password }).then(
      () => {
        notifications.show({ message: `${username.trim()} was added.` })
        setDone(true)
      },
      () => {}, // shown from add.error
    )
  }

  if (done) return <HandOver title={`${username.trim()} was added`} username={username.trim()} password={password} onClose={onClose} />
  const taken = add.error instanceof ApiError && add.error.status === 409 ? add.error.message : undefined
  return (
    <Modal opened onClose={onClose} title="Add user" closeOnClickOutside={false}>
      <form onSubmit={(event) => void submit(event)} noValidate>
        <Stack>
          <TextInput
            label="Username"
            name="new-username"
            autoComplete="off"
            required
            data-autofocus
            spellCheck={false}
            autoCapitalize="none"
            value={username}
            onChange={(e) => setUsername(e.currentTarget.value)}
            error={(tried && usernameProblem(username.trim())) || violationOf(add.error, 'username') || taken}
          />
          <RoleChoice value={role} onChange={setRole} error={violationOf(add.error, 'role')} />
          <NewPassword
            label="Password"
            name="new-user-password"
            value={password}
            onChange={setPassword}
            error={(tried && passwordProblem(password)) || violationOf(add.error, 'password')}
            generate
          />
          {add.error && !taken && !beside(add.error, 'username', 'role', 'password') && <ErrorNotice error={add.error} title="The user was not added" />}
          <Group justify="flex-end">
            <Button variant="default" onClick={onClose}>
              Go back
            </Button>
            <Button type="submit" loading={add.isPending}>
              Add user
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  )
}

/** The password once more, for whoever has to be told: nobody can look it up later. */
function HandOver({ title, username, password, onClose }: { title: string; username: string; password: string; onClose: () => void }) {
  return (
    <Modal opened onClose={onClose} title={title} closeOnClickOutside={false}>
      <Stack>
        <Text size="sm">
          Tell {username} the password over a way that nobody else reads. It is shown this once; they can change it on their account page.
        </Text>
        <Stack gap={4}>
          <Text size="sm" c="dimmed">
            Username
          </Text>
          <Copyable value={username} label="the username" />
        </Stack>
        <Stack gap={4}>
          <Text size="sm" c="dimmed">
            Password
          </Text>
          <Copyable value={password} label="the password" />
        </Stack>
        <Group justify="flex-end">
          <Button onClick={onClose} data-autofocus>
            Done
          </Button>
        </Group>
      </Stack>
    </Modal>
  )
}

function ChangeRole({ user, onClose }: { user: UserAccount; onClose: () => void }) {
  const update = useUpdateUser()
  const [role, setRole] = useState<Role>(user.role)

  async function submit(event: FormEvent) {
    event.preventDefault()
    await update.mutateAsync({ username: user.username, role }).then(
      () => {
        notifications.show({ message: `${user.username} now has the role ${roleNames[role]}.` })
        onClose()
      },
      () => {}, // shown from update.error
    )
  }

  return (
    <Modal opened onClose={onClose} title={`Role of ${user.username}`}>
      <form onSubmit={(event) => void submit(event)}>
        <Stack>
          <RoleChoice value={role} onChange={setRole} error={violationOf(update.error, 'role')} />
          <Text size="sm" c="dimmed">
            It holds at once, also for their tokens and for where they are logged in.
          </Text>
          {update.error && !beside(update.error, 'role') && <ErrorNotice error={update.error} title="The role was not changed" />}
          <Group justify="flex-end">
            <Button variant="default" onClick={onClose}>
              Go back
            </Button>
            <Button type="submit" loading={update.isPending} disabled={role === user.role}>
              Change role
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  )
}

function SetPassword({ user, onClose }: { user: UserAccount; onClose: () => void }) {
  const update = useUpdateUser()
  const [password, setPassword] = useState('')
  const [tried, setTried] = useState(false)
  const [done, setDone] = useState(false)

  async function submit(event: FormEvent) {
    event.preventDefault()
    setTried(true)
    if (passwordProblem(password)) return
    await update.mutateAsync({ username: user.username, password }).then(
      () => {
        notifications.show({ message: `${user.username} has a new password.` })
        setDone(true)
      },
      () => {}, // shown from update.error
    )
  }

  if (done) return <HandOver title={`${user.username} has a new password`} username={user.username} password={password} onClose={onClose} />
  return (
    <Modal opened onClose={onClose} title={`New password for ${user.username}`} closeOnClickOutside={false}>
      <form onSubmit={(event) => void submit(event)} noValidate>
        <Stack>
          <Text size="sm">{user.username} is logged out everywhere and logs in with the new password. Their personal tokens stay.</Text>
          <NewPassword
            label="New password"
            name="user-new-password"
            value={password}
            onChange={setPassword}
            error={(tried && passwordProblem(password)) || violationOf(update.error, 'password')}
            generate
            autoFocus
          />
          {update.error && !beside(update.error, 'password') && <ErrorNotice error={update.error} title="The password was not changed" />}
          <Group justify="flex-end">
            <Button variant="default" onClick={onClose}>
              Go back
            </Button>
            <Button type="submit" loading={update.isPending}>
              Set password
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  )
}

function RemoveUser({ user, onClose }: { user: UserAccount; onClose: () => void }) {
  const remove = useRemoveUser()
  return (
    <Confirm
      title={`Remove ${user.username}?`}
      confirm={`Remove ${user.username}`}
      danger
      type={user.username}
      act={async () => {
        await remove.mutateAsync(user.username)
        notifications.show({ message: `${user.username} was removed.` })
      }}
      onClose={onClose}
    >
      <Text size="sm">
        {user.username} is logged out everywhere, and all their tokens stop working: whatever uses them fails from then on. What they did stays in the audit log, and jobs they made
        go on.
      </Text>
    </Confirm>
  )
}
