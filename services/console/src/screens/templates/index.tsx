import { useQuery } from '@tanstack/react-query'
import { useSearchParams } from 'react-router'
import { templatesQuery } from '../../api/queries'
import { useLive } from '../../shell/live'
import { Detail } from './detail'
import { Gallery } from './gallery'

/** The templates: all of them, or the one that ?type= names. */
export function Component() {
  const [search] = useSearchParams()
  const { every } = useLive()
  // Workers come and go, and with them what is available.
  const templates = useQuery({ ...templatesQuery(), refetchInterval: every(15_000) })
  const type = search.get('type')
  return type ? <Detail type={type} templates={templates} /> : <Gallery templates={templates} />
}
