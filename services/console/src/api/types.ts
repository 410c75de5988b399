// The messages of the API as they arrive: every field is present, and those that
// may be empty are null.
import type { components } from './schema'

type Schemas = components['schemas']

type Solid<T> = T extends Array<infer U>
  ? Solid<U>[]
  : T extends object
    ? string extends keyof T
      ? T
      : { [K in keyof T]-?: Solid<NonNullable<T[K]>> }
    : T

type Nullable<T, K extends keyof T> = Omit<T, K> & { [P in K]: T[P] | null }

export type Role = 'super_admin' | 'admin' | 'user'
export type Status =
  | 'pending'
  | 'running'
  | 'retrying'
  | 'success'
  | 'failed'
  | 'timed_out'
  | 'cancelled'
  | 'skipped'
  | 'unknown'
export type JobState = 'ok' | 'failing' | 'never'
/** A JSON object of free form. */
export type Json = Record<string, unknown>

/** As sent: fields that are left out keep their value or get their default. */
export type ScheduleInput = Schemas['Schedule']
/** As sent. */
export type JobInput = Schemas['Job']
export type Schedule = ScheduleInput
export type RunSummary = Nullable<Omit<Solid<Schemas['RunSummary']>, 'status'> & { status: Status }, 'duration_seconds'>
export type Job = Nullable<
  Omit<Solid<Schemas['Job']>, 'schedule' | 'state' | 'recent_runs' | 'parameters'> & {
    schedule: Schedule
    state: JobState
    recent_runs: RunSummary[]
    parameters: Json
  },
  'last_run_at' | 'next_run_at'
>
export type Attempt = Nullable<
  Omit<Solid<Schemas['Attempt']>, 'status'> & { status: Status },
  'started_at' | 'completed_at' | 'duration_seconds' | 'error' | 'error_code' | 'execution_host'
>
export type Progress = Solid<Schemas['Progress']>
export type LogLine = Solid<Schemas['LogLine']>
export type Notice = Nullable<Omit<Solid<Schemas['Notification']>, 'status'> & { status: Status }, 'error'>
export type Execution = Nullable<
  Omit<Solid<Schemas['Execution']>, 'status' | 'attempts' | 'notifications' | 'result' | 'parameters'> & {
    status: Status
    attempts: Attempt[]
    notifications: Notice[]
    result: Json
    parameters: Json
  },
  | 'started_at'
  | 'completed_at'
  | 'duration_seconds'
  | 'result'
  | 'error'
  | 'error_code'
  | 'triggered_by_user'
  | 'execution_host'
  | 'reason'
  | 'missed_from'
  | 'missed_until'
  | 'missed_count'
  | 'next_attempt_at'
  | 'progress'
>
export type WatchEvent = { execution: Execution | null; logs: LogLine[]; first_line: number; over: boolean }
export type Template = Omit<Solid<Schemas['Template']>, 'parameters_schema' | 'risk_level' | 'resource_usage'> & {
  parameters_schema: Json
  risk_level: 'low' | 'medium' | 'high'
  resource_usage: 'low' | 'medium' | 'high'
}
export type Worker = Nullable<
  Omit<Solid<Schemas['Worker']>, 'status'> & { status: 'ready' | 'draining' | 'stopping' },
  'last_beat_at' | 'last_beat_age_seconds' | 'connected_at'
>
export type Registry = Nullable<Solid<Schemas['Registry']>, 'last_beat_at' | 'last_beat_age_seconds' | 'connected_at'>
export type Occurrence = Solid<Schemas['Occurrence']>
export type Upcoming = Solid<Schemas['Upcoming']>
export type Counts = Solid<Schemas['Counts']>
export type Statistics = Omit<Solid<Schemas['GetStatisticsResponse']>, 'success_rate'> & { success_rate?: number | null }
export type Overview = Nullable<Solid<Schemas['GetOverviewResponse']>, 'backlog_since'>
export type AuditEntry = Nullable<
  Omit<Solid<Schemas['AuditEntry']>, 'before' | 'after'> & { before: Json; after: Json },
  'before' | 'after'
>
export type Session = Nullable<Omit<Solid<Schemas['GetSessionResponse']>, 'role'> & { role: Role }, 'expires_at'>
export type Token = Nullable<Solid<Schemas['Token']>, 'expires_at'>
export type UserAccount = Omit<Solid<Schemas['UserAccount']>, 'role'> & { role: Role }
