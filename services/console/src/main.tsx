import '@mantine/core/styles.css'
import '@mantine/notifications/styles.css'
import './shell/shell.css'
import { localStorageColorSchemeManager, MantineProvider } from '@mantine/core'
import { ModalsProvider } from '@mantine/modals'
import { Notifications } from '@mantine/notifications'
import { QueryClient, QueryClientProvider } from '@tanstack/react-query'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { createBrowserRouter, RouterProvider } from 'react-router'
import { ApiError } from './api/client'
import { Waiting } from './parts/page'
import * as layout from './shell/layout'
import { LiveProvider } from './shell/live'
import * as missing from './shell/missing'
import { theme, variables } from './shell/theme'

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 1000,
      // What the registry refused it would refuse again.
      retry: (failures, error) => failures < 2 && error instanceof ApiError && (error.status === 0 || error.status >= 500),
    },
  },
})

const router = createBrowserRouter([
  { path: '/login', lazy: () => import('./screens/login'), HydrateFallback: Waiting },
  {
    Component: layout.Component,
    ErrorBoundary: missing.Broken,
    HydrateFallback: Waiting,
    children: [
      {
        ErrorBoundary: missing.Broken,
        children: [
          { path: '/', lazy: () => import('./screens/home') },
          { path: '/jobs', lazy: () => import('./screens/jobs') },
          { path: '/jobs/new', lazy: () => import('./screens/editor') },
          { path: '/jobs/:id', lazy: () => import('./screens/job') },
          { path: '/jobs/:id/edit', lazy: () => import('./screens/editor') },
          { path: '/runs/:id', lazy: () => import('./screens/run') },
          { path: '/templates', lazy: () => import('./screens/templates') },
          { path: '/workers', lazy: () => import('./screens/workers') },
          { path: '/audit', lazy: () => import('./screens/audit') },
          { path: '/users', lazy: () => import('./screens/users') },
          { path: '/account', lazy: () => import('./screens/account') },
          { path: '*', Component: missing.Component },
        ],
      },
    ],
  },
])

const root = document.getElementById('root')
if (!root) throw new Error('the page has no #root')
createRoot(root).render(
  <StrictMode>
    <MantineProvider theme={theme} cssVariablesResolver={variables} defaultColorScheme="auto" colorSchemeManager={localStorageColorSchemeManager({ key: 'almanac-color-scheme' })}>
      <QueryClientProvider client={queries}>
        <LiveProvider>
          <ModalsProvider>
            <Notifications position="bottom-right" />
            <RouterProvider router={router} />
          </ModalsProvider>
        </LiveProvider>
      </QueryClientProvider>
    </MantineProvider>
  </StrictMode>,
)
