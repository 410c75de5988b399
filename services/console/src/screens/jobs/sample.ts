// Jobs and templates for tests.
import type { Job, Template } from '../../api/types'

export const job = (part: Partial<Job> = {}): Job => ({
  id: 'job_1',
  name: 'Heartbeat',
  description: '',
  template_type: 'test_scheduler',
  parameters: { message: 'Still here' },
  schedule: { type: 'cron', expression: '0 2 * * *', timezone: 'UTC' },
  enabled: true,
  timeout_seconds: 3600,
  retry_policy: { max_retries: 3, retry_delay_seconds: 300 },
  notifications: { on_success: [], on_failure: [] },
  created_by: 'ann',
  created_at: '2026-01-02T03:04:05Z',
  updated_at: '2026-01-02T03:04:05Z',
  last_run_at: null,
  next_run_at: '2100-01-01T02:00:00Z',
  version: 7,
  labels: {},
  organisation: 'default',
  missed_policy: 'run_once',
  overlap_policy: 'forbid',
  priority: 0,
  executor_selector: {},
  state: 'ok',
  recent_runs: [],
  ...part,
})

export const cleanup = (part: Partial<Job> = {}): Job =>
  job({ id: 'job_2', name: 'Old users', template_type: 'database_cleanup', parameters: { collection: 'users', condition: { lastActive: { $lt: '6 months ago' } }, dryRun: false }, ...part })

const template = (part: Partial<Template>): Template => ({
  id: 'test_scheduler',
  name: 'Test Scheduler',
  description: 'Logs a message',
  category: 'diagnostics',
  icon: '',
  parameters_schema: { type: 'object', properties: { message: { type: 'string' } } },
  estimated_duration: 'seconds',
  resource_usage: 'low',
  risk_level: 'low',
  idempotent: true,
  destructive: false,
  version: 1,
  available: true,
  max_concurrency: 0,
  ...part,
})

export const templates: Template[] = [
  template({}),
  template({
    id: 'database_cleanup',
    name: 'Database Cleanup',
    destructive: true,
    risk_level: 'medium',
    parameters_schema: {
      type: 'object',
      required: ['collection', 'condition'],
      properties: { collection: { type: 'string' }, condition: { type: 'object', format: 'condition' }, dryRun: { type: 'boolean', default: true } },
    },
  }),
]
