// What the screens read and change. Keys begin with what they are about, so that a
// change makes everything it touches be read again.
import { keepPreviousData, type QueryClient, queryOptions, useMutation, useQueryClient } from '@tanstack/react-query'
import { answer, client } from './client'
import type {
  AuditEntry,
  Execution,
  Job,
  JobInput,
  Json,
  LogLine,
  Occurrence,
  Overview,
  Registry,
  Schedule,
  ScheduleInput,
  Session,
  Statistics,
  Status,
  Template,
  Token,
  Upcoming,
  UserAccount,
  Worker,
} from './types'

export type JobFilter = {
  search?: string
  template_type?: string[]
  enabled?: boolean
  label?: string[]
  state?: string[]
  sort?: string
  page?: number
  limit?: number
  runs?: number
}
export type JobPage = { jobs: Job[]; total: number; page: number; pages: number }
export type ExecutionPage = { executions: Execution[]; total: number }

export const sessionQuery = () =>
  queryOptions({
    queryKey: ['session'],
    queryFn: ({ signal }) => answer<Session>(client.GET('/api/auth/session', { signal })),
    retry: false,
    staleTime: Infinity,
  })

export const jobsQuery = (filter: JobFilter) =>
  queryOptions({
    queryKey: ['jobs', 'list', filter],
    queryFn: ({ signal }) => answer<JobPage>(client.GET('/api/admin/scheduler-jobs', { params: { query: filter }, signal })),
    placeholderData: keepPreviousData,
  })

export const jobQuery = (id: string) =>
  queryOptions({
    queryKey: ['jobs', 'one', id],
    queryFn: async ({ signal }) =>
      (await answer<{ job: Job }>(client.GET('/api/admin/scheduler-jobs/{id}', { params: { path: { id } }, signal }))).job,
  })

export const executionsQuery = (id: string, filter: { status?: Status[]; page?: number; limit?: number }) =>
  queryOptions({
    queryKey: ['runs', 'of', id, filter],
    queryFn: ({ signal }) =>
      answer<ExecutionPage>(
        client.GET('/api/admin/scheduler-jobs/{id}/executions', { params: { path: { id }, query: filter }, signal }),
      ),
    placeholderData: keepPreviousData,
  })

export const executionQuery = (id: string) =>
  queryOptions({
    queryKey: ['runs', 'one', id],
    queryFn: ({ signal }) =>
      answer<{ execution: Execution; logs: LogLine[] }>(
        client.GET('/api/admin/job-executions/{execution_id}', { params: { path: { execution_id: id } }, signal }),
      ),
  })

export const activityQuery = (filter: { state: 'live' | 'failed'; since?: string; page?: number; limit?: number }) =>
  queryOptions({
    queryKey: ['runs', 'activity', filter],
    queryFn: ({ signal }) => answer<ExecutionPage>(client.GET('/api/admin/job-executions', { params: { query: filter }, signal })),
    placeholderData: keepPreviousData,
  })

export const overviewQuery = () =>
  queryOptions({
    queryKey: ['overview'],
    queryFn: ({ signal }) => answer<Overview>(client.GET('/api/admin/overview', { signal })),
  })

export const statisticsQuery = (filter: { job_id?: string; from?: string; until?: string; step_seconds?: number }) =>
  queryOptions({
    queryKey: ['statistics', filter],
    queryFn: ({ signal }) => answer<Statistics>(client.GET('/api/admin/statistics', { params: { query: filter }, signal })),
    placeholderData: keepPreviousData,
  })

export const upcomingQuery = (filter: { job_id?: string; limit?: number }) =>
  queryOptions({
    queryKey: ['upcoming', filter],
    queryFn: async ({ signal }) =>
      (await answer<{ upcoming: Upcoming[] }>(client.GET('/api/admin/upcoming', { params: { query: filter }, signal }))).upcoming,
    placeholderData: keepPreviousData,
  })

export const templatesQuery = () =>
  queryOptions({
    queryKey: ['templates'],
    queryFn: async ({ signal }) => (await answer<{ templates: Template[] }>(client.GET('/api/admin/job-templates', { signal }))).templates,
    staleTime: 60_000,
  })

export const workersQuery = () =>
  queryOptions({
    queryKey: ['workers'],
    queryFn: async ({ signal }) => (await answer<{ workers: Worker[] }>(client.GET('/api/admin/workers', { signal }))).workers,
  })

export const registriesQuery = () =>
  queryOptions({
    queryKey: ['registries'],
    queryFn: async ({ signal }) => (await answer<{ registries: Registry[] }>(client.GET('/api/admin/registries', { signal }))).registries,
  })

export const auditQuery = (filter: { object?: string; user?: string; action?: string; page?: number; limit?: number }) =>
  queryOptions({
    queryKey: ['audit', filter],
    queryFn: ({ signal }) =>
      answer<{ entries: AuditEntry[]; total: number }>(client.GET('/api/admin/audit', { params: { query: filter }, signal })),
    placeholderData: keepPreviousData,
  })

export const usersQuery = () =>
  queryOptions({
    queryKey: ['users'],
    queryFn: async ({ signal }) => (await answer<{ users: UserAccount[] }>(client.GET('/api/admin/users', { signal }))).users,
  })

export const tokensQuery = () =>
  queryOptions({
    queryKey: ['tokens'],
    queryFn: async ({ signal }) => (await answer<{ tokens: Token[] }>(client.GET('/api/auth/tokens', { signal }))).tokens,
  })

export type Preview = { schedule: Schedule; occurrences: Occurrence[] }

export const previewQuery = (schedule: ScheduleInput, options: { count?: number; neighbours?: boolean; job_id?: string }) =>
  queryOptions({
    queryKey: ['preview', schedule, options],
    queryFn: ({ signal }) =>
      answer<Preview>(client.POST('/api/admin/schedules/preview', { body: { schedule, ...options }, signal })),
    placeholderData: keepPreviousData,
    retry: false,
  })

/** Has everything read again that a change of jobs or runs may have touched. */
export async function refresh(queries: QueryClient) {
  await Promise.all(['jobs', 'runs', 'overview', 'upcoming', 'statistics', 'audit'].map((key) => queries.invalidateQueries({ queryKey: [key] })))
}

function useChange<In, Out>(change: (input: In) => Promise<Out>, also: string[] = []) {
  const queries = useQueryClient()
  return useMutation({
    mutationFn: change,
    onSuccess: async () => {
      await refresh(queries)
      await Promise.all(also.map((key) => queries.invalidateQueries({ queryKey: [key] })))
    },
  })
}

export const useCreateJob = () =>
  useChange(async (input: { job: JobInput; key: string }) => {
    const headers = { 'Idempotency-Key': input.key }
    return (await answer<{ job: Job }>(client.POST('/api/admin/scheduler-jobs', { body: input.job, headers }))).job
  })

/** version is the one that was read: somebody else's later change is not overwritten. */
export const useUpdateJob = () =>
  useChange(async (input: { id: string; version: number; change: JobInput }) => {
    const body = { ...input.change, version: input.version }
    return (await answer<{ job: Job }>(client.PUT('/api/admin/scheduler-jobs/{id}', { params: { path: { id: input.id } }, body }))).job
  })

export const useDeleteJob = () =>
  useChange((id: string) => answer<unknown>(client.DELETE('/api/admin/scheduler-jobs/{id}', { params: { path: { id } } })))

/** key makes a repeated request start one run only. */
export const useRunJob = () =>
  useChange((input: { id: string; parameters?: Json; key?: string }) => {
    const params: { path: { id: string } } = Object.assign({ path: { id: input.id } }, input.key && { header: { 'Idempotency-Key': input.key } })
    return answer<{ execution_id: string }>(client.POST('/api/admin/scheduler-jobs/{id}/run', { params, body: { parameters: input.parameters } }))
  })

export const useTryJob = () =>
  useChange((job: JobInput) =>
    answer<{ execution_id: string; dry_run: boolean }>(client.POST('/api/admin/scheduler-jobs/try', { body: job })),
  )

export const useCancelRun = () =>
  useChange((input: { id: string; reason?: string }) =>
    answer<{ message: string }>(
      client.POST('/api/admin/job-executions/{execution_id}/cancel', {
        params: { path: { execution_id: input.id } },
        body: { reason: input.reason },
      }),
    ),
  )

export const useResolveRun = () =>
  useChange((input: { id: string; status: 'success' | 'failed' | 'cancelled'; reason: string }) =>
    answer<{ message: string }>(
      client.POST('/api/admin/job-executions/{execution_id}/resolve', {
        params: { path: { execution_id: input.id } },
        body: { status: input.status, reason: input.reason },
      }),
    ),
  )

export const useDrainWorker = () =>
  useChange(
    (input: { id: string; drain: boolean }) =>
      input.drain
        ? answer<{ message: string }>(client.POST('/api/admin/workers/{id}/drain', { params: { path: { id: input.id } }, body: {} }))
        : answer<{ message: string }>(client.POST('/api/admin/workers/{id}/resume', { params: { path: { id: input.id } }, body: {} })),
    ['workers'],
  )

export const useAddUser = () =>
  useChange((input: { username: string; role: string; password: string }) => answer<unknown>(client.POST('/api/admin/users', { body: input })), ['users'])

export const useUpdateUser = () =>
  useChange(
    (input: { username: string; role?: string; password?: string }) =>
      answer<unknown>(
        client.PUT('/api/admin/users/{username}', {
          params: { path: { username: input.username } },
          body: { role: input.role, password: input.password },
        }),
      ),
    ['users'],
  )

export const useRemoveUser = () =>
  useChange((username: string) => answer<unknown>(client.DELETE('/api/admin/users/{username}', { params: { path: { username } } })), ['users'])

export const useChangePassword = () =>
  useChange((input: { current_password: string; new_password: string }) => answer<unknown>(client.POST('/api/auth/password', { body: input })), ['tokens'])

export const useCreateToken = () =>
  useChange(
    (input: { name: string; expires_in_days: number }) => answer<{ token: Token; secret: string }>(client.POST('/api/auth/tokens', { body: input })),
    ['tokens'],
  )

export const useRevokeToken = () =>
  useChange((id: string) => answer<unknown>(client.DELETE('/api/auth/tokens/{id}', { params: { path: { id } } })), ['tokens'])

export const startSession = (input: { username: string; password: string }) => answer<unknown>(client.POST('/api/auth/session', { body: input }))
export const endSession = () => answer<unknown>(client.DELETE('/api/auth/session'))
