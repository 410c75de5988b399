// The live stream of one run: JSON lines, each an event or, at last, an error.
import { ApiError, request, unreachable } from './client'
import type { WatchEvent } from './types'

type Line = { result?: WatchEvent; error?: { message?: string } }

/** Calls tell with each event until the run is over or signal ends it. from is how
 * many lines of the log are known already. Throws ApiError when the stream breaks. */
export async function watchRun(id: string, from: number, signal: AbortSignal, tell: (event: WatchEvent) => void): Promise<void> {
  const response = await request(`/api/admin/job-executions/${encodeURIComponent(id)}/events?from_line=${from}`, { signal })
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader()
  if (!reader) throw unreachable()
  let rest = ''
  for (;;) {
    let part: ReadableStreamReadResult<string>
    try {
      part = await reader.read()
    } catch (cause) {
      if (signal.aborted) throw cause
      throw unreachable()
    }
    rest += part.value ?? ''
    const lines = rest.split('\n')
    rest = part.done ? '' : (lines.pop() ?? '')
    for (const text of lines) {
      if (!text.trim()) continue
      const line = JSON.parse(text) as Line
      if (line.error) throw new ApiError(0, line.error.message ?? 'The live view broke off.')
      if (!line.result) continue
      tell(line.result)
      if (line.result.over) return
    }
    if (part.done) throw new ApiError(0, 'The live view broke off.')
  }
}
