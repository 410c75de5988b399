// The frame around every screen: the way to the others, who is logged in, and
// whether the screens are live.
import { ActionIcon, AppShell, Burger, Button, Group, Image, Menu, Modal, NavLink, ScrollArea, Switch, Text, Tooltip, UnstyledButton, useComputedColorScheme, useMantineColorScheme } from '@mantine/core'
import { useDisclosure } from '@mantine/hooks'
import {
  IconCalendarTime,
  IconChevronDown,
  IconHome,
  IconLayoutGrid,
  IconListDetails,
  IconLogout,
  IconMoon,
  IconPlus,
  type IconProps,
  IconServer,
  IconSun,
  IconUser,
  IconUsers,
} from '@tabler/icons-react'
import { useQuery, useQueryClient } from '@tanstack/react-query'
import { type ComponentType, Suspense, useEffect, useState } from 'react'
import { Link, Navigate, Outlet, useLocation, useNavigate } from 'react-router'
import { ApiError, onSessionLost } from '../api/client'
import { endSession, sessionQuery } from '../api/queries'
import type { Role } from '../api/types'
import { EmptyState, ErrorNotice, Page, Waiting } from '../parts/page'
import { useLive } from './live'
import { LoginForm } from './login-form'
import { roleNames, SessionProvider, useMay, useSession } from './session'

const places: { to: string; name: string; icon: ComponentType<IconProps>; least: Role; also?: string }[] = [
  { to: '/', name: 'Home', icon: IconHome, least: 'admin' },
  { to: '/jobs', name: 'Jobs', icon: IconCalendarTime, least: 'admin', also: '/runs' },
  { to: '/templates', name: 'Templates', icon: IconLayoutGrid, least: 'admin' },
  { to: '/workers', name: 'Workers', icon: IconServer, least: 'admin' },
  { to: '/audit', name: 'Audit', icon: IconListDetails, least: 'super_admin' },
  { to: '/users', name: 'Users', icon: IconUsers, least: 'super_admin' },
]

/** The screens of somebody who is logged in; others are sent to the login. */
export function Component() {
  const session = useQuery(sessionQuery())
  const location = useLocation()
  if (session.data) {
    return (
      <SessionProvider session={session.data}>
        <Frame />
      </SessionProvider>
    )
  }
  if (session.error instanceof ApiError && session.error.status === 401) {
    const next = location.pathname + location.search
    return <Navigate to={next === '/' ? '/login' : `/login?next=${encodeURIComponent(next)}`} replace />
  }
  if (session.error) return <ErrorNotice error={session.error} retry={() => void session.refetch()} />
  return <Waiting />
}

function Frame() {
  const [opened, menu] = useDisclosure(false)
  const { pathname } = useLocation()
  const session = useSession()
  const admin = useMay('admin')
  const superAdmin = useMay('super_admin')
  const { live, setLive } = useLive()
  const scheme = useComputedColorScheme('light')
  const { setColorScheme } = useMantineColorScheme()

  useEffect(menu.close, [pathname])

  return (
    <AppShell header={{ height: 56 }} navbar={{ width: 210, breakpoint: 'sm', collapsed: { mobile: !opened } }} padding="md">
      <a href="#content" className="skip">
        Skip to the content
      </a>
      <AppShell.Header>
        <Group h="100%" px="md" justify="space-between" wrap="nowrap" gap="xs">
          <Group gap="sm" wrap="nowrap">
            <Burger opened={opened} onClick={menu.toggle} hiddenFrom="sm" size="sm" aria-label={opened ? 'Close the menu' : 'Open the menu'} />
            <UnstyledButton component={Link} to="/" aria-label="Almanac, home">
              <Group gap={8} wrap="nowrap">
                <Image src="/icon.svg" alt="" w={28} h={28} />
                <Text fw={700} visibleFrom="xs">
                  Almanac
                </Text>
              </Group>
            </UnstyledButton>
          </Group>
          <Group gap="xs" wrap="nowrap">
            {admin && (
              <Tooltip label={live ? 'Screens keep themselves up to date; switch off to hold them still' : 'Paused: nothing changes until you switch this on or reload'}>
                <div>
                  <Switch size="sm" checked={live} onChange={(e) => setLive(e.currentTarget.checked)} label="Live" labelPosition="left" />
                </div>
              </Tooltip>
            )}
            <Tooltip label={scheme === 'dark' ? 'Light colours' : 'Dark colours'}>
              <ActionIcon variant="default" size="lg" onClick={() => setColorScheme(scheme === 'dark' ? 'light' : 'dark')} aria-label={scheme === 'dark' ? 'Switch to light colours' : 'Switch to dark colours'}>
                {scheme === 'dark' ? <IconSun size={18} /> : <IconMoon size={18} />}
              </ActionIcon>
            </Tooltip>
            <UserMenu />
          </Group>
        </Group>
      </AppShell.Header>
      <AppShell.Navbar p="xs" aria-label="Main">
        <AppShell.Section grow component={ScrollArea}>
          {superAdmin && (
            <Button component={Link} to="/jobs/new" fullWidth leftSection={<IconPlus size={16} />} mb="sm">
              New job
            </Button>
          )}
          {places
            .filter((p) => (p.least === 'super_admin' ? superAdmin : admin))
            .map((p) => {
              const here = p.to === '/' ? pathname === '/' : pathname.startsWith(p.to) || (!!p.also && pathname.startsWith(p.also))
              return <NavLink key={p.to} component={Link} to={p.to} label={p.name} leftSection={<p.icon size={18} stroke={1.7} aria-hidden />} active={here && pathname !== '/jobs/new'} aria-current={here ? 'page' : undefined} />
            })}
        </AppShell.Section>
        <AppShell.Section>
          <NavLink component="a" href="/docs" label="API" leftSection={<Text span ff="monospace" size="xs" aria-hidden>{'{ }'}</Text>} />
          <Text size="xs" c="dimmed" px="sm" pt={4}>
            {/* A build outside of a release has no version worth showing. */}
            {session.version.startsWith('(') ? '' : session.version}
          </Text>
        </AppShell.Section>
      </AppShell.Navbar>
      <AppShell.Main id="content" tabIndex={-1}>
        {admin || pathname === '/account' ? (
          <Suspense fallback={<Waiting />}>
            <Outlet />
          </Suspense>
        ) : (
          <Page title="Welcome">
            <EmptyState title="Your role sees no jobs" action={<Button component={Link} to="/account" variant="default">Account and tokens</Button>}>
              You are logged in as {session.username} with the role {roleNames[session.role]}. To see jobs and runs, ask a super admin for the role admin. Your own
              password and tokens are on the account page.
            </EmptyState>
          </Page>
        )}
      </AppShell.Main>
      <LoginAgain />
    </AppShell>
  )
}

function UserMenu() {
  const session = useSession()
  const queries = useQueryClient()
  const navigate = useNavigate()
  async function leave() {
    await endSession().catch(() => {}) // gone either way
    queries.clear()
    await navigate('/login')
  }
  return (
    <Menu position="bottom-end" withArrow>
      <Menu.Target>
        <Button variant="subtle" color="gray" px="xs" rightSection={<IconChevronDown size={14} />} leftSection={<IconUser size={16} />} aria-label={`Account of ${session.username}`}>
          <Text span size="sm" maw={120} truncate visibleFrom="xs">
            {session.username}
          </Text>
        </Button>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Label>
          {session.username}, {roleNames[session.role]}
        </Menu.Label>
        <Menu.Item component={Link} to="/account" leftSection={<IconUser size={16} />}>
          Account and tokens
        </Menu.Item>
        <Menu.Item leftSection={<IconLogout size={16} />} onClick={() => void leave()}>
          Log out
        </Menu.Item>
      </Menu.Dropdown>
    </Menu>
  )
}

/** Asks for the password over the page whose session ran out, and over its dialogs: what was typed there stays. */
function LoginAgain() {
  const session = useSession()
  const queries = useQueryClient()
  const [lost, setLost] = useState(false)
  useEffect(() => {
    onSessionLost(() => setLost(true))
    return () => onSessionLost(() => {})
  }, [])
  return (
    <Modal opened={lost} onClose={() => setLost(false)} title="Your session has ended" closeOnClickOutside={false} zIndex={400}>
      <Text size="sm" mb="md">
        Log in again to go on where you were. Nothing that you typed is lost.
      </Text>
      <LoginForm
        username={session.username}
        done={async () => {
          setLost(false)
          await queries.invalidateQueries()
        }}
      />
    </Modal>
  )
}
