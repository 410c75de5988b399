// What an account is and may do, in words.
import type { Role, Session, Token } from '../../api/types'

/** What a role may and may not do. */
export const rights: Record<Role, { may: string[]; not: string[] }> = {
  super_admin: {
    may: [
      'Make, change, clone and delete jobs',
      'Start any job, also one that deletes data, and with other parameters',
      'Cancel any run, and settle runs whose end is unknown',
      'Drain and resume workers',
      'Read the audit log, and look after users',
    ],
    not: ['Change your own role or remove your own account: that is for another super admin'],
  },
  admin: {
    may: ['See all jobs, runs, logs, templates and workers', 'Start jobs that destroy nothing, and dry runs of those that do', 'Cancel runs that you started'],
    not: ['Make, change or delete jobs', 'Start what destroys data', 'See the audit log or the users'],
  },
  user: {
    may: ['Change your own password, and make tokens'],
    not: ['See or start jobs: ask a super admin for the role admin'],
  },
}

/** What the registry limits, each a clause. */
export function limitsInWords(session: Pick<Session, 'role' | 'manual_runs_per_hour' | 'max_jobs'>): string[] {
  if (session.role === 'user') return []
  const limits = [
    session.manual_runs_per_hour > 0
      ? `at most ${session.manual_runs_per_hour} runs started by hand in an hour, tries and repeats among them`
      : 'any number of runs started by hand',
  ]
  if (session.role === 'super_admin') limits.push(session.max_jobs > 0 ? `at most ${session.max_jobs.toLocaleString('en')} jobs in all` : 'any number of jobs')
  return limits
}

/** How long a new token may be good for; 0 days is for ever. */
export const lifetimes: { days: number; name: string }[] = [
  { days: 7, name: '7 days' },
  { days: 30, name: '30 days' },
  { days: 90, name: '90 days' },
  { days: 365, name: '1 year' },
  { days: 0, name: 'Never' },
]

/** Personal tokens, and logins: those of browsers and those that programs made by password. */
export function sorted(tokens: Token[]): { personal: Token[]; logins: Token[] } {
  const personal = tokens.filter((t) => t.kind === 'personal')
  const logins = tokens.filter((t) => t.kind !== 'personal')
  return { personal, logins: [...logins.filter((t) => t.current), ...logins.filter((t) => !t.current)] }
}

/** A command that uses a token; one that everybody with the role may give. */
export function curlExample(origin: string, secret: string, role: Role): string {
  const path = role === 'user' ? '/api/auth/session' : '/api/admin/scheduler-jobs?limit=5'
  return `curl -H 'Authorization: Bearer ${secret}' '${origin}${path}'`
}
