// What a screen shows is in its address, so that it can be kept and passed on.
import { useSearchParams } from 'react-router'

/** The parameters of the address, and what changes one: an empty value takes it out,
 * and any change but that of the page goes to the first page. Changes replace the
 * entry in the browser's history; with pagesKept, turning a page adds one. */
export function useAddress({ pagesKept = false } = {}) {
  const [params, setParams] = useSearchParams()
  const change = (name: string, value: string) =>
    setParams(
      (now) => {
        if (name !== 'page') now.delete('page')
        if (value) now.set(name, value)
        else now.delete(name)
        return now
      },
      { replace: !pagesKept || name !== 'page' },
    )
  const clear = () => setParams({}, { replace: true })
  return { params, change, clear }
}

/** Whether every word of a search occurs in the text, in any case. */
export function hasWords(text: string, search: string): boolean {
  const lower = text.toLowerCase()
  return search.toLowerCase().split(/\s+/).every((word) => lower.includes(word))
}
