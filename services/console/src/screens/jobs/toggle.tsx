// The switch of a job. It moves at once, and back when the registry refuses.
import { Switch, Text } from '@mantine/core'
import { notifications } from '@mantine/notifications'
import { type QueryClient, useMutation, useQueryClient } from '@tanstack/react-query'
import { useRef } from 'react'
import { ApiError, answer, client } from '../../api/client'
import { type JobPage, refresh } from '../../api/queries'
import type { Job } from '../../api/types'
import { useMay } from '../../shell/session'

/** Changes a job wherever it has been read to already. */
function patch(queries: QueryClient, id: string, change: Partial<Job>) {
  queries.setQueriesData<JobPage>({ queryKey: ['jobs', 'list'] }, (page) => page && { ...page, jobs: page.jobs.map((j) => (j.id === id ? { ...j, ...change } : j)) })
  queries.setQueryData<Job>(['jobs', 'one', id], (job) => job && { ...job, ...change })
}

/** Switches a job on or off. */
export const setEnabled = async (job: Pick<Job, 'id' | 'version'>, enabled: boolean): Promise<Job> =>
  (await answer<{ job: Job }>(client.PUT('/api/admin/scheduler-jobs/{id}', { params: { path: { id: job.id } }, body: { enabled, version: job.version } }))).job

/** Switches jobs. False says that a switch of the same job is still on its way: nothing was done. */
export function useToggle(): (job: Job, enabled: boolean) => boolean {
  const queries = useQueryClient()
  const underway = useRef(new Set<string>())
  const { mutate } = useMutation({
    mutationFn: ({ job, enabled }: { job: Job; enabled: boolean }) => setEnabled(job, enabled),
    onMutate: async ({ job, enabled }) => {
      await queries.cancelQueries({ queryKey: ['jobs'] }) // an answer on its way would move the switch back
      patch(queries, job.id, { enabled })
    },
    onSuccess: (stored, { job, enabled }) => {
      patch(queries, job.id, { enabled: stored.enabled, version: stored.version, next_run_at: stored.next_run_at, updated_at: stored.updated_at })
      notifications.show({ message: enabled ? `“${job.name}” runs by its schedule again.` : `“${job.name}” is paused.`, color: 'green', autoClose: 2500 })
    },
    onError: (error, { job, enabled }) => {
      patch(queries, job.id, { enabled: job.enabled })
      const changed = error instanceof ApiError && error.status === 412
      notifications.show({
        title: `“${job.name}” was not ${enabled ? 'enabled' : 'paused'}`,
        message: changed ? 'Somebody else changed it meanwhile. You now see their version: look at it, then switch again.' : error.message,
        color: 'red',
        autoClose: 10_000,
      })
    },
    onSettled: (_, __, { job }) => {
      underway.current.delete(job.id)
      return refresh(queries)
    },
  })
  return (job, enabled) => {
    if (underway.current.has(job.id)) return false
    underway.current.add(job.id)
    mutate({ job, enabled })
    return true
  }
}

/** Whether a job is on; for those who may, as a switch. */
export function EnabledSwitch({ job }: { job: Job }) {
  const toggle = useToggle()
  const may = useMay('super_admin')
  const word = job.enabled ? 'On' : 'Paused'
  if (!may) return <Text span size="sm" c={job.enabled ? undefined : 'dimmed'}>{word}</Text>
  return <Switch checked={job.enabled} label={word} onChange={(event) => toggle(job, event.currentTarget.checked)} />
}
