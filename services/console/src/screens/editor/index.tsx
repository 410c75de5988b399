// A new job, a clone, or a change of one: chooses what the form begins with.
import { Button, Code } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { Link, useParams, useSearchParams } from 'react-router'
import { jobQuery, jobsQuery, templatesQuery } from '../../api/queries'
import type { Job, Template } from '../../api/types'
import { EmptyState, Loaded, Page } from '../../parts/page'
import { myZone } from '../../parts/time'
import { useMay } from '../../shell/session'
import { type Draft, draftOf, freeName, newDraft, sentenceCase, unknownParameters } from './draft'
import { EditorForm } from './form'
import { Gallery } from './gallery'

export function Component() {
  const { id } = useParams()
  const [search] = useSearchParams()
  const may = useMay('super_admin')
  const from = search.get('from')
  const type = search.get('template')
  const title = id ? 'Edit job' : 'New job'
  if (!may) {
    return (
      <Page title={title}>
        <EmptyState title="Only super admins make and change jobs" action={<Button component={Link} to={id ? `/jobs/${id}` : '/jobs'} variant="default">{id ? 'Back to the job' : 'Jobs'}</Button>}>
          As an admin you see all jobs and may run those that delete nothing. Ask a super admin for a change of a job, or for their role.
        </EmptyState>
      </Page>
    )
  }
  if (id) return <OfJob key={id} id={id} title={title} />
  if (from) return <OfJob key={from} id={from} clone title={title} />
  if (type) return <OfTemplate key={type} type={type} title={title} />
  return <Gallery />
}

/** Names that begin like the wish, to find a free one; known soon or not at all. */
function useTaken(wish: string | undefined) {
  const query = useQuery({ ...jobsQuery({ search: wish, limit: 100 }), enabled: wish !== undefined, staleTime: 0 })
  return { settled: wish !== undefined && !query.isPending, names: query.data?.jobs.map((job) => job.name) ?? [] }
}

function OfTemplate({ type, title }: { type: string; title: string }) {
  const templates = useQuery(templatesQuery())
  const template = templates.data?.find((t) => t.id === type)
  const taken = useTaken(template && sentenceCase(template.name))
  const query = taken.settled || (templates.data && !template) ? templates : { ...templates, data: undefined }
  if (template && taken.settled) return <Begun template={template} begin={() => renamed(newDraft(template, myZone), taken.names)} />
  return (
    <Page title={title}>
      <Loaded query={query}>{() => <NoTemplate type={type} />}</Loaded>
    </Page>
  )
}

const renamed = (draft: Draft, taken: string[]): Draft => ({ ...draft, name: freeName(draft.name, taken) })

function OfJob({ id, clone = false, title }: { id: string; clone?: boolean; title: string }) {
  const templates = useQuery(templatesQuery())
  const job = useQuery({ ...jobQuery(id), staleTime: 0 })
  const wish = clone && job.data ? `${job.data.name} copy` : undefined
  const taken = useTaken(wish)
  // Begins with the job as it is now, not as another screen once saw it.
  const fresh = job.isFetchedAfterMount ? job.data : undefined
  const template = templates.data?.find((t) => t.id === fresh?.template_type)
  if (fresh && template && (!clone || taken.settled)) {
    const gone = unknownParameters(fresh, template)
    const notice = gone.length ? `The template does not know ${gone.join(', ')} any more: saving leaves ${gone.length > 1 ? 'these parameters' : 'this parameter'} out.` : undefined
    const draft = () => draftOf(fresh, template, myZone)
    return clone ? <Begun template={template} begin={() => renamed({ ...draft(), name: wish! }, taken.names)} notice={notice} /> : <Edited job={fresh} template={template} refetch={() => job.refetch()} notice={notice} />
  }
  return (
    <Page title={title}>
      <Loaded query={job.error ? { ...job, data: undefined } : templates.data && fresh && !template ? job : { ...templates, data: undefined }}>{() => <NoTemplate type={fresh?.template_type ?? ''} />}</Loaded>
    </Page>
  )
}

// What the form begins with is decided once: later answers must not change what
// somebody types.
function Begun({ template, begin, notice }: { template: Template; begin: () => Draft; notice?: string }) {
  const [start] = useState(() => ({ template, draft: begin() }))
  return <EditorForm template={start.template} initial={start.draft} job={null} notice={notice} reload={() => {}} />
}

function Edited({ job, template, refetch, notice }: { job: Job; template: Template; refetch: () => Promise<{ data?: Job }>; notice?: string }) {
  const [start, setStart] = useState(() => ({ job, template, draft: draftOf(job, template, myZone) }))
  async function reload() {
    const { data } = await refetch()
    if (data) setStart({ job: data, template, draft: draftOf(data, template, myZone) })
  }
  return <EditorForm key={start.job.version} template={start.template} initial={start.draft} job={start.job} notice={notice} reload={() => void reload()} />
}

const NoTemplate = ({ type }: { type: string }) => (
  <EmptyState title="This template is not known" action={<Button component={Link} to="/jobs/new">Choose a template</Button>}>
    No worker has announced <Code>{type}</Code>. Start one that has it, or choose another template.
  </EmptyState>
)
