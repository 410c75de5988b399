// Whether screens keep themselves up to date. Paused, nothing on a screen moves
// until its reader asks for it.
import { createContext, type ReactNode, useCallback, useContext, useMemo, useState } from 'react'

type Live = {
  live: boolean
  setLive: (live: boolean) => void
  /** For refetchInterval of a query: the pace, or false while paused. */
  every: (milliseconds: number) => number | false
}

const Context = createContext<Live>({ live: true, setLive: () => {}, every: (ms) => ms })

export function LiveProvider({ children }: { children: ReactNode }) {
  const [live, setLive] = useState(true)
  const every = useCallback((milliseconds: number) => (live ? milliseconds : (false as const)), [live])
  const value = useMemo(() => ({ live, setLive, every }), [live, every])
  return <Context.Provider value={value}>{children}</Context.Provider>
}

export const useLive = () => useContext(Context)
