import { describe, expect, it } from 'vitest'
import type { Template } from '../../api/types'
import { categoriesOf, matching, ofCategory } from './gallery'

const template = (id: string, name: string, category: string, description = ''): Template => ({
  id,
  name,
  category,
  description,
  icon: '',
  parameters_schema: {},
  estimated_duration: '',
  resource_usage: 'low',
  risk_level: 'low',
  idempotent: true,
  destructive: false,
  version: 1,
  available: true,
  max_concurrency: 0,
})
const all = [
  template('ticket_cleanup', 'Ticket Cleanup', 'maintenance', 'Remove tickets that were resolved long ago'),
  template('odd', 'Odd', ''),
  template('data_export', 'Data Export', 'data', 'Write documents into a file'),
  template('backup', 'Backup', 'maintenance', 'Write collections into an archive'),
]
const ids = (templates: Template[]) => templates.map((t) => t.id)

describe('the gallery', () => {
  it('is by category, then by name', () => {
    expect(ids(ofCategory(all, ''))).toEqual(['data_export', 'backup', 'ticket_cleanup', 'odd'])
    expect(ids(ofCategory(all, 'maintenance'))).toEqual(['backup', 'ticket_cleanup'])
    expect(ofCategory(all, 'none such')).toEqual([])
    expect(categoriesOf(all)).toEqual(['data', 'maintenance', 'other'])
  })

  it.each([
    ['', ['ticket_cleanup', 'odd', 'data_export', 'backup']],
    ['WRITE', ['data_export', 'backup']],
    ['write archive', ['backup']],
    ['maintenance tick', ['ticket_cleanup']],
    ['ticket_cl', ['ticket_cleanup']],
    ['nothing', []],
  ])('searched for %j has %j', (search, found) => {
    expect(ids(matching(all, search))).toEqual(found)
  })
})
