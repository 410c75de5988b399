// The one way to the registry: typed requests whose failures are ApiError.
import createClient from 'openapi-fetch'
import type { paths } from './schema'

export type Violation = { field: string; description: string }

/** What the registry said when it refused, or that it could not be reached. */
export class ApiError extends Error {
  constructor(
    /** HTTP status; 0 when there was no answer. */
    readonly status: number,
    message: string,
    /** A word such as NAME_TAKEN; empty when unknown. */
    readonly reason: string = '',
    readonly violations: Violation[] = [],
    /** Seconds after which to try again; 0 when the registry did not say. */
    readonly retryAfter: number = 0,
    /** What else it said about the reason, such as the execution_id that is in the way. */
    readonly info: Record<string, string> = {},
  ) {
    super(message)
    this.name = 'ApiError'
  }
}

type Detail = { '@type'?: string; reason?: string; metadata?: Record<string, string>; fieldViolations?: Violation[]; field_violations?: Violation[] }

/** What an error says about one field, as a sentence to be shown beside it. */
export function violationOf(error: unknown, field: string): string | undefined {
  const said = error instanceof ApiError ? error.violations.find((v) => v.field === field)?.description : undefined
  // The registry continues the field's name: "is too long".
  return said?.replace(/^(?=(is|are|has|must|needs?|may|can|cannot|does|do) )/, 'It ')
}

/** The error that an answer stands for. */
export async function errorOf(response: Response): Promise<ApiError> {
  let message = `The registry answered with status ${response.status}.`
  let reason = ''
  let violations: Violation[] = []
  let info: Record<string, string> = {}
  try {
    const body = (await response.json()) as { message?: string; details?: Detail[] }
    if (body.message) message = body.message
    for (const detail of body.details ?? []) {
      if (detail.reason) reason = detail.reason
      info = detail.metadata ?? info
      violations = detail.fieldViolations ?? detail.field_violations ?? violations
    }
  } catch {
    // not an answer of the registry itself: what stands between says nothing useful
  }
  return new ApiError(response.status, message, reason, violations, Number(response.headers.get('Retry-After') ?? 0), info)
}

export const unreachable = () =>
  new ApiError(0, 'The registry does not answer. Check that it runs and that this computer is on the network; nothing was changed as far as is known.')

let sessionLost: () => void = () => {}

/** Names who is told when an answer says that nobody is logged in any more. */
export function onSessionLost(tell: () => void) {
  sessionLost = tell
}

/** fetch whose failures are ApiErrors. */
export async function request(input: Request | string, init?: RequestInit): Promise<Response> {
  let response: Response
  try {
    response = await fetch(input, { credentials: 'same-origin', ...init })
  } catch (cause) {
    if (cause instanceof DOMException && cause.name === 'AbortError') throw cause
    throw unreachable()
  }
  if (!response.ok) {
    const failure = await errorOf(response)
    const logsIn = response.url.endsWith('/api/auth/session')
    if (response.status === 401 && !logsIn) sessionLost()
    throw failure
  }
  return response
}

export const client = createClient<paths>({ baseUrl: window.location.origin, fetch: (r) => request(r) })

/** The body of an answer, as the type that types.ts has for it. */
export async function answer<T>(pending: Promise<{ data?: unknown; error?: unknown }>): Promise<T> {
  const { data } = await pending
  return data as T
}
