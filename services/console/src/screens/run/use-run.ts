// One run as it goes on: the stream of its changes and its log, taken up again
// when it breaks off.
import { useDocumentVisibility } from '@mantine/hooks'
import { useQuery } from '@tanstack/react-query'
import { useCallback, useEffect, useRef, useState } from 'react'
import { ApiError } from '../../api/client'
import { executionQuery } from '../../api/queries'
import type { Execution } from '../../api/types'
import { watchRun } from '../../api/watch'
import { ended } from '../../parts/status'
import { useLive } from '../../shell/live'
import { Log } from './log-lines'

/** Why nothing new comes; retryAt is when the next attempt is made, null for never. */
export type Trouble = { error: unknown; retryAt: number | null }
export type WatchedRun = { run: Execution | null; log: Log; over: boolean; trouble: Trouble | null; again: () => void }

/** Milliseconds to wait after the nth failure in a row, from 0. */
export const backoff = (failures: number) => Math.min(1000 * 2 ** failures, 30_000)

/** Whether asking again would be refused again. */
export const hopeless = (error: unknown) => error instanceof ApiError && [400, 403, 404].includes(error.status)

function pause(milliseconds: number, signal: AbortSignal) {
  return new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, milliseconds)
    signal.addEventListener('abort', () => {
      clearTimeout(timer)
      resolve()
    })
  })
}

/** Lines that the registry sends at once at most: fewer mean that it has no more. */
const fullEvent = 1000

/** Whether those who are told how the run ended are still being told. */
export function stillTelling(run: Execution | undefined, now: number): boolean {
  if (!run?.completed_at) return false
  const since = now - new Date(run.completed_at).getTime()
  return since < 15_000 || (since < 600_000 && run.notifications.some((n) => !ended(n.status)))
}

/** Follows the run with this id, which must stay the same. */
export function useRun(id: string): WatchedRun {
  const { live, every } = useLive()
  const visible = useDocumentVisibility() === 'visible'
  const [log] = useState(() => new Log())
  const [watched, setWatched] = useState<Execution | null>(null)
  const [over, setOver] = useState(false)
  const [trouble, setTrouble] = useState<Trouble | null>(null)
  const [attempt, setAttempt] = useState(0)
  const known = useRef<Execution | null>(null)
  // A paused or hidden page reads what there is and then stands still; it holds no
  // stream open either, of which browsers and the registry permit few.
  const still = !live || !visible

  useEffect(() => {
    if (over || (still && known.current && !ended(known.current.status))) return
    const stop = new AbortController()
    async function follow() {
      for (let failures = 0; ; ) {
        try {
          await watchRun(id, log.lines.length, stop.signal, (event) => {
            if (stop.signal.aborted) return
            failures = 0
            setTrouble(null)
            log.append(event.first_line, event.logs)
            if (event.execution) {
              known.current = event.execution
              setWatched(event.execution)
            }
            if (event.over) setOver(true)
            else if (still && known.current && !ended(known.current.status) && event.logs.length < fullEvent) stop.abort()
          })
          return
        } catch (error) {
          if (stop.signal.aborted) return
          if (hopeless(error)) {
            setTrouble({ error, retryAt: null })
            return
          }
          const wait = Math.max(backoff(failures++), error instanceof ApiError ? error.retryAfter * 1000 : 0)
          setTrouble({ error, retryAt: Date.now() + wait })
          await pause(wait, stop.signal)
          if (stop.signal.aborted) return
        }
      }
    }
    void follow()
    return () => stop.abort()
  }, [id, log, over, still, attempt])

  // What is over changes still: people are told of it, and an unknown end is settled.
  const settled = useQuery({
    ...executionQuery(id),
    enabled: over,
    refetchInterval: (query) => stillTelling(query.state.data?.execution, Date.now()) && every(3000),
  })
  const last = settled.data?.execution
  const again = useCallback(() => setAttempt((n) => n + 1), [])
  return { run: over && last && ended(last.status) ? last : watched, log, over, trouble, again }
}
