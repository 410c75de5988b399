// The questions that the editor asks before something is lost or deleted.
import { Button, Group, Modal, Stack, Text, TextInput } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { type FormEvent, useState } from 'react'
import { auditQuery } from '../../api/queries'
import { RelativeTime } from '../../parts/time'

type DeletionProps = {
  name: string
  opened: boolean
  /** What a dry run of exactly these values found; undefined when there was none, null
   * when it did not say. */
  records: number | null | undefined
  busy: boolean
  close: () => void
  tryIt: () => void
  save: () => void
}

/** Whether what was typed is that number, however it is grouped. */
export const isNumber = (typed: string, wanted: number) => /^\d+$/.test(typed.replace(/[\s,.']/g, '')) && Number(typed.replace(/[\s,.']/g, '')) === wanted

/** Asks for the number that the dry run found, before a job that really deletes is saved. */
export function ConfirmDeletion({ opened, close, ...rest }: DeletionProps) {
  return (
    <Modal opened={opened} onClose={close} title="This job really deletes">
      <Asking close={close} {...rest} />
    </Modal>
  )
}

function Asking({ name, records, busy, close, tryIt, save }: Omit<DeletionProps, 'opened'>) {
  const [typed, setTyped] = useState('')
  if (records === undefined) {
    return (
      <Stack>
        <Text size="sm">
          “{name}” is about to delete for real, and it has not been tried with exactly these values. Make a dry run first: it counts what would be deleted and deletes nothing. Then save with
          that number.
        </Text>
        <Group justify="flex-end">
          <Button variant="default" onClick={close}>
            Back to the form
          </Button>
          <Button onClick={tryIt}>Make a dry run</Button>
        </Group>
      </Stack>
    )
  }
  const wanted = records === null ? name : records.toLocaleString('en')
  const right = records === null ? typed.trim() === name : isNumber(typed, records)
  function submit(event: FormEvent) {
    event.preventDefault()
    if (right) save()
  }
  return (
    <form onSubmit={submit}>
      <Stack>
        <Text size="sm">
          {records === null ? 'The dry run of exactly these values went well.' : `The dry run of exactly these values found ${wanted} ${records === 1 ? 'record' : 'records'}.`} Each run of “{name}” deletes what it finds
          then, without asking again, and it cannot be undone.
        </Text>
        <TextInput label={`Type ${wanted} to confirm`} value={typed} onChange={(e) => setTyped(e.currentTarget.value)} autoComplete="off" data-autofocus />
        <Group justify="flex-end">
          <Button variant="default" onClick={close}>
            Back to the form
          </Button>
          <Button type="submit" color="red" disabled={!right} loading={busy}>
            Save and let it delete
          </Button>
        </Group>
      </Stack>
    </form>
  )
}

type ConflictProps = { id: string; name: string; opened: boolean; busy: boolean; close: () => void; load: () => void; overwrite: () => void }

/** Says that somebody was faster, and offers both ways on. */
export function Conflict({ id, name, opened, busy, close, load, overwrite }: ConflictProps) {
  const audit = useQuery({ ...auditQuery({ object: id, limit: 1 }), enabled: opened, staleTime: 0 })
  const last = audit.data?.entries[0]
  return (
    <Modal opened={opened} onClose={close} title="The job was changed meanwhile">
      <Stack>
        <Text size="sm">
          {last ? (
            <>
              <b>{last.user}</b> changed “{name}” <RelativeTime at={last.at} />, after you opened it.
            </>
          ) : (
            <>Somebody changed “{name}” after you opened it.</>
          )}{' '}
          Nothing of yours is saved yet.
        </Text>
        <Text size="sm">You can save yours all the same: only the fields that you changed are overwritten. Or load the job as it is now; what you typed is then lost.</Text>
        <Group justify="flex-end">
          <Button variant="default" onClick={load}>
            Load the job as it is
          </Button>
          <Button onClick={overwrite} loading={busy}>
            Save mine
          </Button>
        </Group>
      </Stack>
    </Modal>
  )
}

/** Asks before what was typed is left behind. */
export function Leaving({ opened, stay, leave }: { opened: boolean; stay: () => void; leave: () => void }) {
  return (
    <Modal opened={opened} onClose={stay} title="Leave without saving?">
      <Stack>
        <Text size="sm">What you changed on this page is not saved and would be lost.</Text>
        <Group justify="flex-end">
          <Button variant="default" onClick={leave}>
            Leave
          </Button>
          <Button onClick={stay} data-autofocus>
            Stay here
          </Button>
        </Group>
      </Stack>
    </Modal>
  )
}
