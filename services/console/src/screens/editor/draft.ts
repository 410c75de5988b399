// What the editor holds while somebody types, and the job that it stands for.
import type { Violation } from '../../api/client'
import type { Job, JobInput, Json, Template } from '../../api/types'
import { duration } from '../../parts/time'
import { fromJson, type Group, newGroup, newRow, problems as conditionProblems, toJson } from './condition'
import { newSchedule, type ScheduleDraft, scheduleDraft, scheduleOf, secondsOf, span, type SpanUnit } from './schedule'
import { arrangement, asProperty, check, fieldKind, type Property, pruned, withDefaults, withJson } from './schema'

/** A condition as rows or as JSON; the other form is made when it is asked for. */
export type ConditionDraft = { mode: 'rows' | 'json'; group: Group; text: string }

/** A number of seconds as it is typed. */
export type Span = { every: string; unit: SpanUnit }

/** What is folded: numbers as they are typed, pairs as key=value. */
export type Options = {
  retries: string
  delay: Span
  timeout: Span
  overlap: 'forbid' | 'allow'
  missed: 'run_once' | 'skip'
  priority: number
  labels: string[]
  selector: string[]
  organisation: string
  onSuccess: string[]
  onFailure: string[]
}

export type Draft = {
  name: string
  description: string
  parameters: Json
  /** By the name of the parameter. */
  conditions: Record<string, ConditionDraft>
  schedule: ScheduleDraft
  options: Options
}

// --- new, of a job -----------------------------------------------------------

/** "Database Cleanup" as "Database cleanup"; words in capitals stay. */
export const sentenceCase = (name: string) => name.replace(/(?<=\s)[A-Z](?=[a-z])/g, (letter) => letter.toLowerCase())

/** A name that is not taken: with a number if need be. */
export function freeName(wish: string, taken: string[]): string {
  const known = new Set(taken.map((name) => name.toLowerCase()))
  let name = wish
  for (let n = 2; known.has(name.toLowerCase()); n++) name = `${wish} ${n}`
  return name
}

/** A condition to be filled in: what a clean-up most often asks is how old. Others
 * may do without one. */
export const newCondition = (required: boolean): ConditionDraft => ({
  mode: 'rows',
  group: newGroup('and', required ? [newRow('older')] : []),
  text: '',
})

function conditionDraft(value: unknown, required: boolean): ConditionDraft {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return newCondition(required)
  const group = fromJson(value as Json)
  return group ? { mode: 'rows', group, text: '' } : { mode: 'json', group: newGroup('and', []), text: JSON.stringify(value, null, 2) }
}

const conditionNames = (schema: Property) => Object.entries(schema.properties ?? {}).flatMap(([name, p]) => (fieldKind(p) === 'condition' ? [name] : []))

function conditionsOf(schema: Property, parameters: Json): Record<string, ConditionDraft> {
  return Object.fromEntries(conditionNames(schema).map((name) => [name, conditionDraft(parameters[name], !!schema.required?.includes(name))]))
}

const usualRetries = (template: Template) => (template.idempotent ? 3 : 0)

function newOptions(template: Template): Options {
  return {
    retries: String(usualRetries(template)),
    delay: span(300),
    timeout: span(3600),
    overlap: 'forbid',
    missed: 'run_once',
    priority: 0,
    labels: [],
    selector: [],
    organisation: 'default',
    onSuccess: [],
    onFailure: [],
  }
}

/** A fresh draft with the template's defaults. */
export function newDraft(template: Template, zone: string): Draft {
  const schema = asProperty(template.parameters_schema)
  const parameters = withDefaults(schema, {})
  return {
    name: sentenceCase(template.name),
    description: '',
    parameters,
    conditions: conditionsOf(schema, parameters),
    schedule: newSchedule(zone),
    options: newOptions(template),
  }
}

const pairs = (map: Record<string, string>) => Object.entries(map).map(([key, value]) => (value === '' ? key : `${key}=${value}`))

/** Parameters of a job that its template does not know (any more). */
export function unknownParameters(job: Job, template: Template): string[] {
  const schema = asProperty(template.parameters_schema)
  return schema.additionalProperties === false ? Object.keys(job.parameters).filter((name) => !schema.properties?.[name]) : []
}

/** The draft of a job that exists, without the parameters that are not known any more. */
export function draftOf(job: Job, template: Template, zone: string): Draft {
  const schema = asProperty(template.parameters_schema)
  const unknown = unknownParameters(job, template)
  const parameters = withDefaults(schema, Object.fromEntries(Object.entries(job.parameters).filter(([name]) => !unknown.includes(name))))
  return {
    name: job.name,
    description: job.description,
    parameters,
    conditions: conditionsOf(schema, parameters),
    schedule: scheduleDraft(job.schedule, zone),
    options: {
      retries: String(job.retry_policy.max_retries),
      delay: span(job.retry_policy.retry_delay_seconds),
      timeout: span(job.timeout_seconds),
      overlap: job.overlap_policy === 'allow' ? 'allow' : 'forbid',
      missed: job.missed_policy === 'skip' ? 'skip' : 'run_once',
      priority: job.priority,
      labels: pairs(job.labels),
      selector: pairs(job.executor_selector),
      organisation: job.organisation,
      onSuccess: job.notifications.on_success,
      onFailure: job.notifications.on_failure,
    },
  }
}

// --- what it stands for ------------------------------------------------------

/** The JSON of a condition; a problem when it cannot be had. */
function conditionValue(name: string, draft: ConditionDraft): { value?: Json; problems: Violation[] } {
  const field = `parameters.${name}`
  if (draft.mode === 'rows') {
    const problems = conditionProblems(draft.group).map((p) => ({ field: `${field}#${p.row}.${p.part}`, description: p.message }))
    return problems.length ? { problems } : { value: toJson(draft.group), problems }
  }
  if (!draft.text.trim()) return { problems: [] }
  try {
    const value: unknown = JSON.parse(draft.text)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return { value: value as Json, problems: [] }
    return { problems: [{ field, description: 'Write a JSON object, such as {"lastActive": {"$lt": "6 months ago"}}' }] }
  } catch (cause) {
    return { problems: [{ field, description: `This is not JSON: ${cause instanceof Error ? cause.message : 'check the quotes and braces'}` }] }
  }
}

/** Seconds of what was typed; NaN when it is none. */
const seconds = ({ every, unit }: Span) => (/^\d+(\.\d+)?$/.test(every.trim()) ? Math.round(Number(every) * secondsOf[unit]) : NaN)

function map(list: string[]): Record<string, string> {
  return Object.fromEntries(
    list.map((pair) => {
      const at = pair.indexOf('=')
      return at < 0 ? [pair.trim(), ''] : [pair.slice(0, at).trim(), pair.slice(at + 1).trim()]
    }),
  )
}

/** Whether somebody can be told there: a mail address, or a channel of an executor. */
export const canBeTold = (to: string) =>
  to.startsWith('channel:') ? /^channel:[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/.test(to) : to.length <= 254 && /^[^\s@,;<>"]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$/.test(to)

function optionProblems(options: Options): Violation[] {
  const found: Violation[] = []
  const say = (field: string, description: string) => found.push({ field, description })
  const within = (n: number, least: number, most: number) => Number.isInteger(n) && n >= least && n <= most
  if (!/^\d+$/.test(options.retries.trim()) || !within(Number(options.retries), 0, 100)) say('retry_policy.max_retries', 'Give a whole number from 0 to 100')
  if (!within(seconds(options.delay), 0, 604_800)) say('retry_policy.retry_delay_seconds', 'Give a time of at most 7 days')
  if (!within(seconds(options.timeout), 1, 604_800)) say('timeout_seconds', 'Give a time from one second to 7 days')
  if (!/^[a-z0-9][a-z0-9-]{0,62}$/.test(options.organisation)) say('organisation', 'Lower-case letters, digits and "-", at most 63, and not "-" first')
  for (const [field, list] of [
    ['notifications.on_success', options.onSuccess],
    ['notifications.on_failure', options.onFailure],
  ] as const) {
    const bad = list.find((to) => !canBeTold(to))
    if (bad) say(field, `"${bad}" is neither a mail address nor a channel, written as channel:name`)
  }
  const form = /^[A-Za-z0-9._/-]{1,63}$/
  const broken = Object.entries(map(options.selector)).find(([k, v]) => !form.test(k) || !form.test(v))
  if (broken) say('executor_selector', `Write "${broken[0]}" as name=value, both of letters, digits and . _ / -`)
  const label = Object.entries(map(options.labels)).find(([k, v]) => !k || k.length > 63 || v.length > 255)
  if (label) say('labels', 'Write labels as name=value: a name of 1 to 63 characters, a value of at most 255')
  return found
}

/** The job that a draft stands for, and everything that keeps it from being saved, by
 * the paths that the registry uses too. Parameters that mean nothing are left out. */
export function jobOf(draft: Draft, template: Template, zone: string): { job: JobInput; problems: Violation[] } {
  const schema = asProperty(template.parameters_schema)
  const problems: Violation[] = []
  if (!draft.name.trim()) problems.push({ field: 'name', description: 'Give the job a name that no other has' })

  const { first, more } = arrangement(schema, draft.parameters)
  const parameters = withJson(schema, pruned(Object.fromEntries([...first, ...more].map((name) => [name, draft.parameters[name]]))))
  const broken = new Set<string>()
  for (const name of conditionNames(schema).filter((n) => first.includes(n) || more.includes(n))) {
    const { value, problems: found } = conditionValue(name, draft.conditions[name] ?? newCondition(false))
    delete parameters[name]
    if (value && Object.keys(value).length > 0) parameters[name] = value
    if (found.length) broken.add(`parameters.${name}`)
    problems.push(...found)
  }
  for (const violation of check(schema, parameters)) {
    if (broken.has(violation.field)) continue
    const of = conditionNames(schema).includes(violation.field.replace('parameters.', ''))
    problems.push(of ? { ...violation, description: 'Add a comparison: without one every document would match' } : violation)
  }

  const schedule = scheduleOf(draft.schedule, zone)
  problems.push(...schedule.problems, ...optionProblems(draft.options))
  const { options } = draft
  const job: JobInput = {
    name: draft.name.trim(),
    description: draft.description,
    template_type: template.id,
    parameters,
    schedule: schedule.schedule,
    timeout_seconds: seconds(options.timeout),
    retry_policy: { max_retries: Number(options.retries), retry_delay_seconds: seconds(options.delay) },
    notifications: { on_success: options.onSuccess, on_failure: options.onFailure },
    labels: map(options.labels),
    organisation: options.organisation,
    priority: options.priority,
    executor_selector: map(options.selector),
    missed_policy: options.missed,
    overlap_policy: options.overlap,
  }
  return { job, problems }
}

/** What differs between two jobs, as an update says it. */
export function changes(before: JobInput, after: JobInput): JobInput {
  const out: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(after)) {
    if (JSON.stringify(value) !== JSON.stringify(before[key as keyof JobInput])) out[key] = value
  }
  return out as JobInput
}

// --- trials and deletions ----------------------------------------------------

/** What a dry run answers for: the template and all parameters but dryRun. */
export function fingerprint(job: JobInput): string {
  const { dryRun: _, ...rest } = (job.parameters ?? {}) as Json
  return JSON.stringify([job.template_type, rest])
}

/** Whether runs of the job destroy data. */
export const deletes = (job: JobInput, template: Template) => template.destructive && (job.parameters as Json | undefined)?.dryRun === false

/** Whether saving makes runs destroy what they did not destroy before. */
export function deletesAnew(before: JobInput | null, after: JobInput, template: Template): boolean {
  return deletes(after, template) && (!before || !deletes(before, template) || fingerprint(before) !== fingerprint(after))
}

// --- in words ----------------------------------------------------------------

/** The folded settings as one sentence. */
export function optionsInWords(options: Options): string {
  const retries = Number(options.retries)
  const parts = [
    retries > 0 ? `Tried again ${retries === 1 ? 'once' : `${retries} times`}, ${duration(seconds(options.delay))} apart` : 'Not tried again after a failure',
    `stopped after ${duration(seconds(options.timeout))}`,
    options.overlap === 'forbid' ? 'a run is skipped while the last one is still running' : 'runs may overlap',
    ...(options.missed === 'skip' ? ['missed runs are left out'] : []),
    options.onFailure.length === 0 && options.onSuccess.length === 0
      ? 'nobody is told'
      : [
          ...(options.onFailure.length ? [`${options.onFailure.join(', ')} ${options.onFailure.length > 1 ? 'are' : 'is'} told of failures`] : []),
          ...(options.onSuccess.length ? [`${options.onSuccess.join(', ')} ${options.onSuccess.length > 1 ? 'are' : 'is'} told of successes`] : []),
        ].join(' and '),
  ]
  const others = [
    ...(options.priority !== 0 ? [`priority ${options.priority}`] : []),
    ...(options.labels.length ? [`labels ${options.labels.join(', ')}`] : []),
    ...(options.selector.length ? [`only on executors with ${options.selector.join(', ')}`] : []),
    ...(options.organisation !== 'default' ? [`organisation ${options.organisation}`] : []),
  ]
  return `${[...parts, ...others].join('; ')}.`
}
