// The log of a run: follows it, filters and searches it, hands it out. Only the
// lines in sight are in the page.
import { ActionIcon, Box, Button, Chip, Group, Text, TextInput, Tooltip } from '@mantine/core'
import { useClipboard, useDebouncedValue } from '@mantine/hooks'
import { IconArrowBarToDown, IconCheck, IconChevronDown, IconChevronUp, IconClockHour4, IconCopy, IconDownload, IconSearch, IconTextWrap } from '@tabler/icons-react'
import { useVirtualizer } from '@tanstack/react-virtual'
import { memo, type ReactNode, useEffect, useLayoutEffect, useRef, useState, useSyncExternalStore } from 'react'
import type { LogLine } from '../../api/types'
import { absolute } from '../../parts/time'
import { asText, firstAtLeast, levels, lineTime, type Level, type Log, pieces } from './log-lines'
import classes from './log.module.css'

export type LogChoice = { levels: Level[]; find: string }

const levelWords: Record<Level, string> = { ERROR: 'Errors', WARN: 'Warnings', INFO: 'Info', DEBUG: 'Debug' }
const count = (n: number) => n.toLocaleString('en')
/** Pixels that one line takes unless it is broken into several. */
const lineHeight = 20
/** Lines a second that a screen reader can still tell. */
const tellable = 3

type Props = {
  log: Log
  /** When the run started, for times relative to it. */
  startedAt: string | null
  /** Whether lines may still come. */
  live: boolean
  /** Of the file that it is downloaded as, without its ending. */
  name: string
  height: number | string
  /** What is shown at first; told is called with each change. */
  choice?: LogChoice
  told?: (choice: LogChoice) => void
}

export function RunLog({ log, startedAt, live, name, height, choice, told }: Props) {
  useSyncExternalStore(log.subscribe, log.version)
  const scroller = useRef<HTMLDivElement>(null)
  const [only, setOnly] = useState<Level[]>(choice?.levels ?? [])
  const [find, setFind] = useState(choice?.find ?? '')
  const [needle] = useDebouncedValue(find, 200)
  const [current, setCurrent] = useState<number | null>(null) // line of the hit that the reader is at
  const [wrap, setWrap] = useState(false)
  const [sinceStart, setSinceStart] = useState(false)
  const [follow, setFollow] = useState(live)
  const [atEnd, setAtEnd] = useState(true)
  const [expecting] = useState(live) // has some room from the start, so that less below it moves
  const lastTop = useRef(0)
  const toReveal = useRef(false)

  const virtual = useVirtualizer({
    count: log.shown.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => lineHeight,
    getItemKey: (place) => log.shown[place] ?? place,
    overscan: 15,
    // Drawing is cheap enough to leave to React's own time: a flush per scroll event is not.
    useFlushSync: false,
  })

  const reveal = (place: number) => {
    setFollow(false)
    virtual.scrollToIndex(place, { align: 'center' })
  }
  /** Does what changes which lines are shown, and keeps the first in sight in place. */
  const keepingPlace = (change: () => void) => {
    const top = virtual.getVirtualItemForOffset(scroller.current?.scrollTop ?? 0)
    const line = top && log.shown[top.index]
    change()
    if (!follow && line !== undefined) requestAnimationFrame(() => virtual.scrollToIndex(log.placeOf(line), { align: 'start' }))
  }

  useEffect(() => {
    keepingPlace(() => log.setLevels(new Set(only)))
    // only what the reader chose counts, not what follows from it
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [log, only])
  useEffect(() => {
    log.setNeedle(needle)
    setCurrent(null)
    toReveal.current = needle !== ''
  }, [log, needle])
  useEffect(() => {
    told?.({ levels: only, find: needle })
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [only, needle])
  useEffect(() => virtual.measure(), [virtual, wrap])

  /** Goes to the hit that is so many further than the present one, round the ends. */
  const go = (by: number) => {
    const hits = log.hits
    if (hits.length === 0) return
    const from = current === null ? virtual.range?.startIndex ?? 0 : log.placeOf(current)
    let at = firstAtLeast(hits, from)
    if (current !== null && hits[at] === from) at += by
    else if (by < 0) at -= 1
    const place = hits[(at + hits.length) % hits.length]!
    setCurrent(log.shown[place]!)
    reveal(place)
  }

  // The first hit is brought into sight as soon as it is found.
  useEffect(() => {
    if (!toReveal.current || log.hits.length === 0) return
    toReveal.current = false
    go(1)
  })

  useLayoutEffect(() => {
    const box = scroller.current
    if (follow && box) box.scrollTop = box.scrollHeight
  })

  function scrolled() {
    const box = scroller.current
    if (!box) return
    const near = box.scrollHeight - box.scrollTop - box.clientHeight < lineHeight * 1.5
    setAtEnd(near)
    if (near) setFollow(true)
    else if (box.scrollTop < lastTop.current) setFollow(false)
    lastTop.current = box.scrollTop
  }

  const quiet = useQuiet(log.lines.length)
  const clipboard = useClipboard({ timeout: 2000 })
  const chosen = () => log.shown.map((i) => log.lines[i]!)
  const place = current === null ? -1 : log.hits.indexOf(log.placeOf(current))
  const digits = Math.max(3, String(log.lines.length).length)
  const filtered = only.length > 0
  const none = log.lines.length === 0

  return (
    <Box>
      <Group gap="xs" mb="xs" align="center">
        <TextInput
          aria-label="Search the log"
          placeholder="Search the log"
          size="sm"
          w={{ base: '100%', xs: 175 }}
          leftSection={<IconSearch size={15} aria-hidden />}
          value={find}
          onChange={(e) => setFind(e.currentTarget.value)}
          onKeyDown={(e) => {
            if (e.key === 'Enter') go(e.shiftKey ? -1 : 1)
            if (e.key === 'Escape') setFind('')
          }}
        />
        {needle !== '' && (
          <Group gap={4} wrap="nowrap">
            <Text size="sm" role="status" style={{ whiteSpace: 'nowrap' }}>
              {log.hits.length === 0 ? (log.searchedAll ? 'Not found' : 'Searching') : `${place < 0 ? '' : `${count(place + 1)} of `}${count(log.hits.length)}${log.searchedAll ? '' : '+'} ${log.hits.length === 1 ? 'line' : 'lines'}`}
            </Text>
            <Tool label="Previous hit" onClick={() => go(-1)} disabled={log.hits.length === 0}>
              <IconChevronUp size={16} />
            </Tool>
            <Tool label="Next hit" onClick={() => go(1)} disabled={log.hits.length === 0}>
              <IconChevronDown size={16} />
            </Tool>
          </Group>
        )}
        <Group gap={4} role="group" aria-label="Show only these levels">
          <Chip.Group multiple value={only} onChange={(value) => setOnly(value as Level[])}>
            {levels
              .filter((level) => log.counts[level] > 0 || only.includes(level))
              .map((level) => (
                <Chip key={level} value={level} size="sm" variant="outline" classNames={{ label: classes.chip }}>
                  {levelWords[level]} {count(log.counts[level])}
                </Chip>
              ))}
          </Chip.Group>
        </Group>
        <Group gap={4} ml="auto" wrap="nowrap">
          <Tool label={wrap ? 'Long lines are broken; click for one line each' : 'Break long lines'} pressed={wrap} onClick={() => keepingPlace(() => setWrap(!wrap))}>
            <IconTextWrap size={16} />
          </Tool>
          <Tool label={sinceStart ? 'Times since the start; click for the time of day' : 'Show times since the start'} pressed={sinceStart} disabled={!startedAt} onClick={() => setSinceStart(!sinceStart)}>
            <IconClockHour4 size={16} />
          </Tool>
          <Tool
            label={clipboard.copied ? 'Copied' : clipboard.error ? 'This browser does not let pages copy; download it instead' : filtered ? 'Copy the lines shown' : 'Copy the log'}
            disabled={none}
            onClick={() => clipboard.copy(asText(chosen()).join(''))}
          >
            {clipboard.copied ? <IconCheck size={16} /> : <IconCopy size={16} />}
          </Tool>
          <Tool label={filtered ? 'Download the lines shown' : 'Download the log'} disabled={none} onClick={() => download(`${name}.txt`, chosen())}>
            <IconDownload size={16} />
          </Tool>
        </Group>
      </Group>
      <div className={classes.frame}>
        <div
          ref={scroller}
          className={wrap ? `${classes.scroller} ${classes.wrapped}` : classes.scroller}
          style={{ maxHeight: height, minHeight: expecting ? 240 : 84 }}
          role="log"
          aria-label="Log"
          aria-live={live && follow && quiet ? 'polite' : 'off'}
          tabIndex={0}
          onScroll={scrolled}
        >
          {log.shown.length === 0 && (
            <Text size="sm" c="dimmed" p="md" ff="text">
              {none ? (live ? 'Nothing logged yet.' : 'This run logged nothing.') : 'No line has the levels chosen.'}
            </Text>
          )}
          <div className={classes.all} style={{ height: virtual.getTotalSize() }}>
            {virtual.getVirtualItems().map((item) => {
              const index = log.shown[item.index]
              const line = index === undefined ? undefined : log.lines[index]
              if (!line) return null
              return (
                <Line
                  key={item.key}
                  line={line}
                  number={index! + 1}
                  place={item.index}
                  top={item.start}
                  digits={digits}
                  since={sinceStart ? startedAt : null}
                  needle={log.needle}
                  current={index === current}
                  measure={virtual.measureElement}
                />
              )
            })}
          </div>
        </div>
        {!atEnd && !follow && (
          <Button className={classes.end} size="xs" leftSection={<IconArrowBarToDown size={15} aria-hidden />} onClick={() => setFollow(true)}>
            Jump to the end
          </Button>
        )}
      </div>
      <Text size="xs" c="dimmed" mt={4}>
        {filtered ? `${count(log.shown.length)} of ` : ''}
        {count(log.lines.length)} {log.lines.length === 1 ? 'line' : 'lines'}
        {live && follow && !none ? '; new ones are followed until you scroll up' : ''}
      </Text>
    </Box>
  )
}

type LineProps = {
  line: LogLine
  number: number
  place: number
  top: number
  digits: number
  since: string | null
  needle: RegExp | null
  current: boolean
  measure: (element: Element | null) => void
}

// Drawn anew only when it changes: scrolling moves the others out of sight, no more.
const Line = memo(function Line({ line, number, place, top, digits, since, needle, current, measure }: LineProps) {
  return (
    <div ref={measure} data-index={place} data-level={line.level} data-current={current || undefined} className={classes.line} style={{ transform: `translateY(${top}px)` }}>
      <span className={classes.number} style={{ width: `${digits}ch` }} aria-hidden>
        {number}
      </span>
      <time className={classes.time} dateTime={line.timestamp} title={absolute(line.timestamp)}>
        {lineTime(line.timestamp, since)}
      </time>
      <span className={classes.level}>{line.level}</span>
      <span className={classes.message}>{pieces(line.message, needle).map((piece, i) => (piece.hit ? <mark key={i}>{piece.text}</mark> : piece.text))}</span>
    </div>
  )
})

function Tool({ label, pressed, disabled, onClick, children }: { label: string; pressed?: boolean; disabled?: boolean; onClick: () => void; children: ReactNode }) {
  return (
    <Tooltip label={label}>
      <ActionIcon variant={pressed ? 'filled' : 'default'} size={30} aria-label={label} aria-pressed={pressed} disabled={disabled} onClick={onClick}>
        {children}
      </ActionIcon>
    </Tooltip>
  )
}

/** Whether few enough lines come for each to be read out. */
function useQuiet(lines: number): boolean {
  const [quiet, setQuiet] = useState(false)
  const last = useRef({ at: 0, lines: 0 })
  useEffect(() => {
    const now = performance.now()
    const seconds = (now - last.current.at) / 1000
    if (seconds < 1) return
    setQuiet((lines - last.current.lines) / seconds <= tellable)
    last.current = { at: now, lines }
  }, [lines])
  return quiet
}

function download(name: string, lines: LogLine[]) {
  const address = URL.createObjectURL(new Blob(asText(lines), { type: 'text/plain;charset=utf-8' }))
  const link = document.createElement('a')
  link.href = address
  link.download = name
  link.click()
  // A browser has taken hold of it by the next turn.
  setTimeout(() => URL.revokeObjectURL(address), 0)
}
