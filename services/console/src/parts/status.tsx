// How states look: each has a colour, a shape and a word, so that none of them is
// needed alone.
import { Badge, Tooltip } from '@mantine/core'
import {
  IconAlertTriangle,
  IconBan,
  IconCheck,
  IconClock,
  IconClockExclamation,
  IconPlayerSkipForward,
  IconPlayerPlay,
  type IconProps,
  IconQuestionMark,
  IconRefresh,
  IconX,
} from '@tabler/icons-react'
import { type ComponentType, type MouseEvent, useRef, useState } from 'react'
import { useNavigate } from 'react-router'
import type { JobState, RunSummary, Status } from '../api/types'
import { absolute, duration } from './time'
import classes from './status.module.css'

/** A word with its colour and sign. The colours: gray, green, red, orange, yellow, blue, grape. */
export type Look = { word: string; color: string; icon: ComponentType<IconProps> }

export const statusLooks: Record<Status, Look> = {
  pending: { word: 'Waiting', color: 'gray', icon: IconClock },
  running: { word: 'Running', color: 'blue', icon: IconPlayerPlay },
  retrying: { word: 'Retrying', color: 'yellow', icon: IconRefresh },
  success: { word: 'Success', color: 'green', icon: IconCheck },
  failed: { word: 'Failed', color: 'red', icon: IconX },
  timed_out: { word: 'Timed out', color: 'orange', icon: IconClockExclamation },
  cancelled: { word: 'Cancelled', color: 'gray', icon: IconBan },
  skipped: { word: 'Skipped', color: 'gray', icon: IconPlayerSkipForward },
  unknown: { word: 'Unknown', color: 'grape', icon: IconQuestionMark },
}

/** Whether no attempt will follow. */
export const ended = (status: Status) => !['pending', 'running', 'retrying'].includes(status)

/** A badge that can be read in light and dark. */
export function LookBadge({ look, size }: { look: Look; size?: string }) {
  const Icon = look.icon
  return (
    <Badge className={classes.badge} data-color={look.color} variant="light" radius="sm" size={size ?? 'md'} tt="none" leftSection={<Icon size={14} stroke={2.2} aria-hidden />}>
      {look.word}
    </Badge>
  )
}

export const StatusBadge = ({ status, size }: { status: Status; size?: string }) => <LookBadge look={statusLooks[status]} size={size} />

const stateLooks: Record<JobState, Look> = {
  ok: { word: 'OK', color: 'green', icon: IconCheck },
  failing: { word: 'Failing', color: 'red', icon: IconAlertTriangle },
  never: { word: 'No runs yet', color: 'gray', icon: IconClock },
}

export const StateBadge = ({ state, size }: { state: JobState; size?: string }) => <LookBadge look={stateLooks[state]} size={size} />

const risks: Record<string, Look> = {
  low: { word: 'Low risk', color: 'green', icon: IconCheck },
  medium: { word: 'Medium risk', color: 'yellow', icon: IconAlertTriangle },
  high: { word: 'High risk', color: 'red', icon: IconAlertTriangle },
}

export const RiskBadge = ({ risk }: { risk: string }) => <LookBadge look={risks[risk] ?? risks.medium!} size="sm" />

const runInWords = (run: RunSummary) =>
  `${statusLooks[run.status].word}${run.duration_seconds === null ? '' : ` after ${duration(run.duration_seconds)}`}, ${absolute(run.scheduled_for)}`

/** The last runs of a job as a strip of bars, oldest first: as high as they were
 * long, in the colour and shape of their end; each leads to its run. The keyboard
 * passes over them: a list would have hundreds, and the job's page has them all. */
export function RunStrip({ runs, most = 14 }: { runs: RunSummary[]; most?: number }) {
  // One tooltip and one listener for all bars: long lists have too many of them for one each.
  const [told, setTold] = useState<RunSummary | null>(null)
  const strip = useRef<HTMLUListElement>(null)
  const navigate = useNavigate()
  const shown = runs.slice(0, most).reverse()
  const longest = Math.max(...shown.map((r) => r.duration_seconds ?? 0), 0.001)
  if (shown.length === 0) return <span className={classes.none}>no runs yet</span>
  const follow = (event: MouseEvent) => {
    const path = (event.target as Element).closest('a')?.getAttribute('href')
    if (!path || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return
    event.preventDefault()
    void navigate(path)
  }
  return (
    <>
      <ul ref={strip} aria-label="Last runs, oldest first" className={classes.strip} onPointerLeave={() => setTold(null)} onClick={follow}>
        {shown.map((run) => (
          <li key={run.id}>
            <a href={`/runs/${run.id}`} tabIndex={-1} aria-label={runInWords(run)} className={classes.bar} data-status={run.status} onPointerEnter={() => setTold(run)}>
              <span style={{ height: `${25 + 75 * Math.sqrt((run.duration_seconds ?? 0) / longest)}%` }} />
            </a>
          </li>
        ))}
      </ul>
      {told && <Tooltip target={strip} opened label={runInWords(told)} />}
    </>
  )
}
