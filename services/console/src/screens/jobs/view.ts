// What the list of jobs shows, as its address tells it.
import type { JobFilter } from '../../api/queries'
import type { JobState } from '../../api/types'

/** How many of the last runs a row shows. */
export const runsShown = 14
export const limits = [20, 50, 100]

export const states: { value: JobState; label: string }[] = [
  { value: 'failing', label: 'Failing' },
  { value: 'ok', label: 'OK' },
  { value: 'never', label: 'No runs yet' },
]

/** What can be sorted by, with the direction that a first click takes. */
export const sorts = [
  { field: 'name', first: 'name', words: 'Name, A to Z', reversed: 'Name, Z to A' },
  { field: 'next_run_at', first: 'next_run_at', words: 'Next run, soonest first', reversed: 'Next run, latest first' },
  { field: 'updated_at', first: '-updated_at', words: 'Changed, oldest first', reversed: 'Changed, latest first' },
  { field: 'created_at', first: '-created_at', words: 'Created, oldest first', reversed: 'Created, latest first' },
] as const
export type SortField = (typeof sorts)[number]['field']

const usualSort = '-created_at'

export type View = {
  search: string
  templates: string[]
  /** Undefined for both. */
  enabled: boolean | undefined
  states: JobState[]
  labels: string[]
  sort: string
  page: number
  limit: number
}

/** The view that an address tells; what it cannot mean is left out. */
export function readView(params: URLSearchParams): View {
  const enabled = params.get('enabled')
  const sort = params.get('sort') ?? ''
  const limit = Number(params.get('limit'))
  const page = Number(params.get('page'))
  return {
    search: (params.get('q') ?? '').slice(0, 200),
    templates: params.getAll('template').filter(Boolean).slice(0, 50),
    enabled: enabled === 'true' ? true : enabled === 'false' ? false : undefined,
    states: states.map((s) => s.value).filter((s) => params.getAll('state').includes(s)),
    labels: params.getAll('label').map((l) => l.trim()).filter(Boolean).slice(0, 16),
    sort: sorts.some((s) => s.field === sort.replace(/^-/, '')) ? sort : usualSort,
    page: Number.isInteger(page) && page > 0 ? page : 1,
    limit: limits.includes(limit) ? limit : limits[0]!,
  }
}

/** The address of a view, without what is usual. */
export function writeView(view: View): URLSearchParams {
  const params = new URLSearchParams()
  if (view.search) params.set('q', view.search)
  for (const t of view.templates) params.append('template', t)
  if (view.enabled !== undefined) params.set('enabled', String(view.enabled))
  for (const s of view.states) params.append('state', s)
  for (const l of view.labels) params.append('label', l)
  if (view.sort !== usualSort) params.set('sort', view.sort)
  if (view.limit !== limits[0]) params.set('limit', String(view.limit))
  if (view.page > 1) params.set('page', String(view.page))
  return params
}

/** The view after a change; anything but another page begins at the first page. */
export const changedView = (view: View, change: Partial<View>): View => ({ ...view, page: 1, ...change })

/** How many filters hold, the search included. */
export const filtersOf = (view: View): number =>
  [view.search !== '', view.templates.length > 0, view.enabled !== undefined, view.states.length > 0, view.labels.length > 0].filter(Boolean).length

export const noFilters: Partial<View> = { search: '', templates: [], enabled: undefined, states: [], labels: [] }

/** The order after a click on the head of a column. */
export function nextSort(sort: string, field: SortField): string {
  if (sort.replace(/^-/, '') !== field) return sorts.find((s) => s.field === field)!.first
  return sort.startsWith('-') ? field : `-${field}`
}

/** What the registry is asked for. */
export const jobFilter = (view: View): JobFilter => ({
  search: view.search || undefined,
  template_type: view.templates.length > 0 ? view.templates : undefined,
  enabled: view.enabled,
  state: view.states.length > 0 ? view.states : undefined,
  label: view.labels.length > 0 ? view.labels : undefined,
  sort: view.sort,
  page: view.page,
  limit: view.limit,
  runs: runsShown,
})
