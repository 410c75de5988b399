import { describe, expect, test } from 'vitest'
import { changedView, filtersOf, jobFilter, nextSort, noFilters, readView, type View, writeView } from './view'

const plain: View = { search: '', templates: [], enabled: undefined, states: [], labels: [], sort: '-created_at', page: 1, limit: 20 }
const full: View = {
  search: 'clean up & "more"',
  templates: ['backup', 'restore'],
  enabled: false,
  states: ['failing', 'never'],
  labels: ['team=ops', 'tier'],
  sort: 'next_run_at',
  page: 3,
  limit: 50,
}

describe('the address of the list', () => {
  test('of the usual view is empty', () => {
    expect(writeView(plain).toString()).toBe('')
    expect(readView(new URLSearchParams())).toEqual(plain)
  })

  test.each([['usual', plain], ['full', full], ['enabled only', { ...plain, enabled: true }]])('comes back as it went: %s', (_, view) => {
    expect(readView(new URLSearchParams(writeView(view).toString()))).toEqual(view)
  })

  test.each([
    ['page=0', { page: 1 }],
    ['page=-3', { page: 1 }],
    ['page=1.5', { page: 1 }],
    ['page=many', { page: 1 }],
    ['limit=1000', { limit: 20 }],
    ['sort=colour', { sort: '-created_at' }],
    ['sort=-name', { sort: '-name' }],
    ['enabled=maybe', { enabled: undefined }],
    ['state=ok&state=sleepy&state=ok', { states: ['ok'] }],
    ['label=&label=%20a%20', { labels: ['a'] }],
    ['template=', { templates: [] }],
  ])('leaves out what it cannot mean: %s', (address, part) => {
    expect(readView(new URLSearchParams(address))).toMatchObject(part)
  })
})

describe('a change', () => {
  test('of a filter begins at the first page', () => {
    expect(changedView(full, { search: 'x' })).toEqual({ ...full, search: 'x', page: 1 })
  })
  test('of the page keeps the rest', () => {
    expect(changedView(full, { page: 4 })).toEqual({ ...full, page: 4 })
  })
  test('clears the filters, not the order', () => {
    const cleared = changedView(full, noFilters)
    expect(filtersOf(full)).toBe(5)
    expect(filtersOf(cleared)).toBe(0)
    expect(cleared.sort).toBe('next_run_at')
  })
})

test.each([
  ['-created_at', 'name', 'name'],
  ['name', 'name', '-name'],
  ['-name', 'name', 'name'],
  ['name', 'updated_at', '-updated_at'],
  ['-updated_at', 'updated_at', 'updated_at'],
  ['name', 'next_run_at', 'next_run_at'],
] as const)('sorted by %s, a click on %s sorts by %s', (sort, field, expected) => {
  expect(nextSort(sort, field)).toBe(expected)
})

test('the registry is asked for what is set only', () => {
  expect(jobFilter(plain)).toEqual({ sort: '-created_at', page: 1, limit: 20, runs: 14 })
  expect(jobFilter(full)).toEqual({
    search: 'clean up & "more"',
    template_type: ['backup', 'restore'],
    enabled: false,
    state: ['failing', 'never'],
    label: ['team=ops', 'tier'],
    sort: 'next_run_at',
    page: 3,
    limit: 50,
    runs: 14,
  })
})
