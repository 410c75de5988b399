import { MantineProvider } from '@mantine/core'
import { render, screen } from '@testing-library/react'
import { describe, expect, it, vi } from 'vitest'
import { ApiError } from '../../api/client'
import type { Occurrence } from '../../api/types'
import { columns, neighboursInWords, Preview } from './preview'

const at = (text: string, more: Partial<Occurrence> = {}): Occurrence => ({ at: text, local: '', note: '', neighbours: [], neighbour_count: 0, ...more })

describe('columns', () => {
  const winter = [at('2026-01-10T01:00:00Z')]
  it('shows the job\'s zone, the reader\'s and UTC', () => {
    expect(columns(winter, 'Asia/Tokyo', 'Europe/Berlin').map((c) => c.name)).toEqual(['Asia/Tokyo', 'Your time', 'UTC'])
  })
  it('leaves out what shows the same', () => {
    expect(columns(winter, 'Europe/Berlin', 'Europe/Berlin').map((c) => c.name)).toEqual(['Your time', 'UTC'])
    expect(columns(winter, 'UTC', 'UTC')).toHaveLength(1)
    expect(columns(winter, 'Europe/London', 'UTC').map((c) => c.name)).toEqual(['Europe/London'])
    expect(columns([...winter, at('2026-07-10T01:00:00Z')], 'Europe/London', 'UTC').map((c) => c.name)).toEqual(['Europe/London', 'Your time'])
  })
})

describe('neighboursInWords', () => {
  it('names two and counts the rest', () => {
    expect(neighboursInWords({ neighbours: [], neighbour_count: 0 })).toBe('')
    expect(neighboursInWords({ neighbours: ['a'], neighbour_count: 1 })).toBe('also: a')
    expect(neighboursInWords({ neighbours: ['a', 'b', 'c'], neighbour_count: 5 })).toBe('also: a, b and 3 more')
  })
})

describe('Preview', () => {
  const usual = { manual: false, incomplete: false, occurrences: undefined, error: null, retry: () => {}, zone: 'Europe/Berlin' }
  const show = (props: Partial<Parameters<typeof Preview>[0]>) =>
    render(
      <MantineProvider>
        <Preview {...usual} {...props} />
      </MantineProvider>,
    )

  it('marks changes of clocks and other jobs', () => {
    show({ occurrences: [at('2026-03-29T01:00:00Z', { note: 'the local time 02:00 does not exist', neighbours: ['backup'], neighbour_count: 1 })] })
    expect(screen.getByText(/Clocks change: the local time 02:00 does not exist/)).toBeTruthy()
    expect(screen.getByText('also: backup')).toBeTruthy()
    expect(screen.getByRole('columnheader', { name: 'Your time' })).toBeTruthy()
  })

  it('says why there are none', () => {
    show({ manual: true })
    expect(screen.getByText(/None by itself/)).toBeTruthy()
    show({ incomplete: true })
    expect(screen.getByText(/as soon as the schedule is complete/)).toBeTruthy()
    show({ occurrences: [] })
    expect(screen.getByText('No run to come')).toBeTruthy()
  })

  it('offers to try again when the registry does not answer, but leaves faults of the schedule to its field', () => {
    const retry = vi.fn()
    show({ error: new ApiError(503, 'away'), retry })
    screen.getByRole('button', { name: 'Try again' }).click()
    expect(retry).toHaveBeenCalled()
    show({ error: new ApiError(400, 'bad expression') })
    expect(screen.queryByText('bad expression')).toBeNull()
  })
})
