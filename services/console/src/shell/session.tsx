// Who is logged in, and what they may do. The registry decides; the console only
// leaves out what it would refuse, or says why.
import { createContext, type ReactNode, useContext } from 'react'
import type { Role, Session } from '../api/types'

const ranks: Role[] = ['user', 'admin', 'super_admin']

const Context = createContext<Session | null>(null)

export const SessionProvider = ({ session, children }: { session: Session; children: ReactNode }) => (
  <Context.Provider value={session}>{children}</Context.Provider>
)

/** The session; only for what is shown to those who are logged in. */
export function useSession(): Session {
  const session = useContext(Context)
  if (!session) throw new Error('useSession outside of a session')
  return session
}

/** Whether the user has at least this role. */
export function useMay(least: Role): boolean {
  return ranks.indexOf(useSession().role) >= ranks.indexOf(least)
}

export const roleNames: Record<Role, string> = { super_admin: 'super admin', admin: 'admin', user: 'user' }
