// A run for tests.
import type { Attempt, Execution } from '../../api/types'

export const at = (seconds: number) => new Date(Date.UTC(2026, 2, 1, 10, 0, seconds)).toISOString()
export const now = Date.UTC(2026, 2, 1, 10, 1, 0)

export const attempt = (number: number, change: Partial<Attempt> = {}): Attempt => ({
  number,
  status: 'failed',
  started_at: at(0),
  completed_at: at(2),
  duration_seconds: 2,
  error: 'connection refused',
  error_code: 'connection',
  execution_host: 'worker-1',
  ...change,
})

export const execution = (change: Partial<Execution> = {}): Execution => ({
  id: 'exec_1',
  job_id: 'job_1',
  job_name: 'data_cleanup',
  template_type: 'database_cleanup',
  status: 'success',
  scheduled_for: at(0),
  started_at: at(1),
  completed_at: at(4),
  duration_seconds: 3,
  result: null,
  error: null,
  error_code: null,
  attempts: [],
  triggered_by: 'scheduler',
  triggered_by_user: null,
  execution_host: 'worker-1',
  isolation: [],
  parameters: {},
  job_version: 1,
  cancel_requested: false,
  reason: null,
  missed_from: null,
  missed_until: null,
  missed_count: null,
  next_attempt_at: null,
  progress: null,
  organisation: 'default',
  priority: 0,
  executor_selector: {},
  notifications: [],
  ...change,
})
